"""Members over virtual devices: bits do not depend on company, and losses are those of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_training as toy
from toy_training import BATCH, LENGTH, MODEL, MUON, VOCAB, Memory, member, run

from caml.models import products
from caml.training import layouts, population
from caml.training.capacity import described
from caml.training.layouts import Layout
from caml.training.mesh import member_mesh
from caml.training.step import Batch

PROGRAM = """
import json, sys
from pathlib import Path
from toy_training import Memory, member, run, same
from caml.training.loop import laid_out
from caml.training.pacing import Pace
from toy_training import MODEL
members = [member(seed, 40) for seed in range(5)]
sink = Memory()
whole = run(members, Path(sys.argv[1]) / "whole", sink, places=6)
few = run([members[3], members[1]], Path(sys.argv[1]) / "few", Memory(), places=6)
bits = [same({k: x[i] for k, x in few.params.items()}, {k: x[m] for k, x in whole.params.items()})
        for i, m in enumerate((3, 1))]
alone = Memory()
run([members[0]], Path(sys.argv[1]) / "alone", alone, places=1)
stopped = run([members[0]], Path(sys.argv[1]) / "stopped", Memory(stop_at=12), places=1)
resumed = run([members[0]], Path(sys.argv[1]) / "stopped", Memory(), places=1)
again = run([members[0]], Path(sys.argv[1]) / "again", Memory(), places=1)
bits += [not stopped.complete, same(resumed.params, again.params)]
print(json.dumps({"alone": alone.column("loss").tolist(), "layout": str(laid_out(Pace(places=1), 1, MODEL, 16, 8)),
                  "same": bits, "programs": few.programs, "loss": sink.column("loss").tolist()}))
"""


@pytest.mark.slow
def test_two_devices(tmp_path: Path):
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "2",
                "PYTHONPATH": str(Path(toy.__file__).parent),
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
    )
    assert found["same"] == [True] * 4
    assert found["programs"] == 0
    sink = Memory()
    run([member(seed, 40) for seed in range(5)], tmp_path / "here", sink, places=6)
    np.testing.assert_allclose(sink.column("loss"), found["loss"], atol=1e-5)
    # One member alone has its batches over both.
    assert found["layout"] == "members in turn, whole batches, a batch over 2 devices"
    np.testing.assert_allclose(sink.column("loss")[:1], found["alone"], atol=1e-5)


COMPILED = """
import json, re, jax, numpy as np, toy_training as toy
from caml.models.transformer import init_parameters
from caml.training import population
from caml.training.layouts import Layout
from caml.training.mesh import member_mesh
from caml.training.optimizer import Schedule, hyper
from caml.training.programs import Shape, program

h = hyper(toy.MUON, Schedule(), 12)
member = population.init_member("muon", init_parameters(toy.MODEL, toy.VOCAB, 0), h)
for places, data in ((16, 1), (4, 2)):
    state, numbers = (population.stack([x] * places) for x in (member, h))
    shape = Shape(toy.MODEL, toy.VOCAB, 4, toy.LENGTH, "muon", places, 4, Layout(data=data), False)
    run, _ = program(shape, member_mesh(data), state, None, numbers)
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    # How many arrays each takes.
    print(json.dumps([one.count("%") for one in re.findall(rf" (?:{kinds})[a-z-]*\\((.*?)\\)", run.as_text())]))

# Three members have two devices each, and two devices have none.
import tempfile
from pathlib import Path
sink = toy.Memory()
toy.run([toy.member(seed, 8) for seed in range(3)], Path(tempfile.mkdtemp()), sink, places=3)
print(json.dumps([sink.readings[-1].devices, sink.column("loss").tolist()]))
"""


def test_nothing_is_passed_between_members_over_devices(tmp_path: Path):
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": str(Path(toy.__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILED],
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    apart, shared, (devices, losses) = map(json.loads, done.stdout.splitlines())
    assert apart == []
    # Of a batch that two devices share they add up the targets, and then loss and gradients as one array: on a CPU they
    # would wait for each other once for each.
    assert shared == [1, 1]
    sink = Memory()
    run([member(seed, 8) for seed in range(3)], tmp_path, sink)
    assert devices == 6
    np.testing.assert_allclose(sink.column("loss"), losses, atol=1e-5)


def test_the_stacked_layout_trains_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    turn, stacked = Memory(), Memory()
    members = [member(0, 12), member(1, 6, broken=4), member(2, 12)]
    run(members, tmp_path / "turn", turn)
    # As on an accelerator, the gradient of embeddings with it.
    monkeypatch.setitem(layouts.MEMBERS_LIE, "cpu", "stacked")
    monkeypatch.setattr(products, "one_hot", lambda vocab: True)
    found = run(members, tmp_path / "stacked", stacked)
    assert found.stopped.tolist() == [-1, 4, -1]
    np.testing.assert_allclose(stacked.column("loss"), turn.column("loss"), atol=1e-5)


@pytest.mark.parametrize("beside", [0, 7])
def test_members_come_in_turn_or_lie_side_by_side_as_the_layout_says(beside: int):
    mesh = member_mesh()
    places = 7 * mesh.shape["member"]
    whole, real = (jax.ShapeDtypeStruct((places, 4, BATCH, LENGTH), kind) for kind in (np.int32, np.float32))
    counter = jax.ShapeDtypeStruct((), np.int32)
    text = str(
        jax.make_jaxpr(population.build(MODEL, "muon", Layout(beside=beside), mesh))(
            *described(MODEL, VOCAB, MUON, False, places),
            Batch(whole, whole, whole, real),
            counter,
            counter,
        )
    )
    assert ("length=7" in text) == (beside == 0)
