"""How many members train together follows from the memory of the compiled program."""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import BATCH, LENGTH, MODEL, MUON, VOCAB, Memory, member, run

from caml.training import capacity, layouts, programs
from caml.training.capacity import (
    USABLE,
    described,
    evenly,
    members_in_turn,
    population_size,
    scored_size,
)
from caml.training.layouts import Layout
from caml.training.loop import laid_out
from caml.training.mesh import member_mesh
from caml.training.pacing import Pace
from caml.training.programs import Shape, program
from caml.training.step import Batch

DEVICES = len(jax.devices())
PACE = Pace(steps=4)


def lying(beside: int = 0) -> Layout:
    """As the toy lies here, members in turn or so many beside each other: then one program serves several tests."""
    lies = laid_out(PACE, DEVICES, MODEL, BATCH, LENGTH)
    return dataclasses.replace(lies, beside=beside)


def besides(members: int) -> int:
    """Bytes on a device of a checkpoint of so many members, and of three dispatches' batches that wait."""
    state = described(MODEL, VOCAB, MUON, False, members)[0]
    batches = [np.zeros((members, PACE.steps, BATCH, LENGTH), np.int32)] * len(Batch._fields)
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in [*jax.tree.leaves(state), *3 * batches])


def needed(members: int, layout: Layout) -> int:
    """Bytes on a device of the program for so many members on each, and of what is kept besides."""
    mesh = member_mesh()
    state, reference, numbers = described(MODEL, VOCAB, MUON, False, members * DEVICES)
    shape = Shape(MODEL, VOCAB, BATCH, LENGTH, "muon", members * DEVICES, PACE.steps, layout, False)
    memory = program(shape, mesh, state, reference, numbers)[0].memory_analysis()
    return (
        besides(members)
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def size(alike: int, layout: Layout, asked: int = 0, said: list[str] | None = None) -> int:
    said = [] if said is None else said
    return population_size(
        alike, MODEL, VOCAB, BATCH, LENGTH, PACE.steps, MUON, False, layout, asked, said.append
    )


@pytest.mark.slow
def test_of_members_in_turn_as_many_as_fit_and_not_one_more(monkeypatch: pytest.MonkeyPatch):
    # Memory for three on each device, and a little.
    monkeypatch.setattr(capacity, "device_memory", lambda: int(1.05 * needed(3, lying()) / USABLE))
    assert size(100, lying()) == 3 * DEVICES
    assert needed(4, lying()) > USABLE * capacity.device_memory()


def test_members_side_by_side_are_as_many_as_fit_in_populations_of_equal_sizes(
    monkeypatch: pytest.MonkeyPatch,
):
    room = int(1.02 * needed(3, lying(3)) / USABLE)
    assert needed(4, lying(4)) > USABLE * room
    monkeypatch.setattr(capacity, "device_memory", lambda: room)
    said: list[str] = []
    assert size(3 * DEVICES, lying(3), said=said) == 3 * DEVICES
    assert said == [f"compiling for {3 * DEVICES} members of size toy, to see whether they fit into memory"]
    # Without room for a checkpoint's copy beside the program it would end when the first is due.
    monkeypatch.setattr(capacity, "device_memory", lambda: int((needed(3, lying(3)) - 1) / USABLE))
    assert size(3 * DEVICES, lying(3)) == 2 * DEVICES
    monkeypatch.setattr(capacity, "device_memory", lambda: room)
    # One more does not fit, and of two populations neither has places that are empty.
    assert size(4 * DEVICES, lying(4)) == 2 * DEVICES
    said.clear()
    # Nothing is compiled where there is one for each device, or so many are asked for.
    assert size(DEVICES, lying(1), said=said) == size(1, lying(1), said=said) == DEVICES
    asked = {(3, 3): 3, (12, 12): 12, (12, 7): 6, (9, 7): 5, (9, 5): 5, (9, 1): 1, (3, 40): 3}
    found = {(n, most): size(n, lying(-(-n // DEVICES)), asked=most, said=said) for n, most in asked}
    assert found == asked
    assert not said
    monkeypatch.setattr(capacity, "device_memory", lambda: 1)
    assert size(4 * DEVICES, lying(4)) == DEVICES


def test_a_program_that_was_looked_at_is_that_of_the_training_and_told_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: list[str]
):
    monkeypatch.setitem(layouts.MEMBERS_LIE, jax.default_backend(), "stacked")
    monkeypatch.setattr(programs, "_PROGRAMS", {})  # as in a process that has compiled nothing
    # Four on each device do not fit, and two do.
    monkeypatch.setattr(capacity, "device_memory", lambda: int(1.02 * needed(3, lying(3)) / USABLE))
    alike = 4 * DEVICES
    for _ in range(2):
        said: list[str] = []
        lies = laid_out(PACE, alike, MODEL, BATCH, LENGTH)
        places = population_size(
            alike, MODEL, VOCAB, BATCH, LENGTH, PACE.steps, MUON, False, lies, say=said.append
        )
        assert (lies.beside, places, len(said)) == (4, 2 * DEVICES, 2)
    members = [member(seed, 8) for seed in range(places)]
    assert "jit(on_device)" in compiled
    compiled.clear()
    found = run(members, tmp_path / "a", Memory(), steps=PACE.steps, places=places)
    assert "jit(on_device)" not in compiled
    assert found.complete and found.programs == 1 and found.seconds > 0
    assert run(members, tmp_path / "b", Memory(), steps=PACE.steps, places=places).programs == 0


def test_models_that_need_no_training_have_the_places_of_others_where_they_are_small(
    monkeypatch: pytest.MonkeyPatch,
):
    assert scored_size(2, MODEL, VOCAB) == 12
    assert scored_size(2, MODEL, VOCAB, asked=5) == 5
    own = 4 * sum(MODEL.parameters(VOCAB))
    # Room for two pairs on each device.
    monkeypatch.setattr(capacity, "device_memory", lambda: int(2.1 * 2 * own / USABLE))
    assert scored_size(1, MODEL, VOCAB) == 1
    assert scored_size(100, MODEL, VOCAB) == 2 * DEVICES
    monkeypatch.setattr(capacity, "device_memory", lambda: 1)
    assert scored_size(100, MODEL, VOCAB) == DEVICES


def test_small_models_take_what_pays_and_large_ones_go_alone(monkeypatch: pytest.MonkeyPatch):
    assert size(1, lying()) == size(100, lying()) == 12
    assert size(100, lying(), asked=40) == 40
    for room, on_each in ((1.05, 2), (0.98, 1)):
        monkeypatch.setattr(
            capacity, "device_memory", lambda room=room: int(room * needed(2, lying()) / USABLE)
        )
        assert size(100, lying()) == on_each * DEVICES


@given(members=st.integers(1, 500), most=st.integers(1, 64))
def test_populations_are_few_and_of_equal_sizes(members: int, most: int):
    found = evenly(members, most)
    populations = -(-members // found)
    assert 1 <= found <= most
    assert populations == -(-members // most)
    assert found * populations - members < populations


@given(
    arrays=st.integers(1, 10**6),
    temporary=st.integers(0, 10**6),
    memory=st.integers(1, 10**8),
    most=st.integers(1, 64),
)
def test_members_in_turn_that_fit(arrays: int, temporary: int, memory: int, most: int):
    found = members_in_turn(arrays, temporary, memory, most)
    assert 1 <= found <= most
    assert found == 1 or found * arrays + temporary <= USABLE * memory
    assert found == most or (found + 1) * arrays + temporary > USABLE * memory - 1
