"""Members along an axis, taken through several steps by one compiled program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from caml.models.products import products_in
from caml.models.sizes import Model
from caml.training import spikes, updates
from caml.training.layouts import Layout
from caml.training.mesh import EVERYWHERE, MEMBERS, batch_spec, is_sharded, shardings
from caml.training.optimizer import Hyper
from caml.training.step import PREFERENCE_METRICS, Batch, train_step

METRICS = ("loss", "gradient_norm", "rate", "skipped")
"""Of each step; `skipped` is 1 where it was, at a spike, and else 0."""


class State(NamedTuple):
    """What training changes; in a population every array has the member axis in front.

    `stopped` is the step whose loss or gradient was not finite, or the last of too many skipped in a row, or -1.
    """

    params: Any
    optimizer: Any
    norms: spikes.Norms
    stopped: Any


def init_member(name: str, params: dict[str, np.ndarray], h: Hyper) -> State:
    """The state of a member before its first step; `name` is the optimizer's."""
    return State(params, updates.init_state(name, params, h), spikes.nothing(), np.int32(-1))


def stack(members: list) -> Any:
    """Trees of one structure as one tree of numpy arrays with a member axis in front."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *members)


def _member_steps(
    model: Model,
    name: str,
    state: State,
    reference: Any,
    h: Hyper,
    batches: Batch,
    first_step: jax.Array,
    count: jax.Array,
    layout: Layout,
) -> tuple[State, dict[str, jax.Array]]:
    """Up to `count` steps of one member; metrics `[steps]`, NaN where no step was made.

    A loop with a trip count that is data: the body is compiled the same however many steps a dispatch holds. Where
    members come in turn, one that is finished or stopped costs nothing; side by side it is computed, and its state kept
    as it was, until the last has ended.
    """
    names = METRICS if reference is None else METRICS + PREFERENCE_METRICS
    steps = batches.tokens.shape[0]
    last = jnp.minimum(count, h.steps - first_step)

    def open_step(carry: tuple) -> jax.Array:
        i, state, _ = carry
        return (i < last) & (state.stopped < 0)

    def body(carry: tuple) -> tuple:
        i, state, metrics = carry
        batch = Batch(*(jax.lax.dynamic_index_in_dim(x, i, keepdims=False) for x in batches))
        step = first_step + i
        params, optimizer_state, found, finite = train_step(
            model, name, state.params, state.optimizer, batch, step, h, reference, layout
        )
        norm = found["gradient_norm"]
        skipped = finite & (norm > spikes.limit(state.norms, h.spike))
        params, optimizer_state = jax.tree.map(
            lambda new, old: jnp.where(skipped, old, new),
            (params, optimizer_state),
            (state.params, state.optimizer),
        )
        norms = spikes.after(state.norms, norm, skipped)
        stopped = jnp.where(finite & (norms.skipped < spikes.IN_A_ROW), state.stopped, step)
        found["skipped"] = skipped.astype(jnp.float32)
        metrics = {k: metrics[k].at[i].set(found[k]) for k in names}
        return i + 1, State(params, optimizer_state, norms, stopped), metrics

    empty = {k: jnp.full((steps,), jnp.nan, jnp.float32) for k in names}
    _, state, metrics = jax.lax.while_loop(open_step, body, (jnp.int32(0), state, empty))
    return state, metrics


def build(model: Model, name: str, layout: Layout, mesh: Mesh) -> Any:
    """The program `(state, reference, hyper, batches, first_step, count) -> (state, metrics)`, jitted.

    `state` (donated), `reference`, `hyper` and `batches` have a member axis in front that the mesh's `member` axis
    divides; batches are `[members, steps, B, T]`, and the axes `data` and `fsdp` divide B; metrics are `[members,
    steps]`. `reference` has the parameters with which a preference loss compares, or is None for a loss on tokens.
    Arrays lie as `place` and `place_batches` put them. It is to be traced under `jax.set_mesh(mesh)`.
    """

    @products_in(layout.compute.precision)
    def on_device(
        state: State, reference: Any, h: Hyper, batches: Batch, first_step: jax.Array, count: jax.Array
    ) -> Any:
        def one(member: tuple[State, Any, Hyper, Batch]) -> Any:
            return _member_steps(model, name, *member, first_step, count, layout)

        members = (state, reference, h, batches)
        return jax.vmap(one)(members) if layout.beside else jax.lax.map(one, members)

    if is_sharded(mesh):
        # A step cuts itself over devices; what its optimizer passes between them, the compiler finds.
        def kept_in_place(state: State, *rest: Any) -> Any:
            new, metrics = on_device(state, *rest)
            return jax.lax.with_sharding_constraint(new, shardings(new, mesh)), metrics

        return jax.jit(kept_in_place, donate_argnums=0)
    mapped = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(MEMBERS, MEMBERS, MEMBERS, batch_spec(mesh), EVERYWHERE, EVERYWHERE),
        out_specs=(MEMBERS, MEMBERS),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def place(tree: Any, mesh: Mesh) -> Any:
    """State, reference or numbers on the devices: members spread along `member`, a model's arrays by their names."""
    return jax.device_put(tree, shardings(tree, mesh))


def place_batches(batches: Batch, mesh: Mesh) -> Batch:
    """Batches `[members, steps, B, T]` on the devices."""
    return jax.device_put(batches, NamedSharding(mesh, batch_spec(mesh)))


def place_counters(counters: Any, mesh: Mesh) -> Any:
    """Numbers that all devices have, such as the first step of a dispatch."""
    return jax.device_put(counters, NamedSharding(mesh, EVERYWHERE))
