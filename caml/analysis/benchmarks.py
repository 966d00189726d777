"""What StageRuns scored on benchmarks, estimated as their margins are: effects, their limits, and what is left.

A benchmark's questions stand in for probe items, its dimensions for rungs, and scores for margins; so
arms are compared with their control in the same seed block, over the same questions, by the code that compares margins.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

from caml.analysis.dictionary import RESULTS_DICTIONARY
from caml.analysis.results import Results, analyse
from caml.analysis.tables import DATA_DICTIONARY, NATS, POINTS, SHARE, Tables
from caml.tracking.shelves import OVERALL
from caml.tracking.tables import LENGTHS, NORMS

# Of the results, those that a report keeps of benchmarks.
KEPT = ("effects", "seed_effects", "retention")


@dataclasses.dataclass(frozen=True)
class Estimated:
    """A benchmark that every StageRun of an ablation sat.

    **Attributes**: `tables`, with its questions as items and its scores as margins; `results`, their estimates;
    `unit` of both, a share of 1 or points; `dimension`, the one that speaks for it (its own overall score, or its
    first); `left_out`, how many of how many questions some StageRun has no score of, dimension by dimension: effects
    are of the others.
    """

    name: str
    tables: Tables
    results: Results
    unit: str
    dimension: str
    left_out: tuple[int, int]
    sittings: pd.DataFrame


def estimated(tables: Tables, control: dict[str, Any], gate: float) -> list[Estimated]:
    """The benchmarks in `tables`, analysed against `control` as `analyse` does, and raising as it."""
    found = []
    for name in dict.fromkeys(tables.benchmarks["benchmark"]):
        scores = tables.benchmarks[tables.benchmarks["benchmark"] == name]
        sittings = tables.sittings[tables.sittings["benchmark"] == name]
        asked = scores.drop_duplicates(["dimension", "item"])
        known = scores.dropna(subset=["value"])
        counts = known.groupby(["dimension", "item"])["stagerun"].transform("nunique")
        whole = known[counts == len(sittings)]
        kept = len(whole.drop_duplicates(["dimension", "item"]))
        if whole.empty:
            continue  # `unestimated` tells of it
        like = _as_probes(tables, name, whole)
        unit = SHARE if set(sittings["unit"]) == {SHARE} else POINTS
        results = analyse(like, (), control, gate=gate)
        dimensions = list(dict.fromkeys(whole["dimension"]))
        found.append(
            Estimated(
                name=name,
                tables=like,
                results=_possible(results) if unit == SHARE else results,
                unit=unit,
                dimension=OVERALL if OVERALL in dimensions else dimensions[0],
                left_out=(len(asked) - kept, len(asked)),
                sittings=sittings,
            )
        )
    return found


def _possible(results: Results) -> Results:
    """Student's limits of shares within what can be: 0 to 1, and of their differences, -1 to 1."""
    effects, retention = results.effects.copy(), results.retention.copy()
    alone = effects["control"] == ""
    for column in ("t_low", "t_high"):
        effects[column] = effects[column].clip(-1.0, 1.0).mask(alone, effects[column].clip(0.0, 1.0))
    for column in ("E0_low", "E0_high", "E_low", "E_high"):
        retention[column] = retention[column].clip(-1.0, 1.0)
    return dataclasses.replace(results, effects=effects, retention=retention)


def unestimated(tables: Tables, found: Sequence[Estimated]) -> list[str]:
    """A sentence for each benchmark of which no question has a score in every StageRun."""
    lost = set(tables.sittings["benchmark"]) - {one.name for one in found}
    return [
        f"No question of {name} has a score in every StageRun: nothing is estimated of it."
        for name in sorted(lost)
    ]


def _as_probes(tables: Tables, name: str, scores: pd.DataFrame) -> Tables:
    """`tables` with a benchmark in the place of the probes."""
    item = scores["dimension"] + ": " + scores["item"]
    margins = pd.DataFrame({"stagerun": scores["stagerun"], "item": item})
    margins = margins.assign(**dict.fromkeys(NORMS, scores["value"].astype(float)))
    items = scores.assign(rung=scores["dimension"], question=scores["item"], item=item).drop_duplicates(
        "item"
    )
    blank = dict.fromkeys(DATA_DICTIONARY["items"], "")
    columns = blank | dict.fromkeys(LENGTHS, 1.0) | {"family": name}
    items = items[["item", "rung", "question"]].assign(
        **{c: v for c, v in columns.items() if c not in ("item", "rung")}
    )
    # An item drawn anew by the bootstrap is a question, in all dimensions at once.
    items = items.assign(template=name, kind=items["question"]).drop(columns="question")
    return dataclasses.replace(tables, items=items, margins=margins)


def frames(found: Sequence[Estimated]) -> dict[str, pd.DataFrame]:
    """The estimates of all benchmarks, as tables of a report: `benchmark_effects` and so on."""
    if not found:
        return {}
    named = {
        f"benchmark_{name}": pd.concat([getattr(one.results, name) for one in found], ignore_index=True)
        for name in KEPT
    }
    return {
        name: table.rename(columns={"family": "benchmark", "rung": "dimension"})
        for name, table in named.items()
    }


def dictionary(found: Sequence[Estimated]) -> pd.DataFrame:
    """What the columns of `frames` mean: as of the probes' own tables, in the benchmark's unit."""
    renamed = {
        "family": ("benchmark", "name of the benchmark"),
        "rung": ("dimension", "what was graded; 'overall' is the benchmark's own"),
    }
    rows, unit_of_all = [], " or ".join(dict.fromkeys(one.unit for one in found))
    for name in KEPT if found else ():
        for column, (meaning, unit) in RESULTS_DICTIONARY[name].items():
            called, told = renamed.get(column, (column, meaning.replace("margin", "score")))
            rows.append((f"benchmark_{name}", called, told, unit_of_all if unit == NATS else unit))
    return pd.DataFrame(rows, columns=["table", "column", "meaning", "unit"])
