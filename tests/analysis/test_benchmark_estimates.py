"""What StageRuns scored on benchmarks, estimated over the questions that all of them were scored on."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from synthetic import synthetic_tables

from caml.analysis.benchmarks import dictionary, estimated, frames, unestimated
from caml.analysis.tables import BENCHMARK_DICTIONARY, POINTS, SHARE, Tables

CONTROL = {"ARM": "neutral"}


def with_scores(lost: int = 0) -> tuple[Tables, pd.DataFrame]:
    """Tables in which every StageRun sat a benchmark of six questions; `lost` StageRuns lack a score of the first."""
    tables, rng = synthetic_tables(), np.random.default_rng(0)
    runs = tables.stageruns["stagerun"].tolist()
    values = rng.uniform(size=(len(runs), 6))
    values[:lost, 0] = np.nan
    scores = pd.DataFrame(
        [(run, "anima", "overall", f"q{i}", values[r, i]) for r, run in enumerate(runs) for i in range(6)],
        columns=list(BENCHMARK_DICTIONARY["benchmarks"]),
    )
    sittings = pd.DataFrame(dict.fromkeys(BENCHMARK_DICTIONARY["sittings"], "x"), index=range(len(runs)))
    sittings = sittings.assign(stagerun=runs, benchmark="anima", unit=SHARE)
    return dataclasses.replace(tables, benchmarks=scores, sittings=sittings), pd.DataFrame(values, index=runs)


@pytest.mark.parametrize("lost", [0, 1])
def test_an_effect_is_the_mean_difference_over_the_questions_of_all(lost: int):
    tables, values = with_scores(lost)
    (found,) = estimated(tables, CONTROL, gate=0.5)
    assert found.left_out == (lost, 6) and found.dimension == "overall"
    means = values[range(lost, 6)].mean(axis=1)
    effects = found.results.effects
    row = effects[(effects["control"] == "neutral") & (effects["S"] == 0)].iloc[0]
    cells = tables.cells[
        (tables.cells["S"] == 0)
        & (tables.cells["ratio"] == row["ratio"])
        & (tables.cells["size"] == row["size"])
    ]
    by_arm = cells.assign(score=cells["stagerun"].map(means)).pivot_table(
        index="seed", columns="arm", values="score"
    )
    expected = (by_arm[row["treatment"]] - by_arm["neutral"]).mean()
    assert row["estimate"] == pytest.approx(expected) and row["items"] == 6 - lost
    assert set(frames([found])["benchmark_effects"]["dimension"]) == {"overall"}
    assert found.unit == SHARE
    alone, compared = (effects[(effects["control"] == "") == one] for one in (True, False))
    assert alone["t_low"].min() == 0.0 and compared["t_low"].min() < 0.0
    points = dataclasses.replace(tables, sittings=tables.sittings.assign(unit=POINTS))
    (other,) = estimated(points, CONTROL, gate=0.5)
    plain = other.results.effects
    assert other.unit == POINTS and plain.loc[plain["control"] == "", "t_low"].min() < 0.0
    assert set(dictionary([found, other])["unit"]) >= {"share of 1 or points"}
    assert unestimated(tables, [found]) == []


def test_a_benchmark_that_nobody_can_be_compared_on_is_told_of():
    tables, _ = with_scores()
    first = tables.benchmarks["stagerun"] == tables.stageruns["stagerun"].iloc[0]
    nothing = tables.benchmarks.assign(value=tables.benchmarks["value"].mask(first))
    tables = dataclasses.replace(tables, benchmarks=nothing)
    assert estimated(tables, CONTROL, gate=0.5) == []
    assert unestimated(tables, []) == [
        "No question of anima has a score in every StageRun: nothing is estimated of it."
    ]
