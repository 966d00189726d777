"""Attention on a TPU: JAX's splash attention in Pallas, which honours segments and skips what is masked."""

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import CausalMask, MultiHeadMask

# Positions in a block at most; a block is a whole number of a TPU's lanes.
BLOCK, LANES = 512, 128


def attend(
    q_HxNxBxT: jax.Array,
    k_KxNxBxT: jax.Array,
    v_KxNxBxT: jax.Array,
    segments_BxT: jax.Array,
    interpret: bool = False,
) -> jax.Array:
    """As caml/models/attention.py says; `interpret` runs the kernel on any platform, slowly."""
    H, N, _, T = q_HxNxBxT.shape
    # Whole blocks: what is added is a segment of its own.
    length = T + -T % LANES
    block = max(b for b in range(LANES, BLOCK + 1, LANES) if length % b == 0)

    def prepared(x_KxNxBxT: jax.Array) -> jax.Array:
        return jnp.pad(x_KxNxBxT.transpose(2, 0, 3, 1), ((0, 0), (0, 0), (0, length - T), (0, 0)))

    segments = jnp.pad(segments_BxT, ((0, 0), (0, length - T)), constant_values=-1)
    kernel = splash.make_splash_mha_single_device(
        MultiHeadMask([CausalMask((length, length))] * H),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )
    q_BxHxTxN = prepared(q_HxNxBxT) * N**-0.5
    out_BxHxTxN = jax.vmap(kernel)(
        q_BxHxTxN, prepared(k_KxNxBxT), prepared(v_KxNxBxT), splash.SegmentIds(segments, segments)
    )
    return out_BxHxTxN[:, :, :T].transpose(1, 3, 0, 2).astype(q_HxNxBxT.dtype)
