"""A stage in float32 asks an accelerator for float32 products; one in bfloat16 leaves its optimizer as it is."""

import jax
import numpy as np
import pytest
from toy_training import BATCH, LENGTH, MODEL, MUON, VOCAB

from caml.models.compute import Compute
from caml.training import population
from caml.training.capacity import described
from caml.training.layouts import Layout
from caml.training.mesh import member_mesh
from caml.training.step import Batch


def products(precision: str) -> list[str]:
    """The lines of the lowered program of a population with its matrix products."""
    mesh = member_mesh()
    places = mesh.shape["member"]
    axes = (places, 2, BATCH, LENGTH)
    whole, real = (jax.ShapeDtypeStruct(axes, kind) for kind in (np.int32, np.float32))
    run = population.build(MODEL, "muon", Layout(compute=Compute(precision=precision, kernel="plain")), mesh)
    counters = (jax.ShapeDtypeStruct((), np.int32),) * 2
    given = described(MODEL, VOCAB, MUON, False, places)
    text = run.lower(*given, Batch(whole, whole, whole, real), *counters).as_text()
    return [line for line in text.splitlines() if "dot_general" in line]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_products_are_asked_for_in_the_precision_of_the_stage(
    platform: str, precision: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    found = products(precision)
    asked = ["HIGHEST" in line for line in found]
    assert len(found) > 10
    assert all(asked) if (platform, precision) == ("gpu", "float32") else not any(asked)
