"""One training step of one member: a pure function of parameters, optimizer state, batch and step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from caml.models.products import multiply
from caml.models.sizes import Model
from caml.models.transformer import Parameters, output_matrix, stream
from caml.training import updates
from caml.training.layouts import PLAIN, Layout
from caml.training.optimizer import Hyper

# Float32 logits of one piece of a batch stay below this many bytes.
LOGITS_BYTES = 64 * 2**20
# Nats within which a model that is its own reference prefers neither answer.
ROUNDING = 1e-4


class Batch(NamedTuple):
    """Packed sequences, each `[B, T]`; in a dispatch `[members, steps, B, T]`.

    Segment 0 is padding; positions restart in each document; weights are 1 where the target (the next
    token of the same document) bears loss. Of preference pairs see `preference_sums`.
    """

    tokens: Any
    segments: Any
    positions: Any
    weights: Any


def cross_entropy(x_DxN: jax.Array, head_VxD: jax.Array, targets_N: jax.Array) -> jax.Array:
    """Nats `[N]` of each target. The one-hot comparison keeps scatters out of the backward pass."""
    logits_VxN = multiply(head_VxD, x_DxN).astype(jnp.float32)
    peak_N = jax.lax.stop_gradient(jnp.max(logits_VxN, axis=0))
    total_N = jnp.log(jnp.sum(jnp.exp(logits_VxN - peak_N), axis=0)) + peak_N
    is_target_VxN = jnp.arange(head_VxD.shape[0])[:, None] == targets_N
    return total_N - jnp.sum(jnp.where(is_target_VxN, logits_VxN, 0.0), axis=0)


def nats_of(params: Parameters, model: Model, batch: Batch) -> jax.Array:
    """Nats `[B * T]` of each token's successor; what stands at the end of a row or a document means nothing."""
    x_DxN = stream(params, model, batch.tokens, batch.segments, batch.positions)
    head_VxD = output_matrix(params)
    targets_N = jnp.roll(batch.tokens, -1, axis=-1).reshape(-1)
    tokens = targets_N.shape[0]
    pieces = -(-tokens * head_VxD.shape[0] * 4 // LOGITS_BYTES)
    while tokens % pieces:
        pieces += 1
    if pieces == 1:
        return cross_entropy(x_DxN, head_VxD, targets_N)
    one_piece = jax.checkpoint(lambda piece: cross_entropy(piece[0], head_VxD, piece[1]))
    x_PxDxN = x_DxN.reshape(-1, pieces, tokens // pieces).swapaxes(0, 1)
    return jax.lax.map(one_piece, (x_PxDxN, targets_N.reshape(pieces, -1))).reshape(-1)


class Sums(NamedTuple):
    """What the parts of a batch add up to: nats, how many targets or pairs bear them, and what else is told."""

    nats: jax.Array
    bearing: jax.Array
    told: dict[str, jax.Array]


def token_sums(params: Parameters, model: Model, batch: Batch) -> Sums:
    """Of the loss-bearing targets of the batch."""
    nats_N, weights_N = nats_of(params, model, batch), batch.weights.reshape(-1)
    return Sums(jnp.sum(nats_N * weights_N), jnp.sum(weights_N), {})


def preference_sums(
    params: Parameters, model: Model, batch: Batch, reference: Parameters, beta: jax.Array
) -> Sums:
    """The DPO losses of the pairs of the batch.

    Segments 2k + 1 and 2k + 2 of a row are the chosen and the rejected half of its pair k; weights are 1 on targets
    in chosen answers and -1 on those in rejected ones. A pair's loss is -log sigmoid(beta * m), m being how much
    more the model prefers the chosen answer than `reference` does: log p(chosen) - log p(rejected), less the same of
    the reference. Rafailov et al. 2023, Direct Preference Optimization (arXiv 2305.18290), equation 7.

    Told besides: `preference_accuracy`, the pairs of which m is above 0 by more than rounding, and `preference_margin`,
    m in nats.
    """
    rows, length = batch.tokens.shape
    nats_N = nats_of(params, model, batch)
    of_reference_N = jax.lax.stop_gradient(nats_of(reference, model, batch))
    more_BxT = (of_reference_N - nats_N).reshape(rows, length) * batch.weights
    # No half is shorter than two tokens; a row may begin with the rest of a pair that is longer than a row.
    places = length // 4 + 1
    row_BxT = jnp.broadcast_to(jnp.arange(rows)[:, None], more_BxT.shape)
    pair_BxT = jnp.maximum(batch.segments - 1, 0) // 2
    m_BxP = jnp.zeros((rows, places)).at[row_BxT, pair_BxT].add(more_BxT)
    there_BxP = jnp.zeros((rows, places)).at[row_BxT, pair_BxT].add(jnp.abs(batch.weights)) > 0
    told = {
        "preference_accuracy": jnp.sum((m_BxP > ROUNDING) & there_BxP).astype(jnp.float32),
        "preference_margin": jnp.sum(jnp.where(there_BxP, m_BxP, 0.0)),
    }
    losses_BxP = jnp.where(there_BxP, jax.nn.softplus(-beta * m_BxP), 0.0)
    return Sums(jnp.sum(losses_BxP), jnp.sum(there_BxP).astype(jnp.float32), told)


def loss_and_gradients(
    params: Parameters,
    model: Model,
    batch: Batch,
    layout: Layout = PLAIN,
    reference: Parameters | None = None,
    beta: Any = None,
) -> tuple[jax.Array, dict[str, jax.Array], Parameters]:
    """The mean loss of the batch, what else is told (means over pairs), and the gradients of the loss.

    In nats per loss-bearing target, or with a `reference` per pair. A batch that has none costs 0, and nothing is told
    of it (NaN). The batch is taken `layout.rows` at a time; where it is spread over devices, this is given one's own
    rows of it and adds up with the others.
    """

    def sums(params: Parameters, part: Batch) -> tuple[jax.Array, Sums]:
        if reference is None:
            found = token_sums(params, model, part)
        else:
            found = preference_sums(params, model, part, reference, beta)
        return found.nats, found

    def of(part: Batch) -> tuple[Sums, Parameters]:
        (_, found), gradients = jax.value_and_grad(sums, has_aux=True)(params, part)
        return found, gradients

    rows = batch.tokens.shape[0]
    at_once = layout.rows or rows
    if at_once == rows:
        added = of(batch)
    else:
        parts = jax.tree.map(lambda x: x.reshape(rows // at_once, at_once, *x.shape[1:]), batch)
        nothing = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(of, jax.tree.map(lambda x: x[0], parts))
        )
        added, _ = jax.lax.scan(
            lambda sum_, part: (jax.tree.map(jnp.add, sum_, of(part)), None), nothing, parts
        )
    if layout.data > 1:
        added = jax.lax.psum(added, "data")
    found, gradients = added
    share = 1.0 / jnp.maximum(found.bearing, 1.0)
    told = {name: value / found.bearing for name, value in found.told.items()}
    return found.nats * share, told, jax.tree.map(lambda gradient: gradient * share, gradients)


def train_step(
    model: Model,
    name: str,
    params: Parameters,
    state: Any,
    batch: Batch,
    step: jax.Array,
    h: Hyper,
    reference: Parameters | None = None,
    layout: Layout = PLAIN,
) -> tuple[Parameters, Any, dict[str, jax.Array], jax.Array]:
    """New parameters and optimizer state, metrics (scalars), and whether loss and gradient were finite.

    `name` is the optimizer's. With a `reference` the batch holds preference pairs. Where loss or gradient was not
    finite, parameters and state come back as they were.
    """
    loss, told, gradients = loss_and_gradients(params, model, batch, layout, reference, h.beta)
    new_params, new_state, norm = updates.update(name, params, state, gradients, step, h)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    kept = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (new_params, new_state), (params, state)
    )
    rate = updates.rate_factor(step, h) * h.rate
    return *kept, {"loss": loss, "gradient_norm": norm, "rate": rate, **told}, finite
