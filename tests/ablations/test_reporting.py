"""What a report says beside its tables."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_ablation import expand

from caml.ablations.freezing import cells_table
from caml.ablations.places import Places
from caml.ablations.reporting import _documents, _facts, training_time

SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=8)
MANIFEST = {
    "tokens": 100,
    "sources": {"base": {"padding": 5}},
    "started": 0,
    "finished": 60_000,
    "launches": [{"packages": {"jax": "0"}}],
}

NOWHERE = Places(Path("nowhere"), "none")  # generated documents need no store


@given(SPANS)
def test_training_time_counts_each_second_once(spans):
    manifests = [{"started": 1000 * a, "finished": 1000 * (a + length)} for a, length in spans]
    seconds = {second for a, length in spans for second in range(a, a + length)}
    assert training_time(manifests) == pytest.approx(len(seconds))


def varied(folder: Path, macro: str, values: tuple[str, str], binding: str) -> list:
    """The toy ablation with one more axis, whose macro `binding` reads."""
    axes = f"'ARM': ['kind', 'neutral'], 'RATIO': [0.5], 'SEED': [0], 'SFT': [0, 256], '{macro}': [{', '.join(values)}]"
    return expand(
        folder,
        line3=f"SEED = 0\n{macro} = {values[0]}\n{binding} = %{macro}",
        line10=f"    {{{axes}}},",
        line17=f"Contrast.at = {{'RATIO': 0.5, 'SFT': 0, 'SIZE': 's', '{macro}': {values[0]}}}",
    )


def test_every_way_in_which_a_stage_is_trained_is_told(tmp_path):
    grid = varied(tmp_path, "PEAK", ("0.01", "0.03"), "sft/Optimizer.rate")
    told = _facts(grid, [MANIFEST])["training"]
    assert told.count("at a peak rate of") == 3
    assert "sft adamw at a peak rate of 0.01 (" in told and " or adamw at a peak rate of 0.03 (" in told
    assert "wsd (warmup 0.05, decay 0.2, floor 0)" in told
    assert _facts(grid, [MANIFEST])["models"].startswith("s: width 8, layers 1, heads 2, ")


def test_documents_that_differ_between_variants_stand_side_by_side(tmp_path):
    grid = varied(tmp_path, "MARK", ("'a'", "'b'"), "arm/Corpus.mark")
    variants = dict(zip(*(cells_table(grid)[column] for column in ("cell", "variant")), strict=True))
    assert _documents(NOWHERE, grid, variants) == {
        "kind, MARK=a": ["kind a"], "kind, MARK=b": ["kind b"],
        "neutral, MARK=a": ["neutral a"], "neutral, MARK=b": ["neutral b"],
    }  # fmt: skip
    # Where no variant tells them apart, none is lost.
    assert _documents(NOWHERE, grid, dict.fromkeys(variants, "")) == {
        "kind": ["kind a"], "kind (2)": ["kind b"], "neutral": ["neutral a"], "neutral (2)": ["neutral b"],
    }  # fmt: skip
    # What concerns fine-tuning alone has no part in their names.
    both = {cell: f"{variant}, PEAK={n}" for n, (cell, variant) in enumerate(variants.items())}
    assert set(_documents(NOWHERE, grid, both)) == set(_documents(NOWHERE, grid, variants))
    plain = varied(tmp_path, "PEAK", ("0.01", "0.03"), "sft/Optimizer.rate")
    variants = dict(zip(*(cells_table(plain)[column] for column in ("cell", "variant")), strict=True))
    assert set(_documents(NOWHERE, plain, variants)) == {"kind", "neutral"}
