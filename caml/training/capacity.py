"""How many members of a shape are trained together: as many as pay, and as the devices' memory takes."""

import os
from typing import Any

import jax
import numpy as np

from caml.models.sizes import Model
from caml.models.transformer import shapes
from caml.training import population
from caml.training.devices import MOST_MEMBERS
from caml.training.layouts import Layout
from caml.training.mesh import member_mesh
from caml.training.optimizer import Optimizer, Schedule, hyper
from caml.training.programs import Shape, program

# By platform, the most members that pay, and where they are computed side by side.
MOST = {"cpu": MOST_MEMBERS}
MOST_STACKED = 32
# The share of a device's memory that training may take; and, on a CPU, how much of it arrays may take without a look at
# what the compiled program needs besides.
USABLE, SURELY = 0.85, 0.25


def device_memory() -> int:
    """Bytes that a device has: its own, or its share of the machine's."""
    told = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in told:
        return int(told["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.devices())


def members_that_fit(arrays: int, temporary: int, stacked: bool, memory: int, most: int) -> int:
    """How many members a device takes that has `memory` bytes, at least 1 and at most `most`.

    A member keeps `arrays` bytes. `temporary` bytes are needed by each that is computed at once: by all where they are
    stacked, else by one.
    """
    room = int(USABLE * memory) - (0 if stacked else temporary)
    each = arrays + (temporary if stacked else 0)
    return max(1, min(most, room // each))


def most_members(
    model: Model,
    vocab: int,
    batch: int,
    length: int,
    steps: int,
    optimizer: Optimizer,
    preference: bool,
    layout: Layout,
) -> int:
    """How many members of this shape this machine trains together, on all of its devices; see `Shape`.

    From the memory of the program that is compiled for two members a device, and a copy of each more where they come in
    turn. The same machine finds the same number.
    """
    mesh = member_mesh(layout.data, layout.fsdp, layout.tensor)
    groups = mesh.shape["member"]
    stacked = layout.members == "stacked"
    most = MOST_STACKED if stacked else MOST.get(jax.default_backend(), MOST_STACKED)
    on_each, memory = -(-most // groups), device_memory()
    state, reference, numbers = described(model, vocab, optimizer, preference, 2 * groups)
    each = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves((state, reference))) // (
        2 * groups
    )
    if not stacked and 2 * each * on_each < SURELY * memory:
        return most
    shape = Shape(model, vocab, batch, length, optimizer.name, 2 * groups, steps, layout, preference)
    try:
        compiled, _ = program(shape, mesh, state, reference, numbers)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return groups
    needs = compiled.memory_analysis()
    arrays = (needs.argument_size_in_bytes + needs.output_size_in_bytes - needs.alias_size_in_bytes) // 2
    if stacked:
        fitting = members_that_fit(arrays, needs.temp_size_in_bytes // 2, True, memory, on_each)
    else:
        own = int(each) // (layout.fsdp * layout.tensor)
        once = max(0, needs.temp_size_in_bytes - 2 * own)
        fitting = members_that_fit(arrays + own, once, False, memory, on_each)
    return min(most, fitting * groups)


def described(
    model: Model, vocab: int, optimizer: Optimizer, preference: bool, places: int
) -> tuple[Any, Any, Any]:
    """State, reference and numbers of a population of `places` members, as shapes and types."""
    h = hyper(optimizer, Schedule(), 1)
    params = {name: jax.ShapeDtypeStruct(size, np.float32) for name, size in shapes(model, vocab).items()}
    one = jax.eval_shape(lambda p: population.init_member(optimizer.name, p, h), params)

    def together(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct((places, *x.shape), x.dtype), tree)

    numbers = jax.tree.map(lambda x: jax.ShapeDtypeStruct((places,), x.dtype), h)
    return together(one), together(params) if preference else None, numbers
