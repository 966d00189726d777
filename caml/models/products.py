"""Matrix products and embedding look-up whose backward passes are fast on a CPU too.

The arithmetic is that of the plain expressions; only the form in which XLA sees it differs.
"""

import functools

import jax
import jax.numpy as jnp

# XLA's scatter-add on a CPU is a serial loop; a one-hot product costs V x D x tokens, so it stops paying
# where the vocabulary is large.
ONE_HOT_VOCABULARY = 2048


def _contract_last(a_IxN: jax.Array, b_JxN: jax.Array) -> jax.Array:
    """`[I, J]` in float32, whatever the factors are in."""
    return jax.lax.dot_general(a_IxN, b_JxN, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


@jax.custom_vjp
def multiply(weight_OxI: jax.Array, x_IxN: jax.Array) -> jax.Array:
    """`weight @ x`: float32 `[O, N]`, from factors in the precision of `x`. The weight's gradient is float32 too."""
    return _multiply_forward(weight_OxI, x_IxN)[0]


def _multiply_forward(weight_OxI: jax.Array, x_IxN: jax.Array) -> tuple[jax.Array, tuple]:
    weight_OxI = weight_OxI.astype(x_IxN.dtype)
    return jnp.matmul(weight_OxI, x_IxN, preferred_element_type=jnp.float32), (weight_OxI, x_IxN)


def _multiply_backward(saved: tuple, gradient_OxN: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight_OxI, x_IxN = saved
    gradient_OxN = gradient_OxN.astype(x_IxN.dtype)
    # Without the barrier XLA folds the transposition into the product and takes a path half as fast.
    weight_IxO = jax.lax.optimization_barrier(weight_OxI.T)
    return _contract_last(gradient_OxN, x_IxN), weight_IxO @ gradient_OxN


multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _gather(vocab: int, precision: str, table_VxD: jax.Array, tokens_N: jax.Array) -> jax.Array:
    return table_VxD[tokens_N].T.astype(precision)


def _gather_forward(
    vocab: int, precision: str, table_VxD: jax.Array, tokens_N: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return _gather(vocab, precision, table_VxD, tokens_N), tokens_N


def _gather_backward(
    vocab: int, precision: str, tokens_N: jax.Array, gradient_DxN: jax.Array
) -> tuple[jax.Array, None]:
    one_hot_VxN = (jnp.arange(vocab)[:, None] == tokens_N).astype(gradient_DxN.dtype)
    return _contract_last(one_hot_VxN, gradient_DxN), None


_gather.defvjp(_gather_forward, _gather_backward)


def look_up(table_VxD: jax.Array, tokens_N: jax.Array, precision: str = "float32") -> jax.Array:
    """Columns of embeddings, `[D, N]`, of the tokens."""
    vocab = table_VxD.shape[0]
    if vocab > ONE_HOT_VOCABULARY:
        return table_VxD[tokens_N].T.astype(precision)
    return _gather(vocab, precision, table_VxD, tokens_N)
