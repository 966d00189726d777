"""Pieces of a batch, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Bytes that the float32 logits of a piece take at most, by platform. A GPU's was measured (experiments/LOG.md);
# ELSEWHERE is what a TPU can spare, and was not.
PIECE_BYTES = {"cpu": 64 * 2**20, "gpu": 2**30}
ELSEWHERE_BYTES = 2**28


def piece_bytes() -> int:
    """Bytes that the float32 logits of a piece take at most on this platform."""
    return PIECE_BYTES.get(jax.default_backend(), ELSEWHERE_BYTES)


def scan_pieces(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, pieces: Any) -> tuple[Any, Any]:
    """`jax.lax.scan(body, carry, pieces)`, with each piece in arrays of its own before `body` reads it.

    Of `scan` itself, XLA on a CPU puts the slicing of a piece into every loop that reads one, and cannot vectorise
    such a loop: masks of attention take seven times as long (experiments/LOG.md). The bits are the same.
    """
    count = jax.tree.leaves(pieces)[0].shape[0]

    def piece(i: jax.Array) -> Any:
        return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), pieces)

    def step(held: tuple[Any, Any], i: jax.Array) -> tuple[tuple[Any, Any], Any]:
        carry, out = body(*held)
        return (carry, piece(jnp.minimum(i + 1, count - 1))), out

    (carry, _), out = jax.lax.scan(step, (carry, piece(jnp.int32(0))), jnp.arange(count))
    return carry, out
