"""How many members of a shape are trained together: as many as pay, and as the devices' memory takes."""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from caml.config.text import counted
from caml.models.sizes import Model
from caml.models.transformer import shapes
from caml.training import population
from caml.training.devices import MOST_MEMBERS
from caml.training.layouts import Layout
from caml.training.mesh import member_mesh
from caml.training.optimizer import Optimizer, Schedule, hyper
from caml.training.programs import Shape, program

# The most members that pay where they come in turn, by platform, and on each device where they lie side by side.
MOST = {"cpu": MOST_MEMBERS}
MOST_BESIDE = 32
# The share of a device's memory that training may take; and where members come in turn how much of it arrays may take
# without a look at what the compiled program needs besides.
USABLE, SURELY = 0.85, 0.25


def device_memory() -> int:
    """Bytes that a device has: its own, or its share of the machine's."""
    told = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in told:
        return int(told["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(jax.devices())


def evenly(members: int, most: int) -> int:
    """The size of populations of at most `most`, as few as there can be and of equal sizes, that hold `members`."""
    return -(-members // -(-members // most))


def members_in_turn(arrays: int, temporary: int, memory: int, most: int) -> int:
    """How many members that come in turn a device takes that has `memory` bytes, at least 1 and at most `most`.

    A member keeps `arrays` bytes, and the one that is computed needs `temporary` bytes besides.
    """
    return max(1, min(most, (int(USABLE * memory) - temporary) // arrays))


def population_size(
    alike: int,
    model: Model,
    vocab: int,
    batch: int,
    length: int,
    steps: int,
    optimizer: Optimizer,
    preference: bool,
    layout: Layout,
    asked: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """How many of `alike` members of this shape this machine trains together, on all of its devices; see `Shape`.

    `asked`: at most so many (0: as many as pay and as the memory takes, by what the compiled program needs). Where
    members lie side by side an empty place costs as much as a member: populations are of equal sizes, and none is
    larger than `alike` rounded up to the devices. The same machine finds the same number.
    """

    def program_of(on_each: int, layout: Layout) -> Any:
        """The program for so many members on each device, or None where there is no memory to compile it."""
        places = on_each * groups
        say(
            f"compiling for {counted(places, 'member')} of size {model.name}, to see whether they fit into memory"
        )
        shape = Shape(model, vocab, batch, length, optimizer.name, places, steps, layout, preference)
        arrays = described(model, vocab, optimizer, preference, places)
        try:
            return program(shape, mesh, *arrays, ahead=True)[0]
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None

    mesh = member_mesh(layout.data, layout.fsdp, layout.tensor, layout.groups)
    memory = device_memory()
    groups = mesh.shape["member"]
    if layout.beside and asked:
        return evenly(alike, asked)
    state, reference, _ = described(model, vocab, optimizer, preference, 1)
    parts = layout.fsdp * layout.tensor
    # What a member keeps on a device besides: a copy of its state, which a checkpoint writes while training goes on,
    # and three dispatches' batches that wait.
    waiting = 3 * 4 * np.dtype(np.int32).itemsize * steps * batch * length // (layout.data * layout.fsdp)
    besides = _size(state) // parts + waiting
    if layout.beside:
        on_each = -(-alike // groups)
        count = evenly(on_each, MOST_BESIDE)
        while count > 1:
            # The program with which they are trained, if it fits.
            needs = _bytes(program_of(count, dataclasses.replace(layout, beside=count)))
            needs = needs and needs + count * besides
            if needs is not None and needs <= USABLE * memory:
                break
            fewer = int(USABLE * memory * count / needs) if needs else count // 2
            count = evenly(on_each, max(1, min(count - 1, fewer)))
        return count * groups
    most = asked or MOST.get(jax.default_backend(), MOST_BESIDE)
    each = _size((state, reference))
    if asked or 2 * each * -(-most // groups) < SURELY * memory:
        return most
    # Of two members a device, and among what the program needs besides is a copy of each.
    compiled = program_of(2, layout)
    if compiled is None:
        return groups
    own = each // parts
    temporary = max(0, compiled.memory_analysis().temp_size_in_bytes - 2 * own)
    fitting = members_in_turn(_arrays(compiled) // 2 + own + besides, temporary, memory, -(-most // groups))
    return min(most, fitting * groups)


def scored_size(alike: int, model: Model, vocab: int, asked: int = 0) -> int:
    """How many of `alike` models that need no training are scored together; `asked`: at most so many.

    Each has its parameters and those of its parent on a device. Small ones all have the places of a population in
    training, so that one program scores them all.
    """
    most, memory, devices = asked or MOST_MEMBERS, device_memory(), len(jax.devices())
    each = 2 * sum(model.parameters(vocab)) * np.dtype(np.float32).itemsize
    if -(-most // devices) * each < SURELY * memory:
        return most
    return min(most, alike, max(1, int(USABLE * memory) // each) * devices)


def _size(tree: Any) -> int:
    """Bytes of arrays."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _arrays(compiled: Any) -> int:
    """Bytes that a program takes and gives on a device."""
    needs = compiled.memory_analysis()
    return needs.argument_size_in_bytes + needs.output_size_in_bytes - needs.alias_size_in_bytes


def _bytes(compiled: Any) -> int | None:
    """Bytes that a program needs on a device, or None of none."""
    return None if compiled is None else _arrays(compiled) + compiled.memory_analysis().temp_size_in_bytes


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
