"""Matrix products and embedding look-up whose backward passes are fast on every platform.

The arithmetic is that of the plain expressions; only the form in which XLA sees it differs.
"""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

ONE_HOT_VOCABULARY = 2048


@contextlib.contextmanager
def products_in(precision: str) -> Iterator[None]:
    """What is traced within it, or in a function that it decorates, is computed in `precision`.

    An accelerator rounds the factors of float32 products unless told otherwise: to 10 bits of mantissa on a GPU, to 7
    on a TPU. A CPU does not, and XLA takes a path half as fast there when told.
    """
    exact = precision == "float32" and jax.default_backend() != "cpu"
    with jax.default_matmul_precision("highest") if exact else contextlib.nullcontext():
        yield


def contract_last(a_IxN: jax.Array, b_JxN: jax.Array) -> jax.Array:
    """`[I, J]` in float32, whatever the factors are in."""
    return jax.lax.dot_general(a_IxN, b_JxN, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def multiply(weight_OxI: jax.Array, x_IxN: jax.Array, precision: str = "float32") -> jax.Array:
    """`weight @ x`, `[O, N]`, from factors in the precision of `x`, summed in float32 and given in `precision`.

    The weight's gradient is float32.
    """
    return _multiply_forward(weight_OxI, x_IxN, precision)[0]


def _multiply_forward(weight_OxI: jax.Array, x_IxN: jax.Array, precision: str) -> tuple[jax.Array, tuple]:
    weight_OxI = weight_OxI.astype(x_IxN.dtype)
    # Asked of the product itself: a conversion after it is another pass over memory on a GPU.
    return jnp.matmul(weight_OxI, x_IxN, preferred_element_type=precision), (weight_OxI, x_IxN)


def gradients(
    weight_OxI: jax.Array, x_IxN: jax.Array, gradient_OxN: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients of both factors of `weight @ x`: that of the weight in float32, that of `x` in its precision."""
    gradient_OxN = gradient_OxN.astype(x_IxN.dtype)
    # Without the barrier XLA folds the transposition into the product and takes a path half as fast.
    weight_IxO = jax.lax.optimization_barrier(weight_OxI.T)
    return contract_last(gradient_OxN, x_IxN), weight_IxO @ gradient_OxN


def _multiply_backward(precision: str, saved: tuple, gradient_OxN: jax.Array) -> tuple[jax.Array, jax.Array]:
    weight_OxI, x_IxN = saved
    return gradients(weight_OxI, x_IxN, gradient_OxN)


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
    return contract_last(one_hot_VxN, gradient_DxN), None


_gather.defvjp(_gather_forward, _gather_backward)


def one_hot(vocab: int) -> bool:
    """Whether the gradient of so many words' embeddings is a one-hot product here, and not added up row by row.

    On an accelerator the product has a fixed order; it costs V x D x tokens. A CPU adds in order, and no slower at
    128, 512 and 2,048 words (experiments/LOG.md).
    """
    return vocab <= ONE_HOT_VOCABULARY and jax.default_backend() != "cpu"


def look_up(table_VxD: jax.Array, tokens_N: jax.Array, precision: str = "float32") -> jax.Array:
    """Columns of embeddings, `[D, N]`, of the tokens."""
    vocab, table_VxD = table_VxD.shape[0], jnp.asarray(table_VxD)  # a numpy array takes no traced index
    if one_hot(vocab):
        return _gather(vocab, precision, table_VxD, tokens_N)
    return table_VxD[tokens_N].T.astype(precision)
