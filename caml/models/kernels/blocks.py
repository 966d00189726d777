"""Attention on a CPU, in blocks of queries.

Positions are on the last axis throughout, those of queries where there are both, so that sums over keys and over the
numbers of a head run down columns: on a CPU that is what vectorises. B sequences, T query positions, S key positions,
H heads, K key-value heads, N numbers in a head.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Queries are taken in blocks of this many, each against the keys up to its end: half of a square of
# scores is masked, and this leaves the larger part of that half out. Of a long sequence larger ones: small products
# cost more than their arithmetic.
BLOCK, LONG_BLOCK = 32, 64
LONG = 128


def _batched(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a[..., i, j] @ b[..., j, k]` over two batch axes, in float32 whatever the factors are in."""
    return jax.lax.dot_general(a, b, (((3,), (2,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)


def _batched_last(a: jax.Array, b: jax.Array) -> jax.Array:
    """`a[..., i, j] @ b[..., k, j]`, likewise."""
    return jax.lax.dot_general(a, b, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)


@jax.custom_vjp
def _softmax_attention(
    q_HxBxNxT: jax.Array, k_HxBxNxS: jax.Array, v_HxBxNxS: jax.Array, seen_BxSxT: jax.Array
) -> jax.Array:
    return _forward(q_HxBxNxT, k_HxBxNxS, v_HxBxNxS, seen_BxSxT)[0]


def _forward(
    q_HxBxNxT: jax.Array, k_HxBxNxS: jax.Array, v_HxBxNxS: jax.Array, seen_BxSxT: jax.Array
) -> tuple[jax.Array, tuple]:
    scores_HxBxSxT = jnp.where(seen_BxSxT, _batched(k_HxBxNxS.swapaxes(2, 3), q_HxBxNxT), -1e30)
    e_HxBxSxT = jnp.exp(scores_HxBxSxT - jnp.max(scores_HxBxSxT, 2, keepdims=True))
    # Dividing the output and not the weights saves a pass over the scores.
    share_HxBx1xT = 1.0 / jnp.sum(e_HxBxSxT, 2, keepdims=True)
    e_HxBxSxT = e_HxBxSxT.astype(q_HxBxNxT.dtype)
    out_HxBxNxT = (_batched(v_HxBxNxS, e_HxBxSxT) * share_HxBx1xT).astype(q_HxBxNxT.dtype)
    return out_HxBxNxT, (q_HxBxNxT, k_HxBxNxS, v_HxBxNxS, e_HxBxSxT, share_HxBx1xT, out_HxBxNxT)


def _backward(saved: tuple, gradient_HxBxNxT: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q_HxBxNxT, k_HxBxNxS, v_HxBxNxS, e_HxBxSxT, share_HxBx1xT, out_HxBxNxT = saved
    v_HxBxSxN = v_HxBxNxS.swapaxes(2, 3)
    g_HxBxNxT = gradient_HxBxNxT * share_HxBx1xT
    # The softmax's own term, from the output instead of the weights: arXiv 2205.14135, appendix B.
    inner_HxBx1xT = jnp.sum(g_HxBxNxT * out_HxBxNxT, 2, keepdims=True)
    g_HxBxNxT = g_HxBxNxT.astype(e_HxBxSxT.dtype)
    if e_HxBxSxT.shape[2] > LONG_BLOCK:
        # The term is taken off inside the product, as one more number of a head: a pass over the scores less.
        one_HxBxSx1 = jnp.ones_like(v_HxBxSxN[..., :1])
        d_weights_HxBxSxT = _batched(
            jnp.concatenate([v_HxBxSxN, one_HxBxSx1], 3),
            jnp.concatenate([g_HxBxNxT, -inner_HxBx1xT.astype(g_HxBxNxT.dtype)], 2),
        )
    else:
        d_weights_HxBxSxT = _batched(v_HxBxSxN, g_HxBxNxT) - inner_HxBx1xT
    d_scores_HxBxSxT = (e_HxBxSxT * d_weights_HxBxSxT).astype(e_HxBxSxT.dtype)
    # Positions last, as what takes these gradients on has them: else it reads them across their rows.
    d_v_HxBxNxS = _batched_last(g_HxBxNxT, e_HxBxSxT)
    d_q_HxBxNxT = _batched(k_HxBxNxS, d_scores_HxBxSxT)
    d_k_HxBxNxS = _batched_last(q_HxBxNxT, d_scores_HxBxSxT)
    kind = q_HxBxNxT.dtype
    return d_q_HxBxNxT.astype(kind), d_k_HxBxNxS.astype(kind), d_v_HxBxNxS.astype(kind), None


_softmax_attention.defvjp(_forward, _backward)


def attend(
    q_HxNxBxT: jax.Array, k_KxNxBxT: jax.Array, v_KxNxBxT: jax.Array, segments_BxT: jax.Array
) -> jax.Array:
    """As caml/models/attention.py says."""
    H, _, _, T = q_HxNxBxT.shape
    groups = H // k_KxNxBxT.shape[0]
    q_HxBxNxT = q_HxNxBxT.swapaxes(1, 2) * q_HxNxBxT.shape[1] ** -0.5
    k_HxBxNxT, v_HxBxNxT = (jnp.repeat(x.swapaxes(1, 2), groups, 0) for x in (k_KxNxBxT, v_KxNxBxT))
    order = np.arange(T)
    seen_BxSxT = (segments_BxT[:, :, None] == segments_BxT[:, None, :]) & (order[:, None] <= order)
    blocks = []
    size = LONG_BLOCK if T >= LONG else BLOCK
    for start in range(0, T, size):
        end = min(start + size, T)
        blocks.append(
            _softmax_attention(
                q_HxBxNxT[..., start:end],
                k_HxBxNxT[..., :end],
                v_HxBxNxT[..., :end],
                seen_BxSxT[:, :end, start:end],
            )
        )
    return jnp.concatenate(blocks, -1).swapaxes(1, 2)
