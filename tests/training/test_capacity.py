"""How many members train together follows from the memory of the compiled program."""

import dataclasses

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import BATCH, LENGTH, MODEL, MUON, VOCAB

from caml.training import capacity
from caml.training.capacity import USABLE, described, members_that_fit, most_members
from caml.training.layouts import Layout
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


@pytest.mark.slow
@pytest.mark.parametrize("members", ["turn", "stacked"])
def test_as_many_as_fit_and_not_one_more(members: str, monkeypatch: pytest.MonkeyPatch):
    layout = Layout(members=members)
    # Memory for three on each device, and a little.
    monkeypatch.setattr(capacity, "device_memory", lambda: int(1.05 * needed(3, layout) / USABLE))
    found = most_members(MODEL, VOCAB, BATCH, LENGTH, 4, MUON, False, layout)
    assert found == 3 * DEVICES
    assert needed(4, layout) > USABLE * capacity.device_memory()


def test_small_models_take_what_pays_and_large_ones_go_alone(monkeypatch: pytest.MonkeyPatch):
    assert most_members(MODEL, VOCAB, BATCH, LENGTH, 4, MUON, False, Layout()) == 12
    wide = dataclasses.replace(MODEL, width=64)
    monkeypatch.setattr(capacity, "device_memory", lambda: 2**18)
    assert most_members(wide, VOCAB, BATCH, LENGTH, 4, MUON, False, Layout()) == DEVICES


@given(
    arrays=st.integers(1, 10**6),
    temporary=st.integers(0, 10**6),
    stacked=st.booleans(),
    memory=st.integers(1, 10**8),
    most=st.integers(1, 64),
)
def test_members_that_fit(arrays: int, temporary: int, stacked: bool, memory: int, most: int):
    found = members_that_fit(arrays, temporary, stacked, memory, most)

    def needs(members: int) -> int:
        return members * arrays + temporary * (members if stacked else 1)

    assert 1 <= found <= most
    assert found == 1 or needs(found) <= USABLE * memory
    assert found == most or needs(found + 1) > USABLE * memory - 1
