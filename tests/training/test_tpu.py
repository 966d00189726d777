"""What is trained and scored compiles for a TPU that is not there: it takes libtpu (the extra `tpu`), no TPU."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu"),
]

BEGUN = """
import json, re, sys
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from caml.evals import scoring
from caml.evals.questions import Rows
from caml.models.sizes import Model
from caml.models.transformer import shapes
from caml.training.capacity import described
from caml.training.execution import Execution
from caml.training.layouts import layout_of
from caml.training.mesh import AXES, EVERYWHERE, batch_spec, shardings
from caml.training.optimizer import Optimizer
from caml.training.population import build
from caml.training.step import Batch

chips = np.array(topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices)
jax.default_backend = lambda: "tpu"
asked = json.loads(sys.argv[1])
model, vocab, batch, length = Model("m", **asked["model"]), asked["vocab"], 16, asked["length"]


def told(compiled):
    text, memory = compiled.as_text(), compiled.memory_analysis()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    print(json.dumps({
        "passed": sorted(set(re.findall(rf" ({kinds})(?:-start)?\\(", text))),
        "kernels": text.count("tpu_custom_call"),
        "bytes": memory.temp_size_in_bytes + memory.argument_size_in_bytes,
    }))
"""
TRAINED = (
    BEGUN
    + """
members, shapes = asked["members"], (batch, length, model.width)
execution = Execution(**asked.get("execution", {}))
layout = layout_of("tpu", len(chips), members, *shapes, execution, asked["precision"], model.kv_heads)
mesh = Mesh(chips.reshape(-1, layout.data, layout.fsdp, layout.tensor), AXES)


def placed(tree):
    return jax.tree.map(
        lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), tree, shardings(tree, mesh))


optimizer = Optimizer(asked["optimizer"], 1e-3, 1e-3)
state, reference, numbers = map(placed, described(model, vocab, optimizer, asked["preference"], members))
sides, lies = (members, 4, batch, length), NamedSharding(mesh, batch_spec(mesh))
whole, real = (jax.ShapeDtypeStruct(sides, kind, sharding=lies) for kind in (np.int32, np.float32))
counter = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, EVERYWHERE))
with jax.set_mesh(mesh):
    lowered = build(model, asked["optimizer"], layout, mesh).lower(
        state, reference, numbers, Batch(whole, whole, whole, real), counter, counter)
told(lowered.compile())
"""
)
SCORED = (
    BEGUN
    + """
here = jax.sharding.SingleDeviceSharding(chips[0])
def array(*sides, kind=np.int32): return jax.ShapeDtypeStruct(sides, kind, sharding=here)
params = {name: array(*sides, kind=np.float32) for name, sides in shapes(model, vocab).items()}
tokens, places = array(64, length), array(64, 8, 2, 3)
held_out = Batch(*[array(batch, length)] * 3, array(batch, length, kind=np.float32))
told(jax.jit(lambda params, parent, rows, held_out: (
    scoring.log_probs(params, model, rows), scoring.held_out_scores(params, parent, model, held_out)
)).lower(params, params, Rows(tokens, tokens, tokens, places, places), held_out).compile())
"""
)
TOY = {"width": 32, "layers": 2, "heads": 4, "kv_heads": 2, "head_dim": 8, "mlp_width": 88}
SMALL = {"width": 768, "layers": 2, "heads": 12, "kv_heads": 4, "head_dim": 64, "mlp_width": 2048}


def compiled(program: str, model: dict[str, int], vocab: int, length: int, **asked: Any) -> dict[str, Any]:
    """What is told of the program for eight chips."""
    environment = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            json.dumps(asked | {"model": model, "vocab": vocab, "length": length}),
        ],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("members", [8, 40])
@pytest.mark.parametrize(
    ("optimizer", "preference", "precision", "length"),
    [("muon", False, "bfloat16", 64), ("adamw", True, "float32", 100)],
)
def test_members_pass_nothing_to_each_other(
    members: int, optimizer: str, preference: bool, precision: str, length: int
):
    asked = {"optimizer": optimizer, "preference": preference, "precision": precision}
    found = compiled(TRAINED, TOY, 128, length, members=members, **asked)
    assert found["passed"] == [] and found["kernels"] >= 6


@pytest.mark.parametrize(
    ("execution", "optimizer", "preference"),
    [
        ({"fsdp": 8}, "adamw", False),
        ({"fsdp": 2, "tensor": 4, "remat": "layers"}, "adamw", True),
        ({"fsdp": 4, "remat": "products"}, "muon", False),
    ],
)
def test_a_model_over_chips(execution: dict[str, Any], optimizer: str, preference: bool):
    asked = {"optimizer": optimizer, "preference": preference, "precision": "bfloat16"}
    found = compiled(TRAINED, SMALL, 50_257, 1024, members=1, execution=execution, **asked)
    assert {"all-gather", "all-reduce"} <= set(found["passed"])
    assert found["kernels"] >= 6


def test_scores_of_many_words_fit():
    """Beside less than the logits of 16,384 tokens, all of which were in memory once, three times."""
    found = compiled(SCORED, SMALL, 50_257, 1024)
    assert found["kernels"] >= 2
    assert found["bytes"] < 16_384 * 50_257 * 4
