"""Attention on a GPU: FlashAttention-2 in Pallas and Triton, which leaves out what another document holds.

Dao 2023 (arXiv 2307.08691). A position knows where its document begins and ends, so a block of queries reads the keys
from there on alone, and only blocks at an edge are masked. Everything is added up in a fixed order (no atomics), so
bits repeat; that is why the gradients of queries and of keys are computed by two kernels. Arrays stay in the house's
order. Measured against JAX's own kernels, Triton's and cuDNN's: experiments/LOG.md.

JAX means to drop Triton from Pallas one day; the kernel then moves to Pallas' Mosaic, which needs a Hopper.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# Positions in a block: of what a program of the grid owns, and of what it reads one after the other. Of these, and of
# what a block holds of a head, products take no fewer than LEAST.
OWN, READ, READ_BACKWARD, LEAST = 64, 64, 32, 16
NEVER = -1e30
LOG2_E = math.log2(math.e)


class Read(NamedTuple):
    """Blocks that a program reads: those from `first` to `end`, of which those from `free` to `bound` need no mask."""

    first: Any
    free: Any
    bound: Any
    end: Any

    def fold(self, body: Callable[..., Any], carry: Any) -> Any:
        """`body(block, carry, masked)` over all of them in order."""
        free = jnp.clip(self.free, self.first, jnp.maximum(self.first, self.bound))
        bound = jnp.maximum(free, self.bound)
        for first, end, masked in ((self.first, free, True), (free, bound, False), (bound, self.end, True)):
            carry = jax.lax.fori_loop(first, end, functools.partial(body, masked=masked), carry)
        return carry


def _keys(query: Any, starts_Q: jax.Array, of_queries: int, of_keys: int) -> Read:
    """The blocks of keys that the block `query` of queries sees; `starts_Q`: where the queries' documents begin."""
    return Read(
        jnp.min(starts_Q) // of_keys,
        (jnp.max(starts_Q) + of_keys - 1) // of_keys,
        query * of_queries // of_keys,
        ((query + 1) * of_queries + of_keys - 1) // of_keys,
    )


def _queries(key: Any, ends_S: jax.Array, of_queries: int, of_keys: int) -> Read:
    """The blocks of queries that see the block `key` of keys; `ends_S`: where the keys' documents end."""
    return Read(
        key * of_keys // of_queries,
        ((key + 1) * of_keys + of_queries - 1) // of_queries,
        jnp.min(ends_S) // of_queries,
        (jnp.max(ends_S) + of_queries - 1) // of_queries,
    )


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """A product in float32, of float32 factors exactly so."""
    exact = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return triton.dot(a, b, precision=exact)


def _at(block: Any, size: int) -> jax.Array:
    """The positions of a block."""
    return block * size + jnp.arange(size)


def _seen(at_S: jax.Array, at_Q: jax.Array, starts_Q: jax.Array) -> jax.Array:
    """Which keys `[Q, S]` queries see, whose documents begin at `starts_Q`."""
    return (at_S[None, :] <= at_Q[:, None]) & (at_S[None, :] >= starts_Q[:, None])


def _forward_kernel(
    q_NxQ: Any, k_NxT: Any, v_NxT: Any, starts_Q: Any, out_NxQ: Any, total_Q: Any, size: int, scale: float
) -> None:
    """Output of a block of queries, and the base-2 logarithm of the sum of its weights."""
    N, own = q_NxQ.shape
    query, q_QxN, starts = pl.program_id(0), q_NxQ[...].T, starts_Q[...]
    at_Q = _at(query, own)

    def body(key: Any, carry: tuple, masked: bool) -> tuple:
        out_QxN, peak_Q, total_Q = carry
        part = pl.ds(key * size, size)
        scores_QxS = _dot(q_QxN, k_NxT[:, part]) * scale
        if masked:
            scores_QxS = jnp.where(_seen(_at(key, size), at_Q, starts), scores_QxS, NEVER)
        higher_Q = jnp.maximum(peak_Q, jnp.max(scores_QxS, 1))
        weights_QxS = jnp.exp2(scores_QxS - higher_Q[:, None])
        less_Q = jnp.exp2(peak_Q - higher_Q)
        v_SxN = v_NxT[:, part].T
        out_QxN = out_QxN * less_Q[:, None] + _dot(weights_QxS.astype(v_SxN.dtype), v_SxN)
        return out_QxN, higher_Q, total_Q * less_Q + jnp.sum(weights_QxS, 1)

    nothing = jnp.zeros((own, N), jnp.float32), jnp.full((own,), -jnp.inf), jnp.zeros((own,), jnp.float32)
    out, peak, total = _keys(query, starts, own, size).fold(body, nothing)
    out_NxQ[...] = (out / total[:, None]).astype(out_NxQ.dtype).T
    total_Q[...] = peak + jnp.log2(total)


def _queries_kernel(
    q_NxQ: Any, k_NxT: Any, v_NxT: Any, starts_Q: Any, g_NxQ: Any, total_Q: Any, inner_Q: Any, dq_NxQ: Any,
    size: int, scale: float,
) -> None:  # fmt: skip
    """The gradient of a block of queries."""
    N, own = q_NxQ.shape
    query, q_QxN, g_QxN, starts = pl.program_id(0), q_NxQ[...].T, g_NxQ[...].T, starts_Q[...]
    total, inner, at_Q = total_Q[...], inner_Q[...], _at(query, own)

    def body(key: Any, dq_QxN: jax.Array, masked: bool) -> jax.Array:
        part = pl.ds(key * size, size)
        k_NxS = k_NxT[:, part]
        weights_QxS = jnp.exp2(_dot(q_QxN, k_NxS) * scale - total[:, None])
        if masked:
            weights_QxS = jnp.where(_seen(_at(key, size), at_Q, starts), weights_QxS, 0.0)
        d_scores_QxS = weights_QxS * (_dot(g_QxN, v_NxT[:, part]) - inner[:, None])
        return dq_QxN + _dot(d_scores_QxS.astype(k_NxS.dtype), k_NxS.T)

    dq = _keys(query, starts, own, size).fold(body, jnp.zeros((own, N), jnp.float32))
    dq_NxQ[...] = (dq * (scale / LOG2_E)).astype(dq_NxQ.dtype).T


def _keys_kernel(
    q_GxNxT: Any, k_NxS: Any, v_NxS: Any, ends_S: Any, g_GxNxT: Any, total_GxT: Any, inner_GxT: Any, dk_NxS: Any,
    dv_NxS: Any, size: int, scale: float,
) -> None:  # fmt: skip
    """The gradients of a block of keys and values, from all heads of queries that share them."""
    N, own = k_NxS.shape
    key, k_SxN, v_SxN, ends = pl.program_id(0), k_NxS[...].T, v_NxS[...].T, ends_S[...]
    at_S, read = _at(key, own), _queries(key, ends, size, own)
    dk_and_dv = jnp.zeros((own, N), jnp.float32), jnp.zeros((own, N), jnp.float32)
    for head in range(q_GxNxT.shape[0]):

        def body(query: Any, carry: tuple, masked: bool, head: int = head) -> tuple:
            dk_SxN, dv_SxN = carry
            part = pl.ds(query * size, size)
            q_NxQ, g_NxQ = q_GxNxT[head, :, part], g_GxNxT[head, :, part]
            weights_SxQ = jnp.exp2(_dot(k_SxN, q_NxQ) * scale - total_GxT[head, part][None, :])
            if masked:
                at_Q = _at(query, size)
                seen = (at_S[:, None] <= at_Q[None, :]) & (ends[:, None] > at_Q[None, :])
                weights_SxQ = jnp.where(seen, weights_SxQ, 0.0)
            d_scores_SxQ = weights_SxQ * (_dot(v_SxN, g_NxQ) - inner_GxT[head, part][None, :])
            return (
                dk_SxN + _dot(d_scores_SxQ.astype(q_NxQ.dtype), q_NxQ.T),
                dv_SxN + _dot(weights_SxQ.astype(g_NxQ.dtype), g_NxQ.T),
            )

        dk_and_dv = read.fold(body, dk_and_dv)
    dk_NxS[...] = (dk_and_dv[0] * (scale / LOG2_E)).astype(dk_NxS.dtype).T
    dv_NxS[...] = dk_and_dv[1].astype(dv_NxS.dtype).T


def _call(
    kernel: Callable[..., None], read: int, like: jax.Array, numbers: int, interpret: bool, **asked: Any
) -> Any:
    """A call of a kernel that reads `read` positions at a time of arrays `like`; scores come in base 2."""
    # As many blocks on their way as an older GPU has room for.
    row = like.dtype.itemsize * like.shape[1]
    return pl.pallas_call(
        functools.partial(kernel, size=read, scale=LOG2_E * numbers**-0.5),
        compiler_params=triton.CompilerParams(
            num_warps=4, num_stages=3 if row <= 128 else 2 if row <= 256 else 1
        ),
        interpret=interpret,
        **asked,
    )


def _blocks(size: int) -> pl.BlockSpec:
    """Of an array `[B, T]`, by block, head and sequence."""
    return pl.BlockSpec((None, size), lambda i, h, b: (b, i))


def _of_heads(N: int, size: int) -> pl.BlockSpec:
    """Of an array `[H, N, B, T]`."""
    return pl.BlockSpec((None, N, None, size), lambda i, h, b: (h, 0, b, i))


def _of_shared(N: int, T: int, group: int) -> pl.BlockSpec:
    """Of an array `[K, N, B, T]`, the whole sequence of the head that `group` heads of queries share."""
    return pl.BlockSpec((None, N, None, T), lambda i, h, b: (h // group, 0, b, 0))


def _sums(size: int) -> pl.BlockSpec:
    """Of an array `[H, B, T]`."""
    return pl.BlockSpec((None, None, size), lambda i, h, b: (h, b, i))


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, starts: jax.Array, numbers: int, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    H, N, B, T = q.shape
    own, read, whole = min(OWN, T), min(READ, T), _of_shared(N, T, H // k.shape[0])
    return _call(
        _forward_kernel, read, q, numbers, interpret,
        name="attention",
        grid=(T // own, H, B),
        in_specs=[_of_heads(N, own), whole, whole, _blocks(own)],
        out_specs=[_of_heads(N, own), _sums(own)],
        out_shape=[jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((H, B, T), jnp.float32)],
    )(q, k, v, starts)  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(
    q_HxNxBxT: jax.Array, k_KxNxBxT: jax.Array, v_KxNxBxT: jax.Array, starts_BxT: jax.Array, ends_BxT: jax.Array,
    numbers: int, interpret: bool,
) -> jax.Array:  # fmt: skip
    """Of whole blocks; heads have `numbers` numbers and zeros."""
    return _forward(q_HxNxBxT, k_KxNxBxT, v_KxNxBxT, starts_BxT, numbers, interpret)[0]


def _attention_forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    starts: jax.Array,
    ends: jax.Array,
    numbers: int,
    interpret: bool,
) -> tuple[jax.Array, tuple]:
    out, total = _forward(q, k, v, starts, numbers, interpret)
    return out, (q, k, v, starts, ends, out, total)


def _attention_backward(numbers: int, interpret: bool, saved: tuple, g: jax.Array) -> tuple:
    q, k, v, starts, ends, out, total = saved
    (H, N, B, T), K = q.shape, k.shape[0]
    group = H // K
    own, read, whole = min(OWN, T), min(READ_BACKWARD, T), _of_shared(N, T, group)
    # The softmax's own term, from the output instead of the weights.
    inner_HxBxT = jnp.sum(out.astype(jnp.float32) * g.astype(jnp.float32), 1)
    dq = _call(
        _queries_kernel, read, q, numbers, interpret,
        name="attention_queries",
        grid=(T // own, H, B),
        in_specs=[_of_heads(N, own), whole, whole, _blocks(own), _of_heads(N, own), _sums(own), _sums(own)],
        out_specs=_of_heads(N, own),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
    )(q, k, v, starts, g, total, inner_HxBxT)  # fmt: skip
    shared = pl.BlockSpec((None, group, N, None, T), lambda i, h, b: (h, 0, 0, b, 0))
    shared_sums = pl.BlockSpec((None, group, None, T), lambda i, h, b: (h, 0, b, 0))
    dk, dv = _call(
        _keys_kernel, read, q, numbers, interpret,
        name="attention_keys",
        grid=(T // own, K, B),
        in_specs=[shared, _of_heads(N, own), _of_heads(N, own), _blocks(own), shared, shared_sums, shared_sums],
        out_specs=[_of_heads(N, own), _of_heads(N, own)],
        out_shape=[jax.ShapeDtypeStruct(k.shape, k.dtype)] * 2,
    )(
        q.reshape(K, group, N, B, T), k, v, ends, g.reshape(K, group, N, B, T),
        *(x.reshape(K, group, B, T) for x in (total, inner_HxBxT)),
    )  # fmt: skip
    return dq, dk, dv, None, None


_attention.defvjp(_attention_forward, _attention_backward)


def edges(segments_BxT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the segment of each position begins, and where it ends (the position after its last)."""
    T = segments_BxT.shape[1]
    at = jnp.arange(T, dtype=jnp.int32)
    edge = jnp.ones_like(segments_BxT[:, :1], bool)
    begins = jnp.concatenate([edge, segments_BxT[:, 1:] != segments_BxT[:, :-1]], 1)
    ends = jnp.concatenate([begins[:, 1:], edge], 1)
    return (
        jax.lax.cummax(jnp.where(begins, at, 0), axis=1),
        jax.lax.cummin(jnp.where(ends, at + 1, T), axis=1, reverse=True),
    )


def attend(
    q_HxNxBxT: jax.Array,
    k_KxNxBxT: jax.Array,
    v_KxNxBxT: jax.Array,
    segments_BxT: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """As caml/models/attention.py says; `interpret` runs the kernel on any platform, slowly."""
    _, N, _, T = q_HxNxBxT.shape
    # Whole blocks: what is added is a segment of its own, and heads grow by zeros.
    more = -T % min(OWN, max(LEAST, 1 << (T - 1).bit_length()))
    zeros = max(LEAST, 1 << (N - 1).bit_length()) - N

    def prepared(x_KxNxBxT: jax.Array) -> jax.Array:
        return jnp.pad(x_KxNxBxT, ((0, 0), (0, zeros), (0, 0), (0, more)))

    starts, ends = edges(jnp.pad(segments_BxT, ((0, 0), (0, more)), constant_values=-1))
    out = _attention(*map(prepared, (q_HxNxBxT, k_KxNxBxT, v_KxNxBxT)), starts, ends, N, interpret)
    return out[:, :N, :, :T]
