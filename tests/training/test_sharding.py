"""One model over eight virtual devices: its losses are those of one device, and each holds a part of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_training as toy

PROGRAM = """
import dataclasses, functools, json, sys, threading
from pathlib import Path
import jax, numpy as np
import toy_training as toy
from caml.models import products
from caml.models.kernels import triton
from caml.models.transformer import init_parameters
from caml.training import population, updates
from caml.training.execution import Execution
from caml.training.loop import Pace, laid_out, train
from caml.training.mesh import member_mesh
from caml.training.optimizer import Schedule, hyper
from caml.training.programs import Shape, program

toy.BATCH = 16
products.one_hot = lambda vocab: True  # as on an accelerator
MODEL = dataclasses.replace(toy.MODEL, heads=4, kv_heads=2, layers=2)
KINDS = {"adamw": toy.ADAMW, "muon": toy.MUON}


def losses(name, asked, optimizer, members=1, stop_at=-1, precision="float32", seed=0):
    pace, sink = Pace(steps=4, places=members, asked=asked), toy.Memory(stop_at)
    trained = train([toy.member(seed + k, 12, optimizer=KINDS[optimizer]) for k in range(members)], MODEL, toy.VOCAB,
                    16, toy.LENGTH, Path(sys.argv[1]) / name, sink, pace, sink.stop, precision=precision)
    return sink.column("loss"), trained.params, trained.complete


@functools.cache
def one_device(optimizer):
    return losses(f"{optimizer}-one", Execution(data=1), optimizer)


def apart(name, asked, optimizer, **others):
    one = one_device(optimizer)
    many = losses(name, asked, optimizer, **others)
    return float(np.abs(one[0] - many[0]).max())


found = {"apart": {}}
for number, (optimizer, asked) in enumerate((
    ("adamw", Execution(data=8)), ("adamw", Execution(fsdp=4, tensor=2, rows=1)), ("adamw", Execution(fsdp=8)),
    ("muon", Execution(fsdp=2, tensor=2)), ("muon", Execution(fsdp=2, rows=1, remat="products")),
    ("muon", Execution(tensor=2, remat="layers")),
)):
    found["apart"][f"{optimizer} {asked}"] = apart(f"{optimizer}-{number}", asked, optimizer)

# Stopped in the middle and gone on: the same bits.
asked = Execution(fsdp=2, tensor=2)
whole = losses("whole", asked, "muon", seed=5)[1]
assert not losses("broken", asked, "muon", seed=5, stop_at=4)[2]
resumed = losses("broken", asked, "muon", seed=5)[1]
found["same bits"] = toy.same(whole, resumed)

# Where the arrays really are, before and after a step.
h = hyper(toy.MUON, Schedule(), 12)
state = jax.tree.map(lambda x: np.asarray(x)[None], population.init_member("muon", init_parameters(MODEL, 16, 0), h))
mesh = member_mesh(2, 2, 2)
layout = laid_out(Pace(asked=asked), 1, MODEL, 16, toy.LENGTH)
numbers = population.stack([h])
run, _ = program(Shape(MODEL, 16, 16, toy.LENGTH, "muon", 1, 4, layout, False), mesh, state, None, numbers)
batches = population.place_batches(
    toy.Batch(*(np.asarray(x)[None] for x in toy.Counting(0, 12).batches(0, 4))), mesh)
before = population.place(state, mesh)
whole_bytes = sum(x.nbytes for x in jax.tree.leaves(before))
after, _ = run(before, None, population.place(numbers, mesh), batches, np.int32(0), np.int32(4))
def part(x): return list(x.addressable_shards[0].data.shape)
found["down_proj"] = part(after.params["model.layers.0.mlp.down_proj.weight"])
found["q_proj"] = part(after.params["model.layers.0.self_attn.q_proj.weight"])
found["norm"] = part(after.params["model.norm.weight"])
found["momentum"] = [part(x) for x in jax.tree.leaves(after.optimizer[0]) if x.ndim == 4]
found["batch"] = part(batches.tokens)
per_device = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(after))
found["share"] = per_device / whole_bytes

found["bfloat16"] = apart("bfloat16", Execution(fsdp=2, tensor=2), "adamw", precision="bfloat16")

# Kernels that the compiler cannot cut are given a device's own heads and rows: interpreted here.
import caml.models.attention as attention
attention.KERNELS["cpu"], triton.attend = "triton", functools.partial(triton.attend, interpret=True)
found["by hand"] = apart("triton", Execution(fsdp=2, tensor=2), "adamw")
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_model_over_eight_devices(tmp_path: Path):
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": str(Path(toy.__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["apart"]) == 6
    assert max(found["apart"].values()) < 2e-6, found["apart"]
    assert found["same bits"]
    # [members, out, in] of 24 x 16: neurons over `tensor`, the stream over `fsdp`.
    assert found["down_proj"] == [1, 8, 12]
    assert found["q_proj"] == [1, 16, 8]
    assert found["norm"] == [1, 16]
    assert found["batch"] == [1, 4, 4, toy.LENGTH]
    assert all(
        np.prod(part[2:]) * 4 == np.prod(whole)
        for part, whole in zip(found["momentum"], sorted_shapes(), strict=True)
    ), found["momentum"]
    # Matrices and what Muon keeps of them are in four parts; norms are whole everywhere.
    assert found["share"] < 0.3
    assert found["by hand"] < 2e-6
    assert 0 < found["bfloat16"] < 0.05


def sorted_shapes() -> list[tuple[int, int]]:
    """Muon's stacks of matrices, by the name of their shape."""
    return [(16, 16), (16, 24), (16, 32)]
