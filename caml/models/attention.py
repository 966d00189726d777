"""Causal attention within the documents of packed sequences: one interface, a kernel for each platform.

Every kernel computes the same, outputs and gradients, to within rounding: `plain` is the textbook's and the truth in
tests. In names of arrays: B sequences, T positions, H heads, K key-value heads, N numbers in a head.
"""

import importlib

import jax

# By platform. `plain` runs everywhere, and holds a square of scores for every head in memory.
KERNELS = {"cpu": "blocks", "gpu": "triton", "tpu": "splash"}


def kernel_of(platform: str) -> str:
    """The kernel with which a platform computes attention."""
    return KERNELS.get(platform, "plain")


def attend(
    q_HxNxBxT: jax.Array,
    k_KxNxBxT: jax.Array,
    v_KxNxBxT: jax.Array,
    segments_BxT: jax.Array,
    kernel: str = "",
) -> jax.Array:
    """Softmax attention, `[H, N, B, T]`; a position sees itself and what is before it in its segment.

    A segment is a run of equal ids. Padding (segment 0) is a segment like any other, so no query is without a key.
    Query head h uses key-value head h // (H / K). Scores are scaled by 1 / sqrt(N) and summed in float32. `kernel`
    names a module of caml/models/kernels (empty: that of the platform on which this process computes).
    """
    name = kernel or kernel_of(jax.default_backend())
    # Imported where it is used: the kernels of accelerators bring a compiler of their own.
    run = importlib.import_module(f"caml.models.kernels.{name}").attend
    return run(q_HxNxBxT, k_KxNxBxT, v_KxNxBxT, segments_BxT)
