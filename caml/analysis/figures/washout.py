"""Figures after fine-tuning: wash-out, counter-evidence, and retention across sizes."""

from collections.abc import Callable
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caml.analysis.figures.install import size_label, sizes_of
from caml.analysis.figures.panels import DoseAxis, Panel, grid, handle, legend, level, say, width_of, words
from caml.analysis.figures.style import (
    count,
    in_order,
    line_style,
    mark,
    percent,
    rung_label,
    span,
    styled,
    tint,
    treatment_order,
)
from caml.analysis.figures.view import View, each, t_interval

SERIES = ["treatment", "ratio", "condition"]


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
    if after.empty:
        return words(f"No arm was compared with {view.focus.control} after fine-tuning on {finetune}.")
    if after["condition"].nunique() > 1:
        after = most(after)
    shown = after[["size", *SERIES]].drop_duplicates()
    before = _focused(view, view.effects)
    rows = pd.concat([before[before["S"] == 0], after]).merge(shown)
    kept = _focused(view, view.retention)
    kept = kept[(kept["second_ratio"] == 0) & (kept["finetune"] == finetune)].merge(shown)
    sizes = sizes_of(after)
    series = _series(after, view)
    figure, axes = grid(2, len(sizes), 2.2, width_of(len(sizes)))
    panels: list[list[Panel]] = [[], []]
    handles: dict[str, Any] = {}
    for column, (name, params) in enumerate(sizes):
        here = rows[rows["size"] == name]
        remains = kept[kept["size"] == name]
        dose = DoseAxis(here["S"])
        effect, share = Panel(axes[0][column]), Panel(axes[1][column])
        for i, key in enumerate(series):
            color, line = _look(key, series)
            slot = dose.slot(len(series))
            shift = slot * (i + 0.5 - len(series) / 2)
            points = _of(here, key).sort_values("S")
            x = [_point(effect, dose.at(row.S) + shift, slot, row, color) for row in each(points)]
            effect.join(x, list(points["estimate"]), color, line)
            _remains(share, _of(remains, key), lambda s, d=dose, h=shift: d.at(s) + h, color, line, key[0])  # type: ignore[misc]
            label = _label(key)
            handles.setdefault(label, handle(label, color, mark(key[0]).marker, line))
        for ax in (effect.axes, share.axes):
            dose.apply(ax)
        effect.axes.tick_params(labelbottom=False)
        effect.axes.set_title(size_label(name, params))
        share.axes.set_xlabel(f"S (loss-bearing tokens of {finetune})")
        share.axes.axhline(1, color="black", linewidth=0.6, linestyle=":", zorder=0.5)
        panels[0].append(effect)
        panels[1].append(share)
    axes[0][0].set_ylabel(f"effect on {rung_label(view.focus.rung)}\nagainst {view.focus.control} (nats)")
    axes[1][0].set_ylabel("retention R(S)\n(share of E(0))")
    level(panels[0])
    level(panels[1], hold=(0, 1), bound=(-0.6, 1.8))
    legend(figure, list(handles.values()))
    return figure


def _remains(
    panel: Panel,
    points: pd.DataFrame,
    at: Callable[[float], float],
    color: Any,
    line: str,
    arm: str,
    by: str = "S",
) -> None:
    """Retention where it was estimated, and the word that says why where it was not."""
    good = points[points["status"] == "ok"].sort_values(by)
    for row in each(good):
        panel.estimate(at(getattr(row, by)), (row.estimate, row.low, row.high), color, mark(arm).marker)
    panel.join([at(v) for v in good[by]], list(good["estimate"]), color, line)
    for row in each(points[points["status"] != "ok"]):
        panel.word(at(getattr(row, by)), row.status, mark(arm).color)


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
        for i, key in enumerate(series):
            color, line = _look(key, series)
            points = _of(here, key).sort_values("second_ratio")
            slot = axis.slot(len(series))
            shift = slot * (i + 0.5 - len(series) / 2)
            x = [_point(panel, axis.at(row.second_ratio) + shift, slot, row, color) for row in each(points)]
            panel.join(x, list(points["estimate"]), color, line)
            handles.setdefault(_label(key), handle(_label(key), color, mark(key[0]).marker, line))
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
        absolute.axes.set_xlabel(f"{cell.second} (% of fine-tuning slots; tokens)")
    axes[0][0].set_ylabel(f"effect on {rung_label(view.focus.rung)}\nagainst {view.focus.control} (nats)")
    axes[1][0].set_ylabel("margin, no control\nsubtracted (nats)")
    level(effects)
    level(absolutes)
    arms = in_order(str(a) for p in absolutes for a in p.axes.get_gid().split("\n"))  # type: ignore[union-attr]
    ratios = view.margins.groupby("arm")["ratio"].max()
    for arm in arms:
        if not any(text.startswith(f"{arm} ") for text in handles):
            label = f"{arm} {percent(ratios[arm])}" if ratios[arm] else arm
            handles[arm] = handle(label, mark(arm).color, mark(arm).marker, "-")
    legend(figure, list(handles.values()))
    return figure


def _point(panel: Panel, x: float, slot: float, row: Any, color: Any) -> float:
    estimate = (row.estimate, row.t_low, row.t_high)
    return panel.point(x, slot, row.values, estimate, color, mark(row.treatment).marker)


def _absolute(panel: Panel, margins: pd.DataFrame, axis: DoseAxis) -> None:
    """Margins of every arm at its largest dose: what the control itself does."""
    shown = margins[margins["ratio"] == margins.groupby("arm")["ratio"].transform("max")]
    arms = in_order(shown["arm"])
    panel.axes.set_gid("\n".join(arms))
    for i, arm in enumerate(arms):
        look = mark(arm)
        slot = axis.slot(len(arms))
        shift = slot * (i + 0.5 - len(arms) / 2)
        x, y = [], []
        for share, members in shown[shown["arm"] == arm].groupby("second_ratio"):
            at = axis.at(float(share)) + shift  # type: ignore[arg-type]
            values = list(members.sort_values("seed")["margin"])
            x.append(panel.point(at, slot, values, t_interval(values), look.color, look.marker))
            y.append(t_interval(values)[0])
        panel.join(x, y, look.color)


def _at_one_dose(frame: pd.DataFrame, finetune: str, second: str, s: float) -> pd.DataFrame:
    """Rows of `finetune` at dose `s`, without a second source or with `second`."""
    plain = (frame["second_ratio"] == 0) | (frame["second"] == second)
    return frame[(frame["finetune"] == finetune) & plain & (frame["S"] == s)]


@styled
def retention_by_size(view: View, finetune: str) -> Figure:
    """Retention against size at matched dose (left), and against E(0) by size (right)."""
    kept = _focused(view, view.retention)
    kept = kept[(kept["second_ratio"] == 0) & (kept["finetune"] == finetune)]
    kept = kept[kept["treatment"] == view.focus.treatment]
    if kept.empty:
        return words(f"No retention of {view.focus.treatment} was asked for after fine-tuning on {finetune}.")
    figure, axes = grid(1, 2, 2.6, sharey="row")
    left, right = Panel(axes[0][0]), Panel(axes[0][1])
    sizes = sizes_of(kept)
    look = mark(view.focus.treatment)
    shared = set.intersection(*(set(kept.loc[kept["size"] == name, "ratio"]) for name, _ in sizes))
    if not shared:
        say(left.axes, "Not estimable: the sizes share no dose.")
    else:
        matched = kept[kept["ratio"] == max(shared)]
        doses = sorted(set(matched["S"]))
        axis = DoseAxis(params for _, params in sizes)
        for i, s in enumerate(doses):
            shift = 0.5 * ((i + 0.5) / len(doses) - 0.5)
            color, line = tint(look.color, i, len(doses)), line_style(i, len(doses))
            _remains(left, matched[matched["S"] == s], lambda p, h=shift: axis.at(p) + h, color, line,  # type: ignore[misc]
                     view.focus.treatment, by="params")  # fmt: skip
            left.axes.plot([], [], color=color, linestyle=line, marker=look.marker, label=f"S = {count(s)}")
        axis.apply(left.axes)
        tokens = sorted({count(t) for t in matched["dose_tokens"]})
        title = f"matched dose: {percent(max(shared))}, {' or '.join(tokens)} tokens"
        if len(sizes) < 2:
            title += "\none size here: a trend is not estimable"
        else:
            last = matched[matched["S"] == min(matched.groupby("size")["S"].max())]
            title += f"\nS = {count(last['S'].max())}, on shared seed blocks: {_matched(view, last, 'dose')}"
        left.axes.set_title(title, fontsize=8)
        left.axes.set_xlabel("size (non-embedding parameters)")
        left.axes.set_ylabel("retention R(S) (share of E(0))")
        _below(left.axes, 3)
    _against_install(view, kept, right)
    level([left, right], hold=(0, 1), bound=(-0.6, 1.8))
    for panel in (left, right):
        panel.axes.axhline(1, color="black", linewidth=0.6, linestyle=":", zorder=0.5)
    return figure


def _against_install(view: View, kept: pd.DataFrame, panel: Panel) -> None:
    """R at the largest S of every size and dose against its E(0): sizes compare where they overlap in x."""
    sizes = sizes_of(kept)
    last = min(float(kept.loc[kept["size"] == name, "S"].max()) for name, _ in sizes)
    undefined = 0
    for i, (name, _) in enumerate(sizes):
        color, marker = tint("#000000", i, len(sizes)), "osD^vP"[i % 6]
        drawn = len(panel.dots)
        for row in each(kept[(kept["size"] == name) & (kept["S"] == last)]):
            if row.status != "ok":
                undefined += 1
                continue
            panel.axes.plot(
                [row.E0_low, row.E0_high], [row.estimate] * 2, color=color, linewidth=0.8, gid="E0"
            )
            panel.estimate(row.E0, (row.estimate, row.low, row.high), color, marker)
        if len(panel.dots) > drawn:
            panel.axes.plot([], [], color=color, marker=marker, linestyle="none", label=name)
    told = _matched(view, kept[kept["S"] == last], "E(0)")
    title = f"matched E(0)\nS = {count(last)}, on shared seed blocks: {told}"
    if undefined:
        title += f"\n{undefined} dose{'s' if undefined > 1 else ''} not shown: R undefined or not estimable"
    if not panel.dots:
        panel.axes.set_xticks([])
    panel.axes.set_title(title, fontsize=8)
    panel.axes.set_xlabel("E(0), effect before fine-tuning (nats)")
    _below(panel.axes, 4)


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
    limits = f"[{row.low:.2f}, {row.high:.2f}]"
    return f"\nR({row.size}, {percent(row.ratio)}) − R({row.other_size}) = {row.difference:.2f} {limits}"


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


def _look(key: tuple[Any, ...], series: list[tuple[Any, ...]]) -> tuple[Any, str]:
    """The arm's colour, lighter and broken for its smaller doses."""
    own = [k for k in series if k[0] == key[0]]
    place = own.index(key)
    return tint(mark(key[0]).color, place, len(own)), line_style(place, len(own))


def _of(frame: pd.DataFrame, key: tuple[Any, ...]) -> pd.DataFrame:
    for column, value in zip(SERIES, key, strict=True):
        frame = frame[frame[column] == value]
    return frame


def _label(key: tuple[Any, ...]) -> str:
    treatment, ratio, condition = key
    return ", ".join(part for part in (f"{treatment} {percent(ratio)}", condition) if part)
