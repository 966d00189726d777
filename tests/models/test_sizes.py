"""Sizes: true parameter counts and shapes that cannot be."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caml.config.errors import Invalid
from caml.models.sizes import Model
from caml.models.transformer import init_parameters

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
