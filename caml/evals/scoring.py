"""Scoring a population: log-probabilities of continuations, held-out nats, and divergence from the parent."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from caml.data.mixture import Batch
from caml.evals.questions import Rows
from caml.models.compute import Compute
from caml.models.pieces import piece_bytes, scan_pieces
from caml.models.products import products_in
from caml.models.sizes import Model
from caml.models.transformer import Parameters, hidden_states, output_matrix

BRANCHES = Compute(kernel="branches")
# Tokens that go through the model together, by platform: small pieces stay in a processor's cache.
_AT_ONCE = {"cpu": 512}
_ELSEWHERE = 16_384


@products_in("float32")
def log_probs(params: Parameters, model: Model, rows: Rows) -> jax.Array:
    """The log-probability (nats) of every continuation of `rows`, by its number; 0 where there is none."""

    def one(part: Rows) -> jax.Array:
        states_BxTxD = hidden_states(params, model, part.tokens, part.segments, part.positions, BRANCHES)
        before_BxQxD = jnp.take_along_axis(
            states_BxTxD, part.place.reshape(part.place.shape[0], -1)[..., None], axis=1
        )
        logits_BxQxV = jnp.einsum(
            "bqd,vd->bqv", before_BxQxD, output_matrix(params), preferred_element_type=jnp.float32
        )
        target_BxQ = part.target.reshape(part.target.shape[0], -1)
        found_BxQ = jnp.take_along_axis(logits_BxQxV, jnp.maximum(target_BxQ, 0)[..., None], axis=-1)[..., 0]
        found_BxQ -= jax.nn.logsumexp(logits_BxQxV, axis=-1)
        return jnp.where(target_BxQ < 0, 0.0, found_BxQ).reshape(part.target.shape).sum(-1)

    logits = math.prod(rows.target.shape[1:]) * len(output_matrix(params))
    return _in_pieces(lambda part: one(Rows(*part)), rows, logits).reshape(-1)


@products_in("float32")
def held_out_scores(
    params: Parameters, parent: Parameters, model: Model, batch: Batch
) -> dict[str, jax.Array]:
    """Mean nats of the targets of `batch` `[B, T]`, and mean KL(parent || this) at the same places, in nats."""
    targets_BxT = jnp.roll(batch.tokens, -1, axis=-1)

    def one(part: Any) -> tuple[jax.Array, jax.Array]:
        tokens, segments, positions, weights, targets = part

        def log_softmax(weights_of: Parameters) -> jax.Array:
            states = hidden_states(weights_of, model, tokens, segments, positions)
            logits = jnp.einsum(
                "btd,vd->btv", states, output_matrix(weights_of), preferred_element_type=jnp.float32
            )
            return jax.nn.log_softmax(logits)

        own, before = log_softmax(params), log_softmax(parent)
        nats = -jnp.take_along_axis(own, targets[..., None], axis=-1)[..., 0]
        divergence = jnp.sum(jnp.exp(before) * (before - own), axis=-1)
        return nats * weights, divergence * weights

    logits = 2 * targets_BxT.shape[1] * len(output_matrix(params))
    nats, divergence = _in_pieces(one, (*batch, targets_BxT), logits)
    total = batch.weights.sum()
    return {"held_out_nats": jnp.sum(nats) / total, "kl_from_parent": jnp.sum(divergence) / total}


@functools.cache
def build(model: Model, mesh: Mesh) -> Callable[..., dict[str, np.ndarray]]:
    """A function `(params, parents, rows, held_out, places) -> scores` of trees with a member axis in front.

    Scores: `log_probs` `[members, continuations]`, and with a `held_out` batch (else None) `held_out_nats` and
    `kl_from_parent` `[members]`. Members are dealt to the devices and run in turn on each, so that a member's scores do
    not depend on its company. One program serves up to `places` members (0: as many as there are); an empty place is
    not computed, but takes the memory of a member.
    """
    member = PartitionSpec("member")

    def scores(args: tuple[Parameters, Parameters, Rows, Batch | None]) -> dict[str, jax.Array]:
        params, parent, rows, held_out = args
        found = {"log_probs": log_probs(params, model, rows)}
        if held_out is not None:
            found |= held_out_scores(params, parent, model, held_out)
        return found

    def nothing(args: tuple[Parameters, Parameters, Rows, Batch | None]) -> dict[str, jax.Array]:
        _, _, rows, held_out = args
        found = {"log_probs": jnp.zeros(math.prod(rows.target.shape[:-1]))}
        if held_out is not None:
            found |= {"held_out_nats": jnp.zeros(()), "kl_from_parent": jnp.zeros(())}
        return found

    def one(place: tuple[jax.Array, Any]) -> dict[str, jax.Array]:
        taken, args = place
        return jax.lax.cond(taken, scores, nothing, args)

    mapped = jax.jit(
        jax.shard_map(
            lambda taken, *args: jax.lax.map(one, (taken, args)),
            mesh=mesh,
            in_specs=member,
            out_specs=member,
            check_vma=False,
        )
    )

    def score(
        params: Any, parents: Any, rows: Rows, held_out: Batch | None, places: int = 0
    ) -> dict[str, np.ndarray]:
        count, devices = len(rows.tokens), mesh.shape["member"]
        places = max(places, count)
        if places < devices:  # those that would have nothing to do need not hold a model
            few = Mesh(mesh.devices[:places], mesh.axis_names)
            return build(model, few)(params, parents, rows, held_out)
        on_each = -(-places // devices)
        place = np.arange(count) % devices * on_each + np.arange(count) // devices

        def put(x: np.ndarray) -> np.ndarray:
            placed = np.zeros((devices * on_each, *x.shape[1:]), x.dtype)
            placed[place] = x
            return placed

        found = mapped(*jax.tree.map(put, (np.ones(count, bool), params, parents, rows, held_out)))
        return {key: np.asarray(value)[place] for key, value in found.items()}

    return score


def _in_pieces(function: Callable[[Any], Any], arrays: tuple, logits: int) -> Any:
    """`function` of arrays `[R, T, ...]`, some rows at a time; the result has the rows in front again.

    For each row there are so many `logits`: those of a piece take no more memory than in training, if it has more than
    a row.
    """
    count, length = arrays[0].shape[:2]
    rows = max(
        1, min(_AT_ONCE.get(jax.default_backend(), _ELSEWHERE) // length, piece_bytes() // (4 * logits))
    )
    pieces = -(-count // rows)
    padding = pieces * rows - count

    def split(x: jax.Array) -> jax.Array:
        whole = jnp.concatenate([x, jnp.repeat(x[:1], padding, axis=0)])
        return whole.reshape(pieces, rows, *x.shape[1:])

    _, found = scan_pieces(lambda _, piece: (None, function(piece)), None, tuple(map(split, arrays)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)
