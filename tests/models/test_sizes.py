"""Sizes: true parameter counts and shapes that cannot be."""

import dataclasses
import itertools
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caml.config import files
from caml.config.errors import Invalid
from caml.models.sizes import Model
from caml.models.transformer import init_parameters

ROOT = Path(__file__).parent.parent.parent
SMALL = Model("small", width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=24)


@given(
    layers=st.integers(1, 3),
    kv_heads=st.sampled_from([1, 2, 4]),
    head_dim=st.sampled_from([2, 8]),
    tied=st.booleans(),
    vocab=st.integers(1, 40),
)
def test_counts_are_those_of_the_arrays(layers: int, kv_heads: int, head_dim: int, tied: bool, vocab: int):
    model = dataclasses.replace(
        SMALL, layers=layers, kv_heads=kv_heads, head_dim=head_dim, tied_embeddings=tied
    )
    sizes = {name: array.size for name, array in init_parameters(model, vocab, seed=0).items()}
    tables = sum(n for name, n in sizes.items() if "embed" in name or "lm_head" in name)
    assert model.parameters(vocab) == (sum(sizes.values()) - tables, tables)


def test_a_published_size_counts_as_published():
    model = Model("0.6B", 1024, 28, heads=16, kv_heads=8, head_dim=128, mlp_width=3072)
    assert model.parameters(151936) == (440_467_456, 155_582_464)


def shipped() -> list[tuple[str, str, Model]]:
    """File, the line of comment above it, and the model of every scope of gin/models/."""
    found = []
    for path in sorted((ROOT / "gin" / "models").glob("*.gin")):
        lines, scopes = path.read_text().splitlines(), {}
        for binding in files.read(path):
            assert binding.configurable == "Model"
            scopes.setdefault(binding.scope, []).append(binding)
        for bindings in scopes.values():
            above = lines[min(int(binding.place.rpartition(":")[2]) for binding in bindings) - 2]
            model = Model(**{binding.parameter: binding.value for binding in bindings})
            found.append((path.name, above, model))
    return found


# Names of published models count their tables too, of so many words.
PUBLISHED = {"Qwen3-0.6B": 151936}
UNITS = {"k": 1e3, "M": 1e6, "B": 1e9}


@pytest.mark.parametrize(("file", "above", "model"), shipped(), ids=[m.name for _, _, m in shipped()])
def test_a_shipped_size_has_the_count_that_stands_above_it_and_the_name_of_it(
    file: str, above: str, model: Model
):
    count, tables = model.parameters(PUBLISHED.get(model.name, 0))
    told = re.match(r"# ([\d,]+)(;|$)", above)
    assert told and told[1] == f"{count:,}"
    number, unit = re.fullmatch(r"(?:Qwen3-)?([\d.]+)([kMB])", model.name).groups()
    assert count + tables == pytest.approx(float(number) * UNITS[unit], rel=0.1)
    if file == "large.gin":
        assert model.head_dim in (64, 128)
        assert model.width % 256 == model.mlp_width % 256 == 0


def test_sizes_are_shipped_from_thirty_thousand_to_a_billion():
    counts = sorted(model.parameters(0)[0] for _, _, model in shipped())
    assert counts[0] < 3e4 and counts[-1] > 1e9
    assert all(larger / smaller < 4 for smaller, larger in itertools.pairwise(counts))
    names = [model.name for _, _, model in shipped()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"heads": 3}, "width", "a width of 16 cannot be divided by 3 heads"),
        ({"kv_heads": 3}, "kv_heads", "3 key-value heads do not divide 4 heads"),
        ({"head_dim": 7}, "head_dim", "7 is odd"),
        ({"layers": 0}, "layers", "0 is not a positive number"),
        ({"init_scale": float("nan")}, "init_scale", "nan"),
        ({"name": ""}, "name", "is named with"),
    ],
)
def test_impossible_shapes_are_named(change: dict, field: str, words: str):
    with pytest.raises(Invalid, match=words) as error:
        dataclasses.replace(SMALL, **change)
    assert error.value.fields[0] == field
