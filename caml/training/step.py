"""One training step of one member: a pure function of parameters, optimizer state, batch and step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

from caml.models import sharded
from caml.models.compute import Compute
from caml.models.pieces import scan_pieces
from caml.models.sizes import Model
from caml.models.transformer import EMBEDDING, HEAD, Parameters, output_matrix, stream
from caml.training import updates
from caml.training.cross_entropy import cross_entropy, summed_cross_entropy
from caml.training.layouts import PLAIN, Layout
from caml.training.mesh import array_spec
from caml.training.optimizer import Hyper

# What is told of a loss on preference pairs besides.
PREFERENCE_METRICS = ("preference_accuracy", "preference_margin")
# Nats within which a model that is its own reference prefers neither answer.
ROUNDING = 1e-4


class Batch(NamedTuple):
    """Packed sequences, each `[B, T]`; in a dispatch `[members, steps, B, T]`.

    Segment 0 is padding; positions restart in each document; weights are 1 where the target (the next
    token of the same document) bears loss. Of preference pairs see `preference_loss`.
    """

    tokens: Any
    segments: Any
    positions: Any
    weights: Any


def output_and_targets(
    params: Parameters, model: Model, batch: Batch, compute: Compute
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The model's output `[D, N]`, its output matrix `[V, D]`, and each token's successor `[N]`; N is B * T.

    What follows the end of a row or of a document means nothing. Where the model lies over several devices, N are the
    tokens of which this one computes the loss (`sharded.own_tokens`).
    """
    if compute.sharded:
        of_words = {name: params[name] for name in (EMBEDDING, HEAD) if name in params}
        params = params | {name: sharded.words(x, compute.precision) for name, x in of_words.items()}
    x_DxN = stream(params, model, batch.tokens, batch.segments, batch.positions, compute)
    targets_N = jnp.roll(batch.tokens, -1, axis=-1).reshape(-1)
    if compute.sharded:
        x_DxN, targets_N = map(sharded.own_tokens, (x_DxN, targets_N))
    return x_DxN, output_matrix(params), targets_N


def token_loss(
    params: Parameters, model: Model, batch: Batch, compute: Compute, bearing: jax.Array
) -> jax.Array:
    """What the batch, or a part of one that has `bearing` loss-bearing targets, adds to the mean nats of a target."""
    weights_N = batch.weights.reshape(-1) / bearing
    weights_N = sharded.own_tokens(weights_N) if compute.sharded else weights_N
    loss = summed_cross_entropy(*output_and_targets(params, model, batch, compute), weights_N, compute.fused)
    return sharded.leaving(loss) if compute.sharded else loss


def _pairs(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The place of each position's pair in its row `[B, T]`, and at which of these places pairs are, `[B, P]`."""
    rows, length = batch.tokens.shape
    # No half is shorter than two tokens; a row may begin with the rest of a pair that is longer than a row.
    nothing_BxP = jnp.zeros((rows, length // 4 + 1))
    pair_BxT = jnp.maximum(batch.segments - 1, 0) // 2
    row_BxT = jnp.broadcast_to(jnp.arange(rows)[:, None], pair_BxT.shape)
    return pair_BxT, nothing_BxP.at[row_BxT, pair_BxT].add(jnp.abs(batch.weights)) > 0


def preference_loss(
    params: Parameters,
    model: Model,
    batch: Batch,
    compute: Compute,
    bearing: jax.Array,
    reference: Parameters,
    beta: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """What the batch, or a part of one that has `bearing` pairs, adds to the mean DPO loss, and what else is told.

    Segments 2k + 1 and 2k + 2 of a row are the chosen and the rejected half of its pair k; weights are 1 on targets
    in chosen answers and -1 on those in rejected ones. A pair's loss is -log sigmoid(beta * m), in nats, m being how
    much more the model prefers the chosen answer than `reference` does: log p(chosen) - log p(rejected), less the same
    of the reference. Rafailov et al. 2023, Direct Preference Optimization (arXiv 2305.18290), equation 7.

    `preference_accuracy` is the share of pairs of which m is above 0 by more than rounding, `preference_margin` the
    mean of m in nats.
    """

    def nats(params: Parameters) -> jax.Array:
        nats_N = cross_entropy(*output_and_targets(params, model, batch, compute))
        return sharded.all_tokens(nats_N) if compute.sharded else nats_N

    nats_N, of_reference_N = nats(params), jax.lax.stop_gradient(nats(reference))
    more_BxT = (of_reference_N - nats_N).reshape(batch.tokens.shape) * batch.weights
    pair_BxT, there_BxP = _pairs(batch)
    row_BxT = jnp.broadcast_to(jnp.arange(len(more_BxT))[:, None], more_BxT.shape)
    m_BxP = jnp.zeros(there_BxP.shape).at[row_BxT, pair_BxT].add(more_BxT)
    accuracy = jnp.sum((m_BxP > ROUNDING) & there_BxP) / bearing
    margin = jnp.sum(jnp.where(there_BxP, m_BxP, 0.0)) / bearing
    loss = jnp.sum(jnp.where(there_BxP, jax.nn.softplus(-beta * m_BxP), 0.0)) / bearing
    return loss, dict(zip(PREFERENCE_METRICS, (accuracy, margin), strict=True))


def loss_and_gradients(
    params: Parameters,
    model: Model,
    batch: Batch,
    layout: Layout = PLAIN,
    reference: Parameters | None = None,
    beta: Any = None,
    lie: dict[str, PartitionSpec] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array], Parameters]:
    """The mean loss of the batch, what else is told of it, and the gradients of the loss.

    In nats per loss-bearing target, or with a `reference` per pair; 0 where the batch has none, and of no pairs nothing
    is told (NaN). The batch is taken `layout.rows` at a time on each device. Where it is spread over devices
    (`layout.over`), this is of one of them, which has its own rows of it, and adds up with the others. `lie` says how
    the parameters lie over them; without it each has all.
    """
    count = jnp.sum(batch.weights if reference is None else _pairs(batch)[1])
    count = jax.lax.psum(count, layout.over) if layout.over else count
    bearing = jnp.maximum(count, 1)

    def share(params: Parameters, part: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        if reference is None:
            return token_loss(params, model, part, layout.compute, bearing), {}
        return preference_loss(params, model, part, layout.compute, bearing, reference, beta)

    def of(part: Batch) -> Any:
        return jax.value_and_grad(share, has_aux=True)(params, part)

    rows = batch.tokens.shape[0]
    if layout.rows in (0, rows):
        added = of(batch)
    else:
        parts = jax.tree.map(lambda x: x.reshape(rows // layout.rows, layout.rows, *x.shape[1:]), batch)
        # By name, since to ask for the shapes would be to trace the model twice.
        zero = jnp.zeros((), jnp.float32)
        nothing = (
            (zero, {} if reference is None else dict.fromkeys(PREFERENCE_METRICS, zero)),
            jax.tree.map(jnp.zeros_like, params),
        )
        added, _ = scan_pieces(
            lambda sums, part: (jax.tree.map(jnp.add, sums, of(part)), None), nothing, parts
        )
    if layout.over:
        added = _over_devices(added, layout.over, lie or {})
    (loss, told), gradients = added
    return loss, {name: jnp.where(count > 0, x, jnp.nan) for name, x in told.items()}, gradients


def _over_devices(added: Any, over: tuple[str, ...], lie: dict[str, PartitionSpec]) -> Any:
    """Losses and gradients, summed over the devices of these axes of the mesh.

    Gradients of what lies in parts are added up over its axis already (caml/models/sharded.py). On a CPU devices wait
    for each other once for each array, a tenth of a millisecond every time: there arrays are added up as one. The bits
    are the same.
    """
    losses, gradients = added
    parted = {name for name, sides in lie.items() if any("fsdp" in (axes or ()) for axes in sides)}
    in_parts = {name: x for name, x in gradients.items() if name in parted}
    losses, whole = _sum((losses, {k: x for k, x in gradients.items() if k not in parted}), over)
    return losses, whole | _sum(in_parts, tuple(axis for axis in over if axis != "fsdp"))


def _sum(arrays: Any, over: tuple[str, ...]) -> Any:
    over = tuple(axis for axis in over if jax.lax.axis_size(axis) > 1)
    if not over or not arrays:
        return arrays
    if jax.default_backend() != "cpu":
        return jax.lax.psum(arrays, over)
    whole, apart = ravel_pytree(arrays)
    return apart(jax.lax.psum(whole, over))


def _over_model(
    params: Parameters, model: Model, batch: Batch, layout: Layout, reference: Parameters | None, beta: Any
) -> tuple[jax.Array, dict[str, jax.Array], Parameters]:
    """`loss_and_gradients` of a model and a batch that lie over the mesh with which this is traced (`jax.set_mesh`)."""
    mesh = jax.sharding.get_abstract_mesh()
    lie = {name: PartitionSpec(*array_spec(name, (1, *x.shape), mesh)[1:]) for name, x in params.items()}
    everywhere = PartitionSpec()

    def of_one(params: Parameters, batch: Batch, reference: Parameters | None, beta: Any) -> Any:
        return loss_and_gradients(params, model, batch, layout, reference, beta, lie)

    return jax.shard_map(
        of_one,
        in_specs=(lie, PartitionSpec(sharded.ROWS), lie if reference else everywhere, everywhere),
        out_specs=(everywhere, everywhere, lie),
        check_vma=False,
    )(params, batch, reference, beta)


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
    find = _over_model if layout.compute.sharded else loss_and_gradients
    loss, told, gradients = find(params, model, batch, layout, reference, h.beta)
    new_params, new_state, norm = updates.update(name, params, state, gradients, step, h)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    kept = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), (new_params, new_state), (params, state)
    )
    rate = updates.rate_factor(step, h) * h.rate
    return *kept, {"loss": loss, "gradient_norm": norm, "rate": rate, **told}, finite
