"""Pieces of a batch, one after the other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


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
