"""What devices pass to each other where one model lies over several of them.

All of it is of one device, inside `jax.shard_map` over a mesh with the axes `data`, `fsdp` and `tensor`. A device has
its own rows of a batch, those of `tensor` the same ones, and parts of the parameters (caml/training/mesh.py). Over
`fsdp` a matrix is put together where it is used, forward and again backward, and its gradient is added up part by part
(Zhao et al. 2023, arXiv 2304.11277). Over `tensor` a device computes its own heads and neurons (Shoeybi et al. 2019,
arXiv 1909.08053), and its own share of the tokens where words are looked up and where the loss is.

In names of arrays: O outputs and I inputs of a matrix, N tokens, V words, D width; x anything.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from caml.models import products

# Over these axes lie the rows of a batch; along the stream, matrices of layers; along it too, embeddings and heads.
ROWS, FSDP, BOTH = ("data", "fsdp"), ("fsdp",), ("fsdp", "tensor")


def _gathered(part: jax.Array, side: int, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.all_gather(part, axes, axis=side, tiled=True) if jax.lax.axis_size(axes) > 1 else part


def _scattered(whole: jax.Array, side: int, axes: tuple[str, ...]) -> jax.Array:
    if jax.lax.axis_size(axes) == 1:
        return whole
    return jax.lax.psum_scatter(whole, axes, scatter_dimension=side, tiled=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply(part_OxI: jax.Array, x_IxN: jax.Array, side: int) -> jax.Array:
    """`products.multiply`, in the precision of `x`, of a matrix of which each device of `fsdp` has a part of this side.

    All of it is there while it is used, and not kept for the backward pass.
    """
    return _forward(part_OxI, x_IxN, side)[0]


def _forward(part_OxI: jax.Array, x_IxN: jax.Array, side: int) -> tuple[jax.Array, tuple]:
    part_OxI = part_OxI.astype(x_IxN.dtype)
    weight_OxI = _gathered(part_OxI, side, FSDP)
    return products.multiply(weight_OxI, x_IxN, str(x_IxN.dtype)), (part_OxI, x_IxN)


def _backward(side: int, saved: tuple, gradient_OxN: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Without the barrier the compiler would keep what was put together forward.
    (part_OxI, x_IxN), gradient_OxN = jax.lax.optimization_barrier((saved, gradient_OxN))
    d_weight_OxI, d_x_IxN = products.gradients(_gathered(part_OxI, side, FSDP), x_IxN, gradient_OxN)
    return _scattered(d_weight_OxI, side, FSDP), d_x_IxN


multiply.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def words(part_VxD: jax.Array, precision: str) -> jax.Array:
    """All of an embedding or head `[V, D]`, for a device's own tokens; rounded to `precision`, in float32.

    It stays for the whole step, and so does its gradient.
    """
    return _gathered(part_VxD.astype(precision), 1, BOTH).astype(jnp.float32)


words.defvjp(
    lambda part_VxD, precision: (words(part_VxD, precision), None),
    lambda _, __, gradient_VxD: (_scattered(gradient_VxD, 1, BOTH),),
)


def _over_tensor(forward: Callable, backward: Callable) -> Callable:
    """A map of arrays, and that of their gradients, on devices that share their rows; of one alone neither."""

    @jax.custom_vjp
    def run(x: jax.Array) -> jax.Array:
        return forward(x)

    run.defvjp(lambda x: (forward(x), None), lambda _, gradient: (backward(gradient),))

    def unless_alone(x: jax.Array) -> jax.Array:
        return run(x) if jax.lax.axis_size("tensor") > 1 else x

    return unless_alone


def _same(x: jax.Array) -> jax.Array:
    return x


def _added(x: jax.Array) -> jax.Array:
    if jax.default_backend() != "cpu":
        return jax.lax.psum(x, "tensor")
    # XLA's compiler for CPUs ends the process at a sum of bfloat16 over devices.
    return jax.lax.psum(x.astype(jnp.float32), "tensor").astype(x.dtype)


def _share(x_xN: jax.Array) -> jax.Array:
    own = x_xN.shape[-1] // jax.lax.axis_size("tensor")
    return jax.lax.dynamic_slice_in_dim(x_xN, jax.lax.axis_index("tensor") * own, own, axis=-1)


def _joined(x_xN: jax.Array) -> jax.Array:
    return jax.lax.all_gather(x_xN, "tensor", axis=x_xN.ndim - 1, tiled=True)


# What all have alike enters what each has parts of, and what each has a part of the sum of leaves it.
entering = _over_tensor(_same, _added)
leaving = _over_tensor(_added, _same)
# The share of the tokens `[..., N]` that a device alone looks at, and all of them again.
own_tokens = _over_tensor(_share, _joined)
all_tokens = _over_tensor(_joined, _share)
