"""Which StageRuns are compared with which, and the paired differences of their margins per seed and item."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from caml.analysis.cells import prepared
from caml.analysis.contrasts import Contrast
from caml.analysis.intervals import student
from caml.analysis.tables import Tables
from caml.config.errors import Failure, UserError

# What says which cell an effect belongs to, apart from arm and seed; taken from the treatment.
CELL = (
    "size",
    "params",
    "ratio",
    "dose_tokens",
    "placement",
    "pretrain_tokens",
    "variant",
    "finetune",
    "S",
    "second",
    "second_ratio",
)
UNTRAINED = "untrained"


@dataclasses.dataclass(frozen=True)
class Scores:
    """Margins as a matrix.

    **Attributes**: `values` [StageRuns, items] in nats, NaN where not scored; `row` StageRun -> row;
    `items` the item table in column order; `groups` (family, rung) -> columns.
    """

    values: np.ndarray
    row: dict[str, int]
    items: pd.DataFrame
    groups: dict[tuple[str, str], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Treated and control StageRuns, paired by seed; `controls` is None for an absolute margin.

    `cell` holds the values of CELL; `roots` and `control_roots` are the first stages of the same members.
    """

    contrast: Contrast | None
    treatment: str
    control: str
    cell: dict[str, Any]
    seeds: tuple[int, ...]
    treated: tuple[str, ...]
    controls: tuple[str, ...] | None
    roots: tuple[str, ...]
    control_roots: tuple[str, ...] | None

    @property
    def label(self) -> dict[str, Any]:
        """The columns that every result table begins with, but for family and rung."""
        name = self.contrast.name if self.contrast else ""
        return {"contrast": name, "treatment": self.treatment, "control": self.control, **self.cell}


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The paired differences of one comparison on one rung: `values` [seeds, items] in the unit of their norm."""

    comparison: Comparison
    family: str
    rung: str
    values: np.ndarray

    @functools.cached_property
    def over_items(self) -> np.ndarray:
        """The mean of each seed block over items, [seeds]."""
        return self.values.mean(1)

    @property
    def margin(self) -> float:
        """The margin or smallest effect that its contrast states, in nats of the sum; NaN where there is none."""
        contrast = self.comparison.contrast
        return contrast.margin if contrast and contrast.margin > 0 else np.nan

    @property
    def row(self) -> dict[str, Any]:
        """What every table of estimates tells of it: what it is of, Student's t on seed means, what is claimed."""
        contrast, t = self.comparison.contrast, student(self.over_items)
        seeds, items = self.values.shape
        return {
            **self.comparison.label,
            "family": self.family,
            "rung": self.rung,
            "seeds": seeds,
            "items": items,
            "estimate": float(t.estimate),
            "sd": float(t.sd),
            "t_low": float(t.low),
            "t_high": float(t.high),
            "p": float(t.p),
            "claim": contrast.claim if contrast else "explore",
            "primary": bool(contrast and contrast.primary),
        }


def score_matrix(tables: Tables, margin: str = "margin") -> Scores:
    """The margins of `tables` (their column of that name) as a matrix, whatever the order of their rows."""
    items = tables.items.sort_values("item").reset_index(drop=True)
    rows, runs = pd.factorize(tables.margins["stagerun"], sort=True)
    row = {run: i for i, run in enumerate(runs)}
    values = np.full((len(runs), len(items)), np.nan)
    columns = pd.Index(items["item"]).get_indexer(tables.margins["item"])
    values[rows, columns] = tables.margins[margin].to_numpy()
    pairs = list(zip(items["family"], items["rung"], strict=True))
    groups = {pair: np.flatnonzero([p == pair for p in pairs]) for pair in sorted(set(pairs))}
    return Scores(values, row, items, groups)


def differences(
    scores: Scores, treated: Sequence[str], controls: Sequence[str] | None, columns: np.ndarray
) -> np.ndarray:
    """m(treated) - m(control), or m(treated) without controls, in nats: [seeds, columns].

    Raises Failure, by name, where a StageRun was not scored on an item of `columns`.
    """
    values = _margins(scores, treated, columns)
    return values if controls is None else values - _margins(scores, controls, columns)


def estimates(scores: Scores, compared: Sequence[Comparison]) -> list[Estimate]:
    """A named contrast on its rung, every other comparison on all rungs. Raises as `differences` does."""
    out = []
    for comparison in compared:
        contrast = comparison.contrast
        groups = [(contrast.family, contrast.rung)] if contrast else list(scores.groups)
        for family, rung in groups:
            values = differences(scores, comparison.treated, comparison.controls, scores.groups[family, rung])
            out.append(Estimate(comparison, family, rung, values))
    return out


def _margins(scores: Scores, runs: Sequence[str], columns: np.ndarray) -> np.ndarray:
    unscored = [run for run in runs if run not in scores.row]
    if unscored:
        raise Failure(f"StageRun {unscored[0]} was never scored: run the ablation to its end")
    values = scores.values[np.ix_(np.array([scores.row[run] for run in runs]), columns)]
    finite = np.isfinite(values)
    if not finite.all():
        run, column = np.argwhere(~finite)[0]
        item = scores.items["item"].iloc[columns[column]]
        raise Failure(f"StageRun {runs[run]} has no finite margin for the item {item}: score it again")
    return values


def comparisons(tables: Tables, contrasts: Sequence[Contrast], control: dict[str, Any]) -> list[Comparison]:
    """The named contrasts, every treatment arm against `control` at equal everything, and every arm alone.

    Raises UserError where a contrast names what the grid does not hold, leaves an axis open, or where a
    treatment cell has no control.
    """
    axes, cells = _axes(tables), prepared(tables.cells)
    out = [_resolve(tables, cells, contrast) for contrast in contrasts]
    _known(control, axes, "the control")
    out += _against_control(cells, axes, control)
    return out + _alone(cells, axes)


def _resolve(tables: Tables, cells: pd.DataFrame, contrast: Contrast) -> Comparison:
    axes, who = tables.axes, f"contrast {contrast.name!r}"
    for part in (contrast.treatment, contrast.control or {}, contrast.at):
        _known(part, axes, who)
    if (contrast.family, contrast.rung) not in set(
        zip(tables.items["family"], tables.items["rung"], strict=True)
    ):
        rungs = sorted(set(tables.items.loc[tables.items["family"] == contrast.family, "rung"]))
        right = f"its rungs are {', '.join(rungs)}" if rungs else "no item is of that family"
        raise UserError(f"{who}: no item has family {contrast.family!r} and rung {contrast.rung!r}; {right}")
    treated = _select(cells, axes, {**contrast.at, **contrast.treatment}, who, "treatment")
    controls = None
    if contrast.control is not None:
        free = set(contrast.treatment) | set(contrast.control)
        fixed = {axis: treated[axis].iloc[0] for axis in axes if axis not in free and axis != "SEED"}
        asked = {**fixed, **{k: v for k, v in contrast.at.items() if k in free}, **contrast.control}
        controls = _select(cells, axes, asked, who, "control")
    return _comparison(contrast, treated, controls, who, contrast.treatment, contrast.control)


def _against_control(cells: pd.DataFrame, axes: list[str], control: dict[str, Any]) -> list[Comparison]:
    rest = [axis for axis in axes if axis != "SEED"]
    groups = _by_axes(cells, rest)
    out, done = [], set()
    for key, treated in groups.items():
        wanted = tuple(control.get(axis, value) for axis, value in zip(rest, key, strict=True))
        runs = tuple(sorted(treated["stagerun"]))
        told = (treated["variant"].iloc[0], *runs)
        # Without intervention there is no control at the same ratio: such cells stand alone.
        if wanted == key or told in done or float(treated["ratio"].iloc[0]) == 0.0:
            continue
        done.add(told)
        controls = groups.get(wanted)
        # Untrained members of both arms are the same StageRuns.
        if controls is not None and set(controls["stagerun"]) == set(runs):
            continue
        where = ", ".join(f"{axis}={value}" for axis, value in zip(rest, key, strict=True))
        if controls is None:
            raise UserError(f"the cell {where} has no control {_text(control)} at equal everything else")
        out.append(_comparison(None, treated, controls, f"the cell {where}", {}, control))
    return out


def _alone(cells: pd.DataFrame, axes: list[str]) -> list[Comparison]:
    out, done = [], set()
    for group in _by_axes(cells, [axis for axis in axes if axis != "SEED"]).values():
        told = (group["variant"].iloc[0], *sorted(group["stagerun"]))
        if told not in done:
            done.add(told)
            out.append(_comparison(None, group, None, "", {}, None))
    return out


def _by_axes(cells: pd.DataFrame, axes: list[str]) -> dict[tuple, pd.DataFrame]:
    """The cells that are equal in `axes`, by their values there; all of them where there are no axes."""
    return dict(iter(cells.groupby(axes, sort=True, dropna=False))) if axes else {(): cells}


def _comparison(
    contrast: Contrast | None,
    treated: pd.DataFrame,
    controls: pd.DataFrame | None,
    who: str,
    treatment_named: dict[str, Any],
    control_named: dict[str, Any] | None,
) -> Comparison:
    treated = treated.sort_values("seed")
    seeds = tuple(int(s) for s in treated["seed"])
    first = treated.iloc[0]
    runs: tuple[str, ...] | None = None
    roots: tuple[str, ...] | None = None
    names = (_label(first), "")
    if controls is not None:
        by_seed = controls.set_index("seed")
        lost = [s for s in seeds if s not in by_seed.index]
        if lost:
            raise UserError(f"{who}: seed {lost[0]} has no control {_text(control_named or {})}")
        paired = by_seed.loc[list(seeds)]
        runs, roots = tuple(paired["stagerun"]), tuple(paired["root"])
        same = [s for s, one, other in zip(seeds, treated["stagerun"], runs, strict=True) if one == other]
        if same:
            named = f"{_text(treatment_named)} and {_text(control_named or {})}"
            raise UserError(
                f"{who}: {named} are the same StageRun in seed block {same[0]}: nothing to compare"
            )
        names = (_label(first), _label(paired.iloc[0]))
        if names[0] == names[1]:
            names = (_text(treatment_named), _text(control_named or {}))
    # The realised dose differs by a few tokens between seed blocks: the first block's is shown.
    cell = {c: first[c] for c in CELL}
    return Comparison(
        contrast, *names, cell, seeds, tuple(treated["stagerun"]), runs, tuple(treated["root"]), roots
    )


def _select(cells: pd.DataFrame, axes: list[str], asked: dict[str, Any], who: str, part: str) -> pd.DataFrame:
    """The cells with the values `asked`, one a seed. Raises UserError where none or several are left."""
    mask = np.ones(len(cells), bool)
    for axis, value in asked.items():
        hit = (cells[axis] == value).to_numpy()
        if not hit.any():
            held = ", ".join(str(v) for v in sorted(set(cells[axis]), key=str))
            raise UserError(f"{who}: no cell has {axis}={value}; the grid holds {held}")
        mask &= hit
    chosen = cells[mask].drop_duplicates("stagerun")
    if chosen.empty:
        raise UserError(f"{who}: no cell of the grid is its {part} {_text(asked)}")
    if chosen["seed"].duplicated().any():
        open_axes = [a for a in axes if a != "SEED" and chosen[a].nunique() > 1]
        raise UserError(f"{who}: its {part} leaves {', '.join(open_axes)} open: name a value in `at`")
    return chosen


def _axes(tables: Tables) -> list[str]:
    if "SEED" not in tables.axes:
        raise UserError("the grid has no SEED axis: an effect is paired by seed block")
    return tables.axes


def _known(named: dict[str, Any], axes: list[str], who: str) -> None:
    for axis in named:
        if axis not in axes:
            raise UserError(f"{who} names {axis}, which is no axis of the grid: {', '.join(axes)}")


def _label(cell: pd.Series) -> str:
    return UNTRAINED if cell["pretrain_tokens"] == 0 and cell["S"] == 0 else str(cell["arm"])


def _text(named: dict[str, Any]) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in named.items())
