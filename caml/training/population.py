"""Members along an axis, taken through several steps by one compiled program."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from caml.models.sizes import Model
from caml.training import updates
from caml.training.layouts import Layout
from caml.training.optimizer import Hyper
from caml.training.step import PREFERENCE_METRICS, Batch, train_step

MEMBERS = PartitionSpec("member")
BATCHES = PartitionSpec("member", None, "data")
EVERYWHERE = PartitionSpec()
METRICS = ("loss", "gradient_norm", "rate")


class State(NamedTuple):
    """What training changes; in a population every array has the member axis in front.

    `stopped` is the step whose loss or gradient was not finite, or -1.
    """

    params: Any
    optimizer: Any
    stopped: Any


def init_member(name: str, params: dict[str, np.ndarray], h: Hyper) -> State:
    """The state of a member before its first step; `name` is the optimizer's."""
    return State(params, updates.init_state(name, params, h), np.int32(-1))


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

    A loop with a trip count that is data: a member that is finished or stopped costs nothing, and the
    body is compiled the same however many steps a dispatch holds.
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
        stopped = jnp.where(finite, state.stopped, step)
        metrics = {k: metrics[k].at[i].set(found[k]) for k in names}
        return i + 1, State(params, optimizer_state, stopped), metrics

    empty = {k: jnp.full((steps,), jnp.nan, jnp.float32) for k in names}
    _, state, metrics = jax.lax.while_loop(open_step, body, (jnp.int32(0), state, empty))
    return state, metrics


def build(model: Model, name: str, layout: Layout, mesh: Mesh) -> Any:
    """The program `(state, reference, hyper, batches, first_step, count) -> (state, metrics)`, jitted.

    `state` (donated), `reference`, `hyper` and `batches` have a member axis in front that the mesh's `member` axis
    divides; batches are `[members, steps, B, T]`, and the `data` axis divides B; metrics are `[members, steps]`.
    `reference` has the parameters with which a preference loss compares, or is None for a loss on tokens.
    """

    def on_device(
        state: State, reference: Any, h: Hyper, batches: Batch, first_step: jax.Array, count: jax.Array
    ) -> Any:
        def one(member: tuple[State, Any, Hyper, Batch]) -> Any:
            return _member_steps(model, name, *member, first_step, count, layout)

        members = (state, reference, h, batches)
        return jax.lax.map(one, members) if layout.members == "turn" else jax.vmap(one)(members)

    mapped = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(MEMBERS, MEMBERS, MEMBERS, BATCHES, EVERYWHERE, EVERYWHERE),
        out_specs=(MEMBERS, MEMBERS),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def place(tree: Any, mesh: Mesh, spec: PartitionSpec = MEMBERS) -> Any:
    """The tree's arrays on the devices, their first axis spread along `member`, or as another of the specs here."""
    return jax.device_put(tree, NamedSharding(mesh, spec))
