"""The gradient of SwiGLU on a GPU, in one pass over memory.

Gates and what they let through come as one product, the ones below the others, and so does its gradient go back: XLA
would compute the two halves of it each by itself, and then join them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# Neurons and positions of a program.
NEURONS, OWN = 16, 128


def fits(neurons: int, positions: int) -> bool:
    """Whether so many neurons, at so many positions in all, fill programs."""
    return neurons % NEURONS == 0 and positions % OWN == 0


def _kernel(joint_2xMxS: Any, g_MxS: Any, d_joint_2xMxS: Any) -> None:
    gate, up = (joint_2xMxS[half].astype(jnp.float32) for half in (0, 1))
    g = g_MxS[...].astype(jnp.float32)
    share = jax.nn.sigmoid(gate)
    kind = d_joint_2xMxS.dtype
    d_joint_2xMxS[0] = (g * up * share * (1.0 + gate * (1.0 - share))).astype(kind)
    d_joint_2xMxS[1] = (g * gate * share).astype(kind)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def swiglu(joint_OxN: jax.Array, interpret: bool = False) -> jax.Array:
    """`silu(gate) * up`, `[M, N]`, of gates and ups `[2 * M, N]`, the ones below the others.

    `interpret` runs the kernel on any platform, slowly.
    """
    return _forward(joint_OxN, interpret)[0]


def _forward(joint_OxN: jax.Array, interpret: bool) -> tuple[jax.Array, jax.Array]:
    gate, up = jnp.split(joint_OxN, 2)
    return jax.nn.silu(gate) * up, joint_OxN


def _backward(interpret: bool, joint_OxN: jax.Array, g_MxN: jax.Array) -> tuple[jax.Array]:
    neurons, tokens = g_MxN.shape
    both = pl.BlockSpec((2, NEURONS, OWN), lambda i, j: (0, i, j))
    joint_2xMxN = joint_OxN.reshape(2, neurons, tokens)
    d_joint_2xMxN = pl.pallas_call(
        _kernel,
        name="swiglu_backward",
        grid=(neurons // NEURONS, tokens // OWN),
        in_specs=[both, pl.BlockSpec((NEURONS, OWN), lambda i, j: (i, j))],
        out_specs=both,
        out_shape=jax.ShapeDtypeStruct(joint_2xMxN.shape, joint_OxN.dtype),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
    )(joint_2xMxN, g_MxN)
    return (d_joint_2xMxN.reshape(joint_OxN.shape),)


swiglu.defvjp(_forward, _backward)
