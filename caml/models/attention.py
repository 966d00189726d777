"""Causal attention within the documents of packed sequences."""

import jax
import jax.numpy as jnp


def attend(
    q_BxTxHxN: jax.Array, k_BxTxKxN: jax.Array, v_BxTxKxN: jax.Array, segments_BxT: jax.Array
) -> jax.Array:
    """Softmax attention, `[B, T, H, N]`; a position sees itself and what is before it in its segment.

    Query head h uses key-value head h // (H / K). Padding (segment 0) is a segment like any other, so no
    row is without a key.
    """
    B, T, H, N = q_BxTxHxN.shape
    K = k_BxTxKxN.shape[2]
    q_BxTxKxGxN = q_BxTxHxN.reshape(B, T, K, H // K, N)
    scores_BxKxGxTxS = jnp.einsum(
        "btkgn,bskn->bkgts", q_BxTxKxGxN, k_BxTxKxN, preferred_element_type=jnp.float32
    )
    seen_BxTxS = (segments_BxT[:, :, None] == segments_BxT[:, None, :]) & jnp.tril(jnp.ones((T, T), bool))
    scores_BxKxGxTxS = jnp.where(seen_BxTxS[:, None, None], scores_BxKxGxTxS * N**-0.5, -1e30)
    weights_BxKxGxTxS = jax.nn.softmax(scores_BxKxGxTxS, axis=-1).astype(q_BxTxHxN.dtype)
    return jnp.einsum("bkgts,bskn->btkgn", weights_BxKxGxTxS, v_BxTxKxN).reshape(B, T, H, N)
