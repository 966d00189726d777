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

# The rows of a batch lie over these.
ROWS = ("data", "fsdp")


def _gathered(part: jax.Array, side: int, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.all_gather(part, axes, axis=side, tiled=True) if axes else part


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def multiply(part_OxI: jax.Array, x_IxN: jax.Array, precision: str, side: int, whole: int) -> jax.Array:
    """`products.multiply` of the matrix that has `whole` numbers along `side`, with a part of it on each of `fsdp`.

    All of it is there while it is used, and not kept for the backward pass.
    """
    return _forward(part_OxI, x_IxN, precision, side, whole)[0]


def _axes(part: jax.Array, side: int, whole: int) -> tuple[str, ...]:
    return () if part.shape[side] == whole else ("fsdp",)


def _forward(
    part_OxI: jax.Array, x_IxN: jax.Array, precision: str, side: int, whole: int
) -> tuple[jax.Array, tuple]:
    weight_OxI = _gathered(part_OxI.astype(x_IxN.dtype), side, _axes(part_OxI, side, whole))
    return products.multiply(weight_OxI, x_IxN, precision), (part_OxI, x_IxN)


def _backward(
    precision: str, side: int, whole: int, saved: tuple, gradient_OxN: jax.Array
) -> tuple[jax.Array, jax.Array]:
    part_OxI, x_IxN = saved
    axes = _axes(part_OxI, side, whole)
    # Without the barrier the compiler would keep what was put together forward.
    part_OxI, gradient_OxN = jax.lax.optimization_barrier((part_OxI, gradient_OxN))
    weight_OxI = _gathered(part_OxI.astype(x_IxN.dtype), side, axes)
    d_weight_OxI, d_x_IxN = products.gradients(weight_OxI, x_IxN, gradient_OxN)
    if axes:
        d_weight_OxI = jax.lax.psum_scatter(d_weight_OxI, axes, scatter_dimension=side, tiled=True)
    return d_weight_OxI, d_x_IxN


multiply.defvjp(_forward, _backward)


def words(part_VxD: jax.Array, width: int) -> jax.Array:
    """All of an embedding or head `[V, D]`, where it is of use to a device's own tokens (`own_tokens`)."""
    over = width // part_VxD.shape[1]
    axes: tuple[str, ...] = ("fsdp", "tensor") if over > jax.lax.axis_size("fsdp") else ("fsdp",)
    axes = axes if over > 1 else ()
    # What is not put together over `tensor` has other tokens' gradients there.
    part_VxD = part_VxD if "tensor" in axes else entering(part_VxD)
    return _gathered(part_VxD, 1, axes)


def _over_tensor(forward: Callable, backward: Callable) -> Callable:
    """A map of arrays, and that of their gradients, on devices that share their rows; of one alone neither."""

    @jax.custom_vjp
    def run(x: jax.Array) -> jax.Array:
        return forward(x)

    run.defvjp(lambda x: (forward(x), None), lambda _, gradient: (backward(gradient),))

    @functools.wraps(forward)
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
