"""How many members train together follows from the memory of the compiled program."""

import dataclasses
from pathlib import Path

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import BATCH, LENGTH, MODEL, MUON, VOCAB, Memory, member, run

from caml.training import capacity, layouts
from caml.training.capacity import USABLE, described, evenly, members_in_turn, population_size
from caml.training.layouts import Layout
from caml.training.loop import Pace, laid_out
from caml.training.mesh import member_mesh
from caml.training.programs import Shape, program

DEVICES = len(jax.devices())


def needed(members: int, layout: Layout) -> int:
    """Bytes on a device of the program for so many members on each."""
    mesh = member_mesh()
    state, reference, numbers = described(MODEL, VOCAB, MUON, False, members * DEVICES)
    shape = Shape(MODEL, VOCAB, BATCH, LENGTH, "muon", members * DEVICES, 4, layout, False)
    memory = program(shape, mesh, state, reference, numbers)[0].memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def size(alike: int, layout: Layout, asked: int = 0, model=MODEL, said: list[str] | None = None) -> int:
    said = [] if said is None else said
    return population_size(alike, model, VOCAB, BATCH, LENGTH, 4, MUON, False, layout, asked, said.append)


@pytest.mark.slow
def test_of_members_in_turn_as_many_as_fit_and_not_one_more(monkeypatch: pytest.MonkeyPatch):
    # Memory for three on each device, and a little.
    monkeypatch.setattr(capacity, "device_memory", lambda: int(1.05 * needed(3, Layout()) / USABLE))
    assert size(100, Layout()) == 3 * DEVICES
    assert needed(4, Layout()) > USABLE * capacity.device_memory()


def test_members_side_by_side_are_as_many_as_fit_in_populations_of_equal_sizes(
    monkeypatch: pytest.MonkeyPatch,
):
    def beside(count: int) -> Layout:
        return Layout(beside=count)

    room = int(1.02 * needed(3, beside(3)) / USABLE)
    assert needed(4, beside(4)) > USABLE * room
    monkeypatch.setattr(capacity, "device_memory", lambda: room)
    said: list[str] = []
    assert size(3 * DEVICES, beside(3), said=said) == 3 * DEVICES
    assert said == [f"compiling for {3 * DEVICES} members of size toy, to see whether they fit into memory"]
    # One more does not fit, and of two populations neither has places that are empty.
    assert size(4 * DEVICES, beside(4)) == 2 * DEVICES
    said.clear()
    # Nothing is compiled where there is one for each device, or so many are asked for.
    assert size(DEVICES, beside(1), said=said) == size(1, beside(1), said=said) == DEVICES
    assert size(9 * DEVICES, beside(9), asked=2 * DEVICES, said=said) == 2 * DEVICES
    assert size(3 * DEVICES, beside(3), asked=2 * DEVICES, said=said) == 2 * DEVICES
    assert size(9 * DEVICES, beside(9), asked=1, said=said) == 1
    assert not said
    monkeypatch.setattr(capacity, "device_memory", lambda: 1)
    assert size(4 * DEVICES, beside(4)) == DEVICES


def test_a_program_that_was_looked_at_is_that_of_the_training_and_told_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(layouts.MEMBERS_LIE, jax.default_backend(), "stacked")
    pace = Pace(steps=3)
    members = [member(seed, 6) for seed in range(2 * DEVICES)]
    lies = laid_out(pace, len(members), MODEL, BATCH, LENGTH)
    assert lies.beside == 2
    said: list[str] = []
    places = population_size(
        len(members), MODEL, VOCAB, BATCH, LENGTH, pace.steps, MUON, False, lies, say=said.append
    )
    assert places == 2 * DEVICES and len(said) == 1
    found = run(members, tmp_path / "a", Memory(), steps=3, places=places)
    assert found.complete and found.programs == 1 and found.seconds > 0
    assert run(members, tmp_path / "b", Memory(), steps=3, places=places).programs == 0


def test_small_models_take_what_pays_and_large_ones_go_alone(monkeypatch: pytest.MonkeyPatch):
    assert size(1, Layout()) == size(100, Layout()) == 12
    assert size(100, Layout(), asked=40) == 40
    wide = dataclasses.replace(MODEL, width=64)
    monkeypatch.setattr(capacity, "device_memory", lambda: 2**18)
    assert size(100, Layout(), model=wide) == DEVICES


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
