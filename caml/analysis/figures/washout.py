"""Figures after fine-tuning: wash-out, counter-evidence, and retention across sizes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caml.analysis.figures.install import size_label, sizes_of
from caml.analysis.figures.panels import (
    RIGHT,
    DoseAxis,
    Panel,
    filled,
    grid,
    handle,
    legend,
    level,
    say,
    spread,
    width_of,
    words,
)
from caml.analysis.figures.style import (
    Fill,
    count,
    fill_style,
    in_order,
    line_style,
    mark,
    percent,
    signed,
    spaced,
    span,
    styled,
    tint,
    treatment_order,
)
from caml.analysis.figures.view import View, each, t_interval

SERIES = ["treatment", "ratio", "condition"]
SHOWN = (-0.6, 1.8)  # of R: what lies beyond is an arrow at the edge, but for estimates


@dataclass(frozen=True)
class Look:
    """How a series is drawn."""

    color: Any
    marker: str
    line: str
    fill: Fill


def finetunes(view: View) -> list[str]:
    """The fine-tuning sources that were run without a second source, by name."""
    plain = view.effects[(view.effects["S"] > 0) & (view.effects["second_ratio"] == 0)]
    return sorted(set(plain["finetune"]))


def washed(view: View, finetune: str) -> pd.DataFrame:
    """The effects after `finetune` alone, on the primary endpoint and against the primary control."""
    rows = _focused(view, view.effects)
    return rows[(rows["second_ratio"] == 0) & (rows["finetune"] == finetune)]


def most(rows: pd.DataFrame, arm: str = "treatment") -> pd.DataFrame:
    """The rows of each arm's largest dose, by size and condition; `arm` is the column that names it."""
    return rows[rows["ratio"] == rows.groupby(["size", arm, "condition"])["ratio"].transform("max")]


@styled
def washout(view: View, finetune: str) -> Figure:
    """Effect (above) and retention (below) against the dose of `finetune`: columns are sizes, lines doses.

    Where fine-tuned cells are of several conditions, lines are these, each of its arm's largest dose alone.
    """
    after = washed(view, finetune)
    source, against = spaced(finetune), spaced(view.focus.control)
    if after.empty:
        return words(f"No arm was compared with {against} after fine-tuning on {source}.")
    if after["condition"].nunique() > 1:
        after = most(after)
    shown = after[["size", *SERIES]].drop_duplicates()
    before = _focused(view, view.effects)
    rows = pd.concat([before[before["S"] == 0], after]).merge(shown)
    kept = _focused(view, view.retention)
    kept = kept[(kept["second_ratio"] == 0) & (kept["finetune"] == finetune)].merge(shown)
    sizes = sizes_of(after)
    series = _series(after, view)
    # A size with more series needs more room for their dots.
    room = [1 + len(after.loc[after["size"] == name, SERIES].drop_duplicates()) for name, _ in sizes]
    figure, axes = grid(2, len(sizes), 2.2, width_of(len(sizes)), shares=room)
    panels: list[list[Panel]] = [[], []]
    handles: dict[str, Any] = {}
    for column, (name, params) in enumerate(sizes):
        here = rows[rows["size"] == name]
        remains = kept[kept["size"] == name]
        dose = DoseAxis(here["S"])
        effect, share = Panel(axes[0][column]), Panel(axes[1][column])
        slot, at = dose.dodge(series, {*_points(here, "S"), *_points(remains, "S")})
        for key in series:
            look, told = _look(key, series), _label(("", *key[1:])) if _several(key, series) else ""
            points = _of(here, key).sort_values("S")
            x = [_point(effect, at[key, row.S], slot, row, look) for row in each(points)]
            effect.join(x, list(points["estimate"]), look.color, look.line)
            own = [(at[key, row.S], row, told) for row in each(_of(remains, key).sort_values("S"))]
            _remains(share, own, slot, look)
            label = _label(key)
            handles.setdefault(label, handle(label, look.color, look.marker, look.line, look.fill))
        for ax in (effect.axes, share.axes):
            dose.apply(ax)
        effect.axes.tick_params(labelbottom=False)
        effect.axes.set_title(size_label(name, params))
        share.axes.axhline(1, color="black", linewidth=0.6, linestyle=":", zorder=0.5)
        panels[0].append(effect)
        panels[1].append(share)
    axes[0][0].set_ylabel(f"effect on {view.focus.label}\nagainst {against} ({view.focus.unit})")
    figure.supxlabel(f"S (loss-bearing tokens of {source})", fontsize=8.5)
    axes[1][0].set_ylabel("retention R(S)\n(share of E(0))")
    level(panels[0])
    level(panels[1], hold=(0, 1), bound=SHOWN)
    legend(figure, list(handles.values()))
    return figure


def _remains(panel: Panel, points: Iterable[tuple[float, Any, str]], slot: float, look: Look) -> None:
    """Retention where it was estimated, and the word that says why where it was not.

    `points`: x position, the row, and what tells a word's series from others of its colour.
    """
    x, y = [], []
    for at, row, told in points:
        if row.status != "ok":
            panel.word(at, f"{told}: {row.status}" if told else row.status, mark(row.treatment).color)
            continue
        panel.shares(at + slot * spread(len(row.values)), row.values, row.befores, look.color, look.marker)
        x.append(
            panel.estimate(
                at + RIGHT * slot, (row.estimate, row.low, row.high), look.color, look.marker, look.fill
            )
        )
        y.append(row.estimate)
    panel.join(x, y, look.color, look.line)


@styled
def counter_evidence(view: View) -> Figure:
    """Effect and absolute margins against the share of counter-evidence, at one fine-tuning dose a column."""
    rows = _focused(view, view.effects)
    sources = sorted(set(rows.loc[rows["second_ratio"] > 0, "second"]))
    if not sources:
        return words("No fine-tuning set of this grid holds counter-evidence.")
    cells = rows[rows["second_ratio"] > 0][["size", "params", "finetune", "second"]].drop_duplicates()
    cells = cells.sort_values(["params", "finetune", "second"])
    figure, axes = grid(2, len(cells), 2.2, width_of(len(cells)))
    effects, absolutes = [], []
    taken = view.stageruns.set_index("stagerun")["second_tokens"]
    series = _series(rows[rows["second_ratio"] > 0], view)
    handles: dict[str, Any] = {}
    for column, cell in enumerate(each(cells)):
        dosed = rows[
            (rows["size"] == cell.size) & (rows["second"] == cell.second) & (rows["second_ratio"] > 0)
        ]
        dosed = dosed[dosed["finetune"] == cell.finetune]
        reach = float(dosed["S"].max())
        here = _at_one_dose(rows[rows["size"] == cell.size], cell.finetune, cell.second, reach)
        axis = DoseAxis(here["second_ratio"])
        panel = Panel(axes[0][column])
        slot, at = axis.dodge(series, _points(here, "second_ratio"))
        for key in series:
            look, label = _look(key, series), _label(key)
            points = _of(here, key).sort_values("second_ratio")
            x = [_point(panel, at[key, row.second_ratio], slot, row, look) for row in each(points)]
            panel.join(x, list(points["estimate"]), look.color, look.line)
            handles.setdefault(label, handle(label, look.color, look.marker, look.line, look.fill))
        effects.append(panel)
        margins = view.focus.rows(view.margins)
        margins = _at_one_dose(margins[margins["size"] == cell.size], cell.finetune, cell.second, reach)
        absolute = Panel(axes[1][column])
        _absolute(absolute, margins, axis)
        absolutes.append(absolute)
        beside = margins.assign(tokens=margins["stagerun"].map(taken)).groupby("second_ratio")["tokens"]
        told = beside.agg(["min", "max"])
        for ax in (panel.axes, absolute.axes):
            axis.apply(ax, lambda r, at=told: f"{percent(r)}\n{span(*at.loc[r])}")  # type: ignore[misc]
        panel.axes.tick_params(labelbottom=False)
        panel.axes.set_title(f"{size_label(cell.size, int(cell.params))}, S = {count(reach)}", fontsize=8)
        absolute.axes.set_xlabel(f"{spaced(cell.second)}\n(% of fine-tuning slots; tokens)")
    against = spaced(view.focus.control)
    axes[0][0].set_ylabel(f"effect on {view.focus.label}\nagainst {against} ({view.focus.unit})")
    axes[1][0].set_ylabel("margin, no control\nsubtracted (nats)")
    level(effects)
    level(absolutes)
    arms = in_order(str(a) for p in absolutes for a in p.axes.get_gid().split("\n"))  # type: ignore[union-attr]
    ratios = view.margins.groupby("arm")["ratio"].max()
    for arm in arms:
        if not any(text.startswith(f"{spaced(arm)} ") for text in handles):
            label = spaced(f"{arm} {percent(ratios[arm])}" if ratios[arm] else arm)
            handles[arm] = handle(label, mark(arm).color, mark(arm).marker, "-")
    legend(figure, list(handles.values()))
    return figure


def _point(panel: Panel, x: float, slot: float, row: Any, look: Look) -> float:
    estimate = (row.estimate, row.t_low, row.t_high)
    return panel.point(x, slot, row.values, estimate, look.color, look.marker, look.fill)


def _absolute(panel: Panel, margins: pd.DataFrame, axis: DoseAxis) -> None:
    """Margins of every arm at its largest dose: what the control itself does."""
    shown = margins[margins["ratio"] == margins.groupby("arm")["ratio"].transform("max")]
    arms = in_order(shown["arm"])
    panel.axes.set_gid("\n".join(arms))
    slot, at = axis.dodge(arms, set(zip(shown["arm"], shown["second_ratio"], strict=True)))
    for arm in arms:
        look = mark(arm)
        x, y = [], []
        for share, members in shown[shown["arm"] == arm].groupby("second_ratio"):
            values = list(members.sort_values("seed")["margin"])
            place = at[arm, float(share)]  # type: ignore[arg-type]
            x.append(panel.point(place, slot, values, t_interval(values), look.color, look.marker))
            y.append(t_interval(values)[0])
        panel.join(x, y, look.color)


def _at_one_dose(frame: pd.DataFrame, finetune: str, second: str, s: float) -> pd.DataFrame:
    """Rows of `finetune` at dose `s`, without a second source or with `second`."""
    plain = (frame["second_ratio"] == 0) | (frame["second"] == second)
    return frame[(frame["finetune"] == finetune) & plain & (frame["S"] == s)]


@styled
def retention_by_size(view: View, finetune: str) -> Figure:
    """Retention against size at matched dose (left), and against E(0) by size (right): a row per arm."""
    kept = retained(view, finetune)
    if kept.empty:
        return words(f"No retention was asked for after fine-tuning on {spaced(finetune)}.")
    arms = treatment_order(kept["treatment"], view.focus.treatment)
    figure, axes = grid(len(arms), 2, 2.6, sharey="row")
    for arm, (left, right) in zip(arms, axes, strict=True):
        own = kept[kept["treatment"] == arm]
        panels = [_at_matched_dose(view, own, left), _against_install(view, own, right)]
        level(panels, hold=(0, 1), bound=SHOWN)
        for ax in (left, right):
            ax.axhline(1, color="black", linewidth=0.6, linestyle=":", zorder=0.5)
    return figure


def retained(view: View, finetune: str) -> pd.DataFrame:
    """The retention after `finetune` alone that is compared across sizes.

    That of the treatment in focus, and of every other arm of which some is estimable.
    """
    kept = _focused(view, view.retention)
    kept = kept[(kept["second_ratio"] == 0) & (kept["finetune"] == finetune)]
    estimable = {view.focus.treatment, *kept.loc[kept["status"] == "ok", "treatment"]}
    return kept[kept["treatment"].isin(estimable)]


def _at_matched_dose(view: View, kept: pd.DataFrame, axes: Axes) -> Panel:
    """R of an arm against size, at its largest dose that all sizes share."""
    panel = Panel(axes)
    arm = str(kept["treatment"].iloc[0])
    sizes = sizes_of(kept)
    shared = set.intersection(*(set(kept.loc[kept["size"] == name, "ratio"]) for name, _ in sizes))
    if not shared:
        say(axes, "Not estimable: the sizes share no dose.")
        return panel
    matched = kept[kept["ratio"] == max(shared)]
    doses = sorted(set(matched["S"]))
    axis = DoseAxis(params for _, params in sizes)
    slot, at = axis.dodge(doses, set(zip(matched["S"], map(float, matched["params"]), strict=True)))
    for i, s in enumerate(doses):
        look = _level(arm, i, len(doses))
        rows = matched[matched["S"] == s].sort_values("params")
        _remains(panel, [(at[s, row.params], row, f"S = {count(s)}") for row in each(rows)], slot, look)
        axes.plot(
            [],
            [],
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            **filled(look.color, look.fill),
            label=f"S = {count(s)}",
        )
    axis.apply(axes)
    tokens = sorted({count(t) for t in matched["dose_tokens"]})
    title = f"{spaced(arm)}, matched dose: {percent(max(shared))}, {' or '.join(tokens)} tokens"
    if len(sizes) < 2:
        title += "\none size here: a trend is not estimable"
    else:
        last = matched[matched["S"] == min(matched.groupby("size")["S"].max())]
        title += f"\nS = {count(last['S'].max())}, on shared seed blocks: {_matched(view, last, 'dose')}"
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("size (non-embedding parameters)")
    axes.set_ylabel("retention R(S) (share of E(0))")
    _below(axes, 3)
    return panel


def _against_install(view: View, kept: pd.DataFrame, axes: Axes) -> Panel:
    """R of an arm at the largest S of every size and dose against its E(0): sizes compare where they overlap in x."""
    panel = Panel(axes)
    arm = str(kept["treatment"].iloc[0])
    sizes = sizes_of(kept)
    last = min(float(kept.loc[kept["size"] == name, "S"].max()) for name, _ in sizes)
    undefined = 0
    for i, (name, _) in enumerate(sizes):
        color, marker = tint("#000000", i, len(sizes)), "osD^vP"[i % 6]
        drawn = len(panel.estimates)
        for row in each(kept[(kept["size"] == name) & (kept["S"] == last)]):
            if row.status != "ok":
                undefined += 1
                continue
            panel.shares(np.asarray(row.befores), row.values, row.befores, color, marker)
            axes.plot([row.E0_low, row.E0_high], [row.estimate] * 2, color=color, linewidth=0.8, gid="E0")
            panel.estimate(row.E0, (row.estimate, row.low, row.high), color, marker)
        if len(panel.estimates) > drawn:
            axes.plot([], [], color=color, marker=marker, linestyle="none", label=name)
    told = _matched(view, kept[kept["S"] == last], "E(0)")
    title = f"{spaced(arm)}, matched E(0)\nS = {count(last)}, on shared seed blocks: {told}"
    if undefined:
        title += f"\n{undefined} dose{'s' if undefined > 1 else ''} not shown: R undefined or not estimable"
    if not panel.estimates:
        axes.set_xticks([])
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("E(0), effect before fine-tuning (nats)")
    _below(axes, 4)
    return panel


def _matched(view: View, shown: pd.DataFrame, matching: str) -> str:
    """The difference of R between two sizes at one dose or E(0), or why there is none, in words.

    `shown`: the retention that the figure shows, at one dose of one source.
    """
    rows = _focused(view, view.sizes)
    rows = rows[(rows["second_ratio"] == 0) & (rows["matching"] == matching)]
    rows = rows.merge(shown[["treatment", "ratio", "finetune", "S"]].drop_duplicates())
    budgets = shown[["size", "pretrain_tokens"]].drop_duplicates()
    rows = rows.merge(budgets).merge(budgets.add_prefix("other_"))
    if rows.empty:
        return "needs two sizes"
    good = rows[rows["status"] == "ok"]
    if good.empty:
        return str(rows["status"].iloc[0])
    row = next(each(good))
    difference, low, high = (signed(value, 2) for value in (row.difference, row.low, row.high))
    return f"\nR({row.size}, {percent(row.ratio)}) − R({row.other_size}) = {difference} [{low}, {high}]"


def _below(axes: Axes, columns: int) -> None:
    """A legend of these axes' own, under them, where they have anything to tell."""
    if not axes.get_legend_handles_labels()[1]:
        return
    axes.legend(
        fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns, columnspacing=1.2
    )


def _focused(view: View, frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of `frame` on the primary endpoint, of arms with an intervention, against the primary control."""
    own = view.focus.rows(frame)
    return own[(own["control"] == view.focus.control) & (own["ratio"] > 0)]


def _series(rows: pd.DataFrame, view: View) -> list[tuple[Any, ...]]:
    arms = treatment_order(rows["treatment"], view.focus.treatment)
    keys = rows[SERIES].drop_duplicates().itertuples(index=False, name=None)
    return sorted(keys, key=lambda key: (arms.index(key[0]), key[1], view.conditions.place(key[2])))


def _look(key: tuple[Any, ...], series: list[tuple[Any, ...]]) -> Look:
    """The arm's look: lighter, broken and less filled for its smaller doses."""
    own = [k for k in series if k[0] == key[0]]
    return _level(key[0], own.index(key), len(own))


def _level(arm: str, level: int, levels: int) -> Look:
    color, marker = tint(mark(arm).color, level, levels), mark(arm).marker
    return Look(color, marker, line_style(level, levels), fill_style(level, levels))


def _several(key: tuple[Any, ...], series: list[tuple[Any, ...]]) -> bool:
    """Whether the arm of `key` has several of the `series`, all in shades of one colour."""
    return sum(k[0] == key[0] for k in series) > 1


def _points(rows: pd.DataFrame, by: str) -> set[tuple[tuple[Any, ...], float]]:
    """(series, dose) of all `rows`; `by` is the column of the dose."""
    return {(row[:-1], float(row[-1])) for row in rows[[*SERIES, by]].itertuples(index=False, name=None)}


def _of(frame: pd.DataFrame, key: tuple[Any, ...]) -> pd.DataFrame:
    for column, value in zip(SERIES, key, strict=True):
        frame = frame[frame[column] == value]
    return frame


def _label(key: tuple[Any, ...]) -> str:
    treatment, ratio, condition = key
    return spaced(", ".join(part for part in (f"{treatment} {percent(ratio)}".strip(), condition) if part))
