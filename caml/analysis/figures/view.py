"""What the figures look at: effects with their seeds, members' mean margins, and the comparison in focus."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from caml.analysis.cells import prepared
from caml.analysis.effects import CELL as CELL_OF_EFFECT
from caml.analysis.effects import UNTRAINED
from caml.analysis.figures.conditions import Condition, Conditions
from caml.analysis.figures.style import rung_label, spaced
from caml.analysis.intervals import student
from caml.analysis.results import Results
from caml.analysis.tables import NATS, Tables

CELL = list(CELL_OF_EFFECT)

COMPARED = ["family", "rung", "treatment", "control"]
# What a member has in common with itself before fine-tuning.
MEMBER = ["size", "ratio", "placement", "pretrain_tokens", "variant"]
# column of the seeds' effects -> that of their tuples
BY_SEED = {"seed": "blocks", "effect": "values", "before": "befores", "control_margin": "controls"}


@dataclass(frozen=True)
class Focus:
    """The comparison that most figures show.

    It is that of the first primary contrast that claims a direction; where none is stated, the protocol's
    primary endpoint. Of a benchmark, `family` is its name, `rung` what was graded, and `unit` SHARE or POINTS.
    """

    family: str
    rung: str
    treatment: str
    control: str
    unit: str = NATS

    @property
    def label(self) -> str:
        """What is scored, as an axis says it."""
        return rung_label(self.rung) if self.unit == NATS else f"{spaced(self.family)}, {spaced(self.rung)}"

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of `frame` of this family and rung."""
        return frame[(frame["family"] == self.family) & (frame["rung"] == self.rung)]


@dataclass(frozen=True)
class View:
    """Frozen tables and results as the figures use them.

    `effects`, `retention`: one row per comparison and cell, with tuples in the order of the seeds: `blocks`, the
    seeds; `values`, their effects; `befores`, the effects of the same members before fine-tuning (NaN where there
    are none); `controls`, the control's own margins. `sizes`: as estimated. `margins`: one row per StageRun,
    family and rung with the mean `margin` over items (nats), and the StageRun's cell. `outcomes`: one row per
    StageRun and outcome with its cell. Each of these has the column `condition`, the name of its row's one of
    `conditions`. `lengths`: how unequal the continuations of each rung are. `stageruns`, `metrics`, `trajectory`: as
    frozen. `bound`: the equivalence margin stated for the focus' rung in nats, NaN where none was. `gate`: nats of
    mechanism that a member must pass, NaN where none was told.
    """

    effects: pd.DataFrame
    retention: pd.DataFrame
    sizes: pd.DataFrame
    margins: pd.DataFrame
    outcomes: pd.DataFrame
    lengths: pd.DataFrame
    stageruns: pd.DataFrame
    metrics: pd.DataFrame
    trajectory: pd.DataFrame
    focus: Focus
    conditions: Conditions
    bound: float
    gate: float

    def under(self, condition: Condition) -> "View":
        """The view of the cells under `condition` alone: what a figure shows that has no room for more."""
        return self._where(condition.rows)

    def among(self, conditions: Sequence[str]) -> "View":
        """The view of the cells of the `conditions` with these names."""
        return self._where(lambda frame: frame[frame["condition"].isin(conditions)])

    def after(self, finetune: str) -> "View":
        """The view of what was fine-tuned on `finetune`, and of all before fine-tuning."""
        return self._where(lambda frame: frame[frame["finetune"].isin(["none", finetune])])

    def at_largest_budgets(self) -> "View":
        """The view of each size at its largest token budget, and of the untrained."""
        most = self.effects.groupby("size")["pretrain_tokens"].max()
        return self._where(
            lambda frame: frame[
                frame["pretrain_tokens"].isin([0]) | (frame["pretrain_tokens"] == frame["size"].map(most))
            ]
        )

    def _where(self, rows: Callable[[pd.DataFrame], pd.DataFrame]) -> "View":
        return dataclasses.replace(
            self,
            effects=rows(self.effects),
            retention=rows(self.retention),
            sizes=rows(self.sizes),
            margins=rows(self.margins),
            outcomes=rows(self.outcomes),
        )


def look(tables: Tables, results: Results, gate: float = math.nan, focus: Focus | None = None) -> View:
    """The view of frozen `tables` and the results estimated from them; the `focus` is found where none is given."""
    conditions = Conditions(tables.cells)
    effects, seed_effects = _named(results.effects), _named(results.seed_effects)
    retention, sizes = _named(results.retention), _named(results.sizes)
    focus = focus or _focus(effects)
    runs = prepared(tables.cells).drop_duplicates(["stagerun", "variant"])
    trained = (runs["pretrain_tokens"] > 0) | (runs["S"] > 0)
    runs = runs.assign(arm=runs["arm"].where(trained, UNTRAINED))[["stagerun", "arm", "seed", *CELL]]
    effects, retention = (_with_seeds(frame, seed_effects) for frame in (effects, retention))
    runs, effects, retention, sizes = (conditions.told(f) for f in (runs, effects, retention, sizes))
    margins = tables.margins.merge(tables.items[["item", "family", "rung"]], on="item")
    margins = margins.groupby(["stagerun", "family", "rung"])["margin"].mean().reset_index()
    stated = focus.rows(effects[effects["claim"] == "equivalent"])["margin"]
    return View(
        effects=effects.drop_duplicates([*COMPARED, *CELL]).reset_index(drop=True),
        retention=retention.drop_duplicates([*COMPARED, *CELL]),
        sizes=sizes,
        margins=margins.merge(runs, on="stagerun"),
        outcomes=tables.outcomes.merge(runs, on="stagerun"),
        lengths=results.lengths,
        stageruns=tables.stageruns,
        metrics=tables.metrics,
        trajectory=tables.trajectory,
        focus=focus,
        conditions=conditions,
        gate=gate,
        bound=float(stated.max()) if len(stated) else math.nan,
    )


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows of `frame`, columns as attributes."""
    return iter(frame.itertuples())


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with an empty text for a control that is not there (a contrast of the absolute margin)."""
    return frame.assign(control=frame["control"].fillna("").astype(str))


def _with_seeds(effects: pd.DataFrame, seed_effects: pd.DataFrame) -> pd.DataFrame:
    """`effects` with a column of tuples for each of BY_SEED."""
    member = [*COMPARED, *MEMBER, "seed"]
    began = seed_effects[seed_effects["S"] == 0].drop_duplicates(member)
    began = began[[*member, "effect"]].rename(columns={"effect": "before"})
    keys = ["contrast", *COMPARED, *CELL]
    values = (
        seed_effects.merge(began, on=member, how="left")
        .sort_values("seed")
        .groupby(keys, dropna=False)[list(BY_SEED)]
        .agg(tuple)
        .rename(columns=BY_SEED)
        .reset_index()
    )
    merged = effects.merge(values, on=keys, how="left")
    for name in BY_SEED.values():
        merged[name] = [v if isinstance(v, tuple) else () for v in merged[name]]
    return merged


def _focus(effects: pd.DataFrame) -> Focus:
    compared = effects[effects["control"] != ""]
    protocol = (effects["family"] == "disposition") & (effects["rung"] == "new_frame")
    dosed = compared[compared["ratio"] > 0]
    for wanted in (
        compared[compared["primary"].astype(bool) & compared["claim"].isin(["above", "below"])],
        compared[compared["primary"].astype(bool)],
        dosed[protocol.loc[dosed.index] & (dosed["treatment"] == "compassion")],
        dosed[protocol.loc[dosed.index]],
        dosed,
        compared,
        effects[protocol],
        effects,
    ):
        if len(wanted):
            row = wanted.iloc[0]
            return Focus(str(row["family"]), str(row["rung"]), str(row["treatment"]), str(row["control"]))
    return Focus("disposition", "new_frame", "", "")


def t_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Mean of `values` over seeds and its 95% Student's t limits; NaN limits below two values."""
    of = student(np.asarray(list(values), float))
    return float(of.estimate), float(of.low), float(of.high)
