"""Attention on a GPU: JAX's own flash attention in Pallas and Triton, which honours segments.

Dao 2023, FlashAttention-2 (arXiv 2307.08691). It adds up in a fixed order (no atomics), so its bits repeat.
cuDNN's kernel is not used: in JAX it takes no segment ids in training but as a bias of the square of scores.
"""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu.attention import BlockSizes, mha

# Positions in a block, forward and backward, and the fewest numbers of a head that its products take.
FORWARD, BACKWARD, NUMBERS = 128, 64, 16


def attend(
    q_HxNxBxT: jax.Array,
    k_KxNxBxT: jax.Array,
    v_KxNxBxT: jax.Array,
    segments_BxT: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """As caml/models/attention.py says; `interpret` runs the kernel on any platform, slowly."""
    H, N, _, T = q_HxNxBxT.shape
    # Whole blocks: what is added is a segment of its own, and heads grow by zeros.
    block = min(FORWARD, max(NUMBERS, 1 << (T - 1).bit_length()))
    more, numbers = -T % block, max(0, NUMBERS - N)

    def prepared(x_KxNxBxT: jax.Array) -> jax.Array:
        x_BxTxKxN = jnp.pad(x_KxNxBxT.transpose(2, 3, 0, 1), ((0, 0), (0, more), (0, 0), (0, numbers)))
        return jnp.repeat(x_BxTxKxN, H // x_KxNxBxT.shape[0], axis=2)

    small = min(BACKWARD, block)
    out_BxTxHxN = mha(
        *map(prepared, (q_HxNxBxT, k_KxNxBxT, v_KxNxBxT)),
        jnp.pad(segments_BxT, ((0, 0), (0, more)), constant_values=-1),
        sm_scale=N**-0.5,
        causal=True,
        block_sizes=BlockSizes(block, block, small, small, small, small),
        interpret=interpret,
    )
    return out_BxTxHxN[:, :T, :, :N].transpose(2, 3, 0, 1)
