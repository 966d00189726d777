"""Cross entropy of next tokens from the model's output, never with all logits of a large batch in memory."""

import functools

import jax
import jax.numpy as jnp

from caml.models.pieces import piece_bytes
from caml.models.products import contract_last, multiply

# A batch of one model whose float32 logits would take more bytes than these is cut into pieces.
LOGITS_BYTES = 64 * 2**20
# Matrix units take vocabularies of a multiple of this; others grow by words that are never meant.
WORDS = 128


def pieces_of(tokens: int, vocab: int) -> int:
    """Into how many pieces of equal length a batch of so many tokens is cut.

    They need not divide it (see `_even`): the search for a number that does ends at twice as many as are needed, or a
    batch of a prime number of tokens would be taken one by one.
    """
    size = tokens * vocab * 4
    if size <= LOGITS_BYTES:
        return 1
    least = max(2, -(-size // piece_bytes()))
    return next((n for n in range(least, min(2 * least, tokens) + 1) if tokens % n == 0), min(least, tokens))


def _even(pieces: int, *arrays: jax.Array) -> list[jax.Array]:
    """Arrays `[..., N]` with so many zeros behind that N is a multiple of the pieces."""
    lacking = -arrays[0].shape[-1] % pieces
    if not lacking:
        return list(arrays)
    return [jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, lacking),)) for x in arrays]


def _cut(x_DxN: jax.Array, pieces: int) -> jax.Array:
    """The pieces of a batch, `[P, D, N / P]`."""
    return x_DxN.reshape(x_DxN.shape[0], pieces, -1).swapaxes(0, 1)


@jax.custom_vjp
def _nats(logits_VxN: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Nats `[N]` of each target. The one-hot comparison keeps scatters out of the backward pass."""
    return _nats_forward(logits_VxN, targets_N)[0]


def _nats_forward(logits_VxN: jax.Array, targets_N: jax.Array) -> tuple[jax.Array, tuple]:
    peak_N = jnp.max(logits_VxN, axis=0)
    e_VxN = jnp.exp(logits_VxN - peak_N)
    total_N = jnp.sum(e_VxN, axis=0)
    of_target_N = jnp.take_along_axis(logits_VxN, targets_N[None], axis=0)[0]
    return jnp.log(total_N) + peak_N - of_target_N, (e_VxN, total_N, targets_N)


def _nats_backward(saved: tuple, gradient_N: jax.Array) -> tuple[jax.Array, None]:
    e_VxN, total_N, targets_N = saved
    is_target_VxN = jnp.arange(len(e_VxN))[:, None] == targets_N
    return e_VxN * (gradient_N / total_N) + jnp.where(is_target_VxN, -gradient_N, 0.0), None


_nats.defvjp(_nats_forward, _nats_backward)


def _whole(x_DxN: jax.Array, head_VxD: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Nats `[N]` of each target, from all logits at once."""
    return _nats(multiply(head_VxD, x_DxN), targets_N)


def cross_entropy(x_DxN: jax.Array, head_VxD: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Nats `[N]` of each target, in float32."""
    pieces = pieces_of(len(targets_N), len(head_VxD))
    if pieces == 1:
        return _whole(x_DxN, head_VxD, targets_N)
    one_piece = jax.checkpoint(lambda piece: _whole(piece[0], head_VxD, piece[1]))
    x_DxE, targets_E = _even(pieces, x_DxN, targets_N)
    nats_PxN = jax.lax.map(one_piece, (_cut(x_DxE, pieces), targets_E.reshape(pieces, -1)))
    return nats_PxN.reshape(-1)[: len(targets_N)]


def summed_cross_entropy(
    x_DxN: jax.Array,
    head_VxD: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
    fused: bool = False,
) -> jax.Array:
    """The sum over targets of nats times weight, a float32 scalar.

    Of a batch in pieces the gradients are computed with the loss, while the logits of a piece are there: they need not
    be computed again (as in Liger Kernel, arXiv 2410.10989). `fused`: so it is of any batch, the logits are read once
    less, and lie in memory in the precision of `x`, as those of PyTorch's autocast do; loss and gradients are computed
    from them in float32.
    """
    pieces = pieces_of(len(targets_N), len(head_VxD))
    if pieces == 1 and not fused:
        return jnp.sum(_whole(x_DxN, head_VxD, targets_N) * weights_N)
    x_DxE, targets_E, weights_E = _even(pieces, x_DxN, targets_N, weights_N)
    return _in_pieces(pieces, fused, x_DxE, head_VxD, targets_E, weights_E)


def _peak_and_total(logits_WxN: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest logit of each position `[N]`, and the sum of exp(logit - largest), from one reading of the logits.

    Milakov and Gimelshein 2018, arXiv 1805.02867.
    """

    def both(a: tuple, b: tuple) -> tuple:
        peak = jnp.maximum(a[0], b[0])
        return peak, a[1] * jnp.exp(a[0] - peak) + b[1] * jnp.exp(b[0] - peak)

    # Of no logits the largest is a number, since -inf less -inf is none.
    nothing = jnp.float32(jnp.finfo(jnp.float32).min), jnp.float32(0)
    return jax.lax.reduce((logits_WxN, jnp.ones_like(logits_WxN)), nothing, both, (0,))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _in_pieces(pieces: int, fused: bool, *given: jax.Array) -> jax.Array:
    return _in_pieces_forward(pieces, fused, *given)[0]


def _in_pieces_forward(
    pieces: int,
    fused: bool,
    x_DxN: jax.Array,
    head_VxD: jax.Array,
    targets_N: jax.Array,
    weights_N: jax.Array,
) -> tuple[jax.Array, tuple]:
    vocab, kind = len(head_VxD), x_DxN.dtype
    words = vocab + -vocab % WORDS
    grown_WxD = jnp.pad(head_VxD.astype(kind), ((0, words - vocab), (0, 0)))
    # See caml/models/products.py.
    grown_DxW = jax.lax.optimization_barrier(grown_WxD.T)
    word_W = jnp.arange(words)[:, None]

    def add(sums: tuple, piece: tuple) -> tuple:
        x_DxN, targets_N, weights_N = piece
        lie_in = kind if fused else jnp.float32
        logits_WxN = jnp.matmul(grown_WxD, x_DxN, preferred_element_type=lie_in).astype(jnp.float32)
        if words > vocab:
            never = jnp.finfo(jnp.float32).min if fused else -jnp.inf
            logits_WxN = jnp.where(word_W < vocab, logits_WxN, never)
        if fused:
            peak_N, total_N = _peak_and_total(logits_WxN)
            e_WxN = jnp.exp(logits_WxN - peak_N)
        else:
            peak_N = jnp.max(logits_WxN, axis=0)
            e_WxN = jnp.exp(logits_WxN - peak_N)
            total_N = jnp.sum(e_WxN, axis=0)
        is_target_WxN = word_W == targets_N
        nats_N = jnp.log(total_N) + peak_N - jnp.sum(jnp.where(is_target_WxN, logits_WxN, 0.0), axis=0)
        d_logits_WxN = ((e_WxN / total_N - is_target_WxN) * weights_N).astype(kind)
        loss, d_head_WxD = sums
        loss = loss + jnp.sum(nats_N * weights_N)
        return (loss, d_head_WxD + contract_last(d_logits_WxN, x_DxN)), grown_DxW @ d_logits_WxN

    d_x_PxDxN: jax.Array
    nothing = jnp.zeros((), jnp.float32), jnp.zeros(grown_WxD.shape, jnp.float32)
    given = _cut(x_DxN, pieces), targets_N.reshape(pieces, -1), weights_N.reshape(pieces, -1)
    (loss, d_head_WxD), d_x_PxDxN = jax.lax.scan(add, nothing, given)
    return loss, (d_x_PxDxN.swapaxes(0, 1).reshape(x_DxN.shape), d_head_WxD[:vocab])


def _in_pieces_backward(pieces: int, fused: bool, saved: tuple, g: jax.Array) -> tuple:
    d_x_DxN, d_head_VxD = saved
    return (g * d_x_DxN).astype(d_x_DxN.dtype), g * d_head_VxD, None, None


_in_pieces.defvjp(_in_pieces_forward, _in_pieces_backward)
