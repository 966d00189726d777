"""Embedding look-up whose gradient is a matrix product instead of a scatter."""

import functools

import jax
import jax.numpy as jnp

# XLA's scatter-add on a CPU is a serial loop; a one-hot product costs V x D x tokens, so it stops paying
# where the vocabulary is large.
ONE_HOT_VOCABULARY = 2048


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(vocab: int, table_VxD: jax.Array, tokens: jax.Array) -> jax.Array:
    return table_VxD[tokens]


def _forward(vocab: int, table_VxD: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    return table_VxD[tokens], tokens


def _backward(vocab: int, tokens: jax.Array, gradient: jax.Array) -> tuple[jax.Array, None]:
    one_hot_NxV = (tokens.reshape(-1, 1) == jnp.arange(vocab)).astype(gradient.dtype)
    return one_hot_NxV.T @ gradient.reshape(one_hot_NxV.shape[0], -1), None


_gather.defvjp(_forward, _backward)


def look_up(table_VxD: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows of the table at `tokens`: `[..., D]`."""
    vocab = table_VxD.shape[0]
    return _gather(vocab, table_VxD, tokens) if vocab <= ONE_HOT_VOCABULARY else table_VxD[tokens]
