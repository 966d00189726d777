"""One model over eight virtual devices: its losses are those of one device, and each holds a part of it."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
from caml.training.loop import laid_out, train
from caml.training.pacing import Pace
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
found["embedding"] = part(after.params["model.embed_tokens.weight"])
found["norm"] = part(after.params["model.norm.weight"])
found["momentum"] = [part(x) for x in jax.tree.leaves(after.optimizer[0]) if x.ndim == 4]
found["batch"] = part(batches.tokens)
per_device = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(after))
found["share"] = per_device / whole_bytes

found["bfloat16"] = apart("bfloat16", Execution(fsdp=2, tensor=2), "adamw", precision="bfloat16")

# A GPU's kernel of attention has a device's own heads and rows: interpreted here.
import caml.models.attention as attention
attention.KERNELS["cpu"], triton.attend = "triton", functools.partial(triton.attend, interpret=True)
found["kernel"] = apart("triton", Execution(fsdp=2, tensor=2), "adamw")
print(json.dumps(found))
"""


GRADIENTS = """
import dataclasses, functools, json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import toy_training as toy
from caml.models import products, transformer
from caml.models.compute import Compute
from caml.models.kernels import triton
from caml.models.sizes import Model
from caml.models.transformer import init_parameters
from caml.training import updates
from caml.training.layouts import Layout
from caml.training.mesh import AXES, array_spec
from caml.training.optimizer import Schedule, hyper
from caml.training.step import Batch, train_step

products.one_hot = lambda vocab: vocab < 16
triton.attend = functools.partial(triton.attend, interpret=True)
toy.BATCH = 16
whole = Model("whole", 32, 2, 8, 4, 4, 64, init_scale=0.3)
odd = Model("odd", 24, 2, 4, 4, 6, 20, init_scale=0.3, tied_embeddings=False)
cases = [
    (whole, (2, 2, 2), {}, {}, False),
    (odd, (1, 2, 4), {}, {"remat": "layers"}, True),
    (whole, (1, 8, 1), {}, {}, False),
    (odd, (1, 2, 4), {"rows": 2}, {"remat": "products"}, False),
    (whole, (1, 2, 4), {}, {"kernel": "triton", "fused": True}, False),
    (odd, (1, 8, 1), {}, {}, True),
    (whole, (1, 1, 4), {}, {"precision": "bfloat16"}, False),
    (dataclasses.replace(odd, tied_embeddings=True), (4, 1, 2), {"rows": 1}, {}, False),
]
h = hyper(dataclasses.replace(toy.ADAMW, clip=0.0), Schedule(), 1)
h = h._replace(beta=np.float32(0.3))
# What a device has of the model and of the batch suits the kernels.
assert all(transformer.fused(name, Compute(fused=True), n, 128) for name, n in (("heads", 4), ("swiglu", 16)))


def drawn(seed, model, vocab):
    norms = np.random.default_rng(seed)
    return {name: x if x.ndim > 1 else x * norms.uniform(0.5, 2, x.shape).astype(np.float32)
            for name, x in init_parameters(model, vocab, seed).items()}


def learned(model, params, batch, reference, layout, over):
    # The first moment of AdamW after a step is a share of the gradient.
    state = updates.init_state("adamw", params, h)
    mesh = Mesh(np.array(jax.devices()[:np.prod(over)]).reshape(1, *over), AXES)

    def placed(tree):
        lie = {n: PartitionSpec(*array_spec(n, (1, *x.shape), mesh)[1:]) for n, x in tree.items()}
        return jax.device_put(tree, {n: NamedSharding(mesh, spec) for n, spec in lie.items()})

    def step(params, batch, reference):
        return train_step(model, "adamw", params, state, batch, np.int32(0), h, reference, layout)

    with jax.set_mesh(mesh):
        new, state, told, _ = jax.jit(step)(placed(params), batch, reference and placed(reference))
    return jax.device_get({**state[1].mu, **told})


apart = []
for model, over, layout, compute, preference in cases[slice(*map(int, sys.argv[1:]))]:
    vocab = 15 if model is odd else 16
    data = toy.Preferring(3, 1) if preference else toy.Counting(3, 1)
    batch = jax.tree.map(lambda x: x[0], data.batches(0, 1))
    batch = batch._replace(tokens=batch.tokens % vocab)
    if not preference:  # of some devices' own rows and tokens no loss is taken
        weights = np.random.default_rng(0).integers(0, 3, batch.weights.shape) * (np.arange(16)[:, None] > 2)
        batch = batch._replace(weights=(weights * (np.arange(16) < 12)).astype(np.float32))
    reference = drawn(1, model, vocab) if preference else None
    params = drawn(0, model, vocab)
    alone = Layout(compute=Compute(precision=compute.get("precision", "float32")))
    truth = learned(model, params, batch, reference, alone, (1, 1, 1))
    data, fsdp, tensor = over
    here = Layout(data=data, fsdp=fsdp, tensor=tensor, compute=Compute(sharded=True, **compute), **layout)
    found = learned(model, params, batch, reference, here, over)
    assert found.keys() == truth.keys()
    apart.append({n: float(np.abs(found[n] - x).max() / max(np.abs(x).max(), 1e-30 if x.ndim else 0.1))
                  for n, x in truth.items()})
print(json.dumps(apart))
"""


def over_devices(program: str, *arguments: str) -> Any:
    """What `program` prints last, on eight virtual devices."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
        "PYTHONPATH": str(Path(toy.__file__).parent),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("cases", [(0, 2), pytest.param((2, 8), marks=pytest.mark.slow)])
def test_gradients_and_what_is_told_are_those_of_one_device(cases: tuple[int, int]):
    found = over_devices(GRADIENTS, *map(str, cases))
    assert len(found) == cases[1] - cases[0]
    # The seventh is in bfloat16, whose own error is larger.
    for number, apart in enumerate(found, start=cases[0]):
        assert max(apart.values()) < (0.06 if number == 6 else 3e-5), apart


COMPILED = """
import dataclasses, json, re
import jax, numpy as np
import toy_training as toy
from caml.training import population
from caml.training.capacity import described
from caml.training.execution import Execution
from caml.training.loop import laid_out
from caml.training.pacing import Pace
from caml.training.mesh import member_mesh
from caml.training.programs import Shape, program

model = dataclasses.replace(toy.MODEL, heads=4, kv_heads=2, layers=2)
found = {}
for fsdp, tensor in ((8, 1), (2, 2)):
    layout = laid_out(Pace(asked=Execution(fsdp=fsdp, tensor=tensor, rows=40 // (8 // tensor))), 1, model, 40, 16)
    shape = Shape(model, 16, 40, 16, "adamw", 1, 2, layout, False)
    run, _ = program(shape, member_mesh(layout.data, fsdp, tensor), *described(model, 16, toy.ADAMW, False, 1))
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    sides, (state, _, numbers) = (1, 2, 40, 16), described(model, 16, toy.ADAMW, False, 1)
    whole, real = (jax.ShapeDtypeStruct(sides, kind) for kind in (np.int32, np.float32))
    counter = jax.ShapeDtypeStruct((), np.int32)
    mesh = member_mesh(layout.data, fsdp, tensor)
    with jax.set_mesh(mesh):
        traced = jax.make_jaxpr(population.build(model, "adamw", layout, mesh))(
            state, None, numbers, toy.Batch(whole, whole, whole, real), counter, counter)
    found[f"asked {fsdp}"] = [str(traced).count(f"= {what}") for what in ("all_gather[", "optimization_barrier ")]
    found[fsdp] = [
        (kind, [list(map(int, array.split(","))) for array in re.findall(r"\\w+\\[([\\d,]+)\\]", given)])
        for given, kind in re.findall(rf" = (.*?) ({kinds})(?:-start)?\\(", run.as_text())
    ]
print(json.dumps(found))
"""


def test_over_fsdp_devices_pass_parameters_and_no_tokens():
    found = over_devices(COMPILED)
    # 2 layers' matrices, forward and backward, and the embedding; 40 rows of 16 tokens, of which a device has 5 or 10.
    passed = [array for _, arrays in found["8"] for array in arrays]
    assert {kind for kind, _ in found["8"]} == {"all-gather", "all-reduce", "reduce-scatter"}
    assert not [array for array in passed if {40, 80, 640} & set(array)]
    gathered = sum(
        math.prod(array) for kind, arrays in found["8"] if kind == "all-gather" for array in arrays
    )
    # Of each of four products the matrix is asked for twice, the second time behind a barrier beside that of every
    # product (XLA on a CPU merges them all the same, for a GPU it does not), and the embedding once; what both layers
    # do is written once. The head has a product too.
    assert found["asked 8"] == [2 * 4 + 1, 2 * 4 + 1]
    matrices = 2 * (16 * (32 + 16 + 16 + 32) + 3 * 16 * 24)
    assert matrices <= gathered - 16 * 16 <= 2 * matrices
    # Over `tensor` they add up what goes into the stream and what its gradient is, four times a layer.
    of_tokens = [kind for kind, arrays in found["2"] for array in arrays if 160 in array or 80 in array]
    assert of_tokens.count("all-reduce") == 8
    assert {kind for kind, _ in found["2"]} == {"all-gather", "all-reduce", "reduce-scatter"}
    assert not [array for _, arrays in found["2"] for array in arrays if {40, 640} & set(array)]


@pytest.mark.slow
def test_a_model_over_eight_devices(tmp_path: Path):
    found = over_devices(PROGRAM, str(tmp_path))
    assert len(found["apart"]) == 6
    assert max(found["apart"].values()) < 2e-6, found["apart"]
    assert found["same bits"]
    # [members, out, in] of 24 x 16: neurons over `tensor`, the stream over `fsdp`.
    assert found["down_proj"] == [1, 8, 12]
    assert found["q_proj"] == [1, 16, 8]
    assert found["embedding"] == [1, 16, 4]
    assert found["norm"] == [1, 16]
    assert found["batch"] == [1, 4, 4, toy.LENGTH]
    assert all(
        np.prod(part[2:]) * 4 == np.prod(whole)
        for part, whole in zip(found["momentum"], sorted_shapes(), strict=True)
    ), found["momentum"]
    # Matrices and what Muon keeps of them are in four parts; norms are whole everywhere.
    assert found["share"] < 0.3
    assert found["kernel"] < 2e-6
    assert 0 < found["bfloat16"] < 0.05


def sorted_shapes() -> list[tuple[int, int]]:
    """Muon's stacks of matrices, by the name of their shape."""
    return [(16, 16), (16, 24), (16, 32)]
