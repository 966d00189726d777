"""Attention over texts that begin alike: the beginning is read once, and each text that goes on from it sees it.

For scoring short rows; training packs whole documents, which share nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np

# A position of document d (from 1) has the segment `d * MOST + b`: with b = 0 it is of the beginning that all share,
# else of branch b.
MOST = 4


def attend(
    q_HxNxBxT: jax.Array, k_KxNxBxT: jax.Array, v_KxNxBxT: jax.Array, segments_BxT: jax.Array
) -> jax.Array:
    """As caml/models/attention.py says, where a position of a branch sees the beginning and its own branch."""
    H, N, B, T = q_HxNxBxT.shape
    K = k_KxNxBxT.shape[0]
    # Rows and heads in front: products of small matrices, of which XLA makes one call.
    q_BxKxGTxN = q_HxNxBxT.reshape(K, H // K, N, B, T).transpose(3, 0, 1, 4, 2).reshape(B, K, H // K * T, N)
    k_BxKxTxN, v_BxKxTxN = (x.transpose(2, 0, 3, 1) for x in (k_KxNxBxT, v_KxNxBxT))
    scores = jnp.einsum("bkqn,bksn->bkqs", q_BxKxGTxN, k_BxKxTxN, preferred_element_type=jnp.float32)
    document, branch = segments_BxT // MOST, segments_BxT % MOST
    same = document[:, :, None] == document[:, None, :]
    onward = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    seen_BxTxS = same & onward & np.tril(np.ones((T, T), bool))
    seen = jnp.tile(seen_BxTxS, (1, H // K, 1))[:, None]
    weights = jax.nn.softmax(jnp.where(seen, scores * N**-0.5, -jnp.inf), axis=-1)
    out_BxKxGTxN = jnp.einsum(
        "bkqs,bksn->bkqn", weights.astype(v_BxKxTxN.dtype), v_BxKxTxN, preferred_element_type=jnp.float32
    ).astype(q_HxNxBxT.dtype)
    return out_BxKxGTxN.reshape(B, K, H // K, T, N).transpose(1, 2, 4, 0, 3).reshape(H, N, B, T)
