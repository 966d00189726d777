"""What attention is given, on a GPU: queries and keys, normalised and turned, and values, in one pass over memory.

They come as one product, all heads of a layer one below the other, and so does its gradient go back: nothing is cut or
joined on the way. A program has a head and some positions, the two halves of the head each in an array of its own.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

# Numbers of a program, few enough that they and their gradients stay in its registers.
NUMBERS = 4096


def own(numbers: int) -> int:
    """The positions of a program whose head has so many numbers: whole lines of memory in any case."""
    return max(16, min(128, NUMBERS // numbers))


def fits(numbers: int, positions: int) -> bool:
    """Whether heads of so many numbers, at so many positions in all, are such that blocks of them fill a program."""
    return numbers >= 4 and numbers & (numbers - 1) == 0 and positions % own(numbers) == 0


def _halves(x_NxS: Any) -> tuple[jax.Array, jax.Array]:
    """The halves of a head `[N / 2, S]` in float32."""
    half = x_NxS.shape[0] // 2
    return tuple(x_NxS[pl.ds(start, half), :].astype(jnp.float32) for start in (0, half))


def _put(x_NxS: Any, first_MxS: jax.Array, second_MxS: jax.Array) -> None:
    """Write a head by its halves."""
    half = x_NxS.shape[0] // 2
    for start, x in ((0, first_MxS), (half, second_MxS)):
        x_NxS[pl.ds(start, half), :] = x.astype(x_NxS.dtype)


def _scale(first_MxS: jax.Array, second_MxS: jax.Array, epsilon: float) -> jax.Array:
    """What root-mean-square normalisation multiplies each position `[S]` by."""
    squares_S = jnp.sum(first_MxS * first_MxS + second_MxS * second_MxS, 0)
    return jax.lax.rsqrt(squares_S / (2 * first_MxS.shape[0]) + epsilon)


def _each(heads: int, shared: int, queries: Callable, keys: Callable, values: Callable) -> None:
    """Do what a program does with its head: of queries, of keys or of values."""
    head = pl.program_id(0)
    pl.when(head < heads)(queries)
    pl.when((head >= heads) & (head < heads + shared))(keys)
    pl.when(head >= heads + shared)(values)


def _forward_kernel(
    x_NxS: Any, weight_N: Any, cos_MxS: Any, sin_MxS: Any, q_NxS: Any, k_NxS: Any, v_NxS: Any,
    heads: int, shared: int, epsilon: float,
) -> None:  # fmt: skip
    def turned(out_NxS: Any) -> None:
        first, second = _halves(x_NxS)
        scale = _scale(first, second, epsilon)[None, :]
        half = len(first)
        first = first * scale * weight_N[pl.ds(0, half)][:, None]
        second = second * scale * weight_N[pl.ds(half, half)][:, None]
        cos, sin = cos_MxS[...], sin_MxS[...]
        _put(out_NxS, first * cos - second * sin, second * cos + first * sin)

    def values() -> None:
        v_NxS[...] = x_NxS[...]

    _each(heads, shared, lambda: turned(q_NxS), lambda: turned(k_NxS), values)


def _backward_kernel(
    x_NxS: Any, weight_N: Any, cos_MxS: Any, sin_MxS: Any, dq_NxS: Any, dk_NxS: Any, dv_NxS: Any, dx_NxS: Any,
    dweight_N: Any, heads: int, shared: int, epsilon: float,
) -> None:  # fmt: skip
    def turned(g_NxS: Any) -> None:
        halves, half = _halves(x_NxS), x_NxS.shape[0] // 2
        scale = _scale(*halves, epsilon)[None, :]
        cos, sin = cos_MxS[...], sin_MxS[...]
        g_first, g_second = _halves(g_NxS)
        back = g_first * cos + g_second * sin, g_second * cos - g_first * sin
        inner_S, moved = jnp.zeros(scale.shape[1:], jnp.float32), []
        for start, x, g in zip((0, half), halves, back, strict=True):
            normed = x * scale
            dweight_N[pl.ds(start, half)] = jnp.sum(g * normed, 1)
            g = g * weight_N[pl.ds(start, half)][:, None]
            inner_S += jnp.sum(g * normed, 0)
            moved.append((g, normed))
        mean = inner_S[None, :] / (2 * half)
        _put(dx_NxS, *(scale * (g - normed * mean) for g, normed in moved))

    def values() -> None:
        dx_NxS[...] = dv_NxS[...]
        dweight_N[...] = jnp.zeros(dweight_N.shape, jnp.float32)

    _each(heads, shared, lambda: turned(dq_NxS), lambda: turned(dk_NxS), values)


def _call(
    kernel: Callable[..., None], x: jax.Array, shared: int, epsilon: float, interpret: bool, **asked: Any
) -> Any:
    """A call of a kernel with a program for each head of the joint product `x` and some of its positions."""
    heads = len(x) - 2 * shared
    return pl.pallas_call(
        functools.partial(kernel, heads=heads, shared=shared, epsilon=epsilon),
        grid=(len(x), x.shape[2] // own(x.shape[1])),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        **asked,
    )


def _specs(x: jax.Array, shared: int) -> tuple[list, list]:
    """Of the joint product, its weights, cosines and sines; and of queries, keys and values.

    A program has a block of each of the latter three, and touches that of its own kind alone.
    """
    N, heads = x.shape[1], len(x) - 2 * shared
    size = own(N)

    def of(first: int, count: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, N, size), lambda h, i: (jnp.clip(h - first, 0, count - 1), 0, i))

    angles = pl.BlockSpec((N // 2, size), lambda h, i: (0, i))
    whole = pl.BlockSpec((None, N, size), lambda h, i: (h, 0, i))
    weights = pl.BlockSpec((None, N), lambda h, i: (h, 0))
    return [whole, weights, angles, angles], [of(0, heads), of(heads, shared), of(heads + shared, shared)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _prepared(
    x_CxNxBT: jax.Array, weights_CxN: jax.Array, cos_MxBT: jax.Array, sin_MxBT: jax.Array, shared: int,
    epsilon: float, interpret: bool,
) -> tuple[jax.Array, ...]:  # fmt: skip
    return _forward(x_CxNxBT, weights_CxN, cos_MxBT, sin_MxBT, shared, epsilon, interpret)[0]


def _forward(
    x: jax.Array, weights: jax.Array, cos: jax.Array, sin: jax.Array, shared: int, epsilon: float, interpret: bool
) -> tuple[tuple, tuple]:  # fmt: skip
    given, out = _specs(x, shared)
    found = _call(
        _forward_kernel, x, shared, epsilon, interpret,
        name="heads",
        in_specs=given,
        out_specs=out,
        out_shape=[jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype) for n in (len(x) - 2 * shared, shared, shared)],
    )(x, weights, cos, sin)  # fmt: skip
    return tuple(found), (x, weights, cos, sin)


def _backward(shared: int, epsilon: float, interpret: bool, saved: tuple, gradients: tuple) -> tuple:
    x = saved[0]
    given, three = _specs(x, shared)
    parts = pl.BlockSpec((None, None, x.shape[1]), lambda h, i: (h, i, 0))
    sums = (len(x), x.shape[2] // own(x.shape[1]), x.shape[1])
    dx, dweights = _call(
        _backward_kernel, x, shared, epsilon, interpret,
        name="heads_backward",
        in_specs=[*given, *three],
        out_specs=[given[0], parts],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(sums, jnp.float32)],
    )(*saved, *gradients)  # fmt: skip
    return dx, jnp.sum(dweights, 1), None, None


_prepared.defvjp(_forward, _backward)


def prepared(
    joint_OxBT: jax.Array,
    q_weight_N: jax.Array,
    k_weight_N: jax.Array,
    turn: tuple[jax.Array, jax.Array],
    shared: int,
    epsilon: float,
    interpret: bool = False,
) -> tuple[jax.Array, ...]:
    """Queries `[H, N, B * T]`, keys and values `[K, N, B * T]` from the product of their matrices, one below the other.

    Queries and keys are normalised with their weights and turned by the cosines and sines `turn`; K is `shared`.
    `interpret` runs the kernel on any platform, slowly.
    """
    N, tokens = len(q_weight_N), joint_OxBT.shape[-1]
    heads = len(joint_OxBT) // N - 2 * shared
    kinds = ((q_weight_N, heads), (k_weight_N, shared), (jnp.ones_like(q_weight_N), shared))
    weights = jnp.concatenate([jnp.broadcast_to(weight, (count, N)) for weight, count in kinds])
    joint = joint_OxBT.reshape(-1, N, tokens)
    return _prepared(joint, weights, *turn, shared, epsilon, interpret)
