"""Figures before fine-tuning: dose-response of the install, the ladder, and the margins of every member."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from caml.analysis.figures.panels import DoseAxis, Panel, grid, handle, legend, level, say, width_of, words
from caml.analysis.figures.style import (
    ORDER,
    Fill,
    count,
    line_style,
    mark,
    percent,
    rung_label,
    rung_order,
    spaced,
    span,
    styled,
    tint,
    treatment_order,
)
from caml.analysis.figures.view import View, each, t_interval

BEFORE, AFTER = "before fine-tuning", "after fine-tuning"
FAR = 1.5  # times how far the seeds of the median rung go: an axis of the ladder shows no more of a seed


def sizes_of(frame: pd.DataFrame) -> list[tuple[str, int]]:
    """(name, non-embedding parameters) of the sizes in `frame`, smallest first."""
    pairs = frame[["size", "params"]].drop_duplicates().sort_values("params")
    return [(str(name), int(params)) for name, params in pairs.itertuples(index=False)]


def size_label(name: str, params: int) -> str:
    """A size as a panel's title: its name and what the name stands for."""
    return f"{name} ({count(params)} parameters)"


@styled
def install(view: View) -> Figure:
    """Effect on the primary endpoint against the dose, before fine-tuning: a panel per size."""
    focus = view.focus
    rows = focus.rows(view.effects).query("control != '' and S == 0 and ratio > 0 and pretrain_tokens > 0")
    if rows.empty:
        return words("No arm with an intervention was compared with a control before fine-tuning.")
    sizes = sizes_of(rows)
    figure, axes = grid(1, len(sizes), 2.5, width_of(len(sizes)))
    panels = []
    handles = {}
    of_condition = sorted(set(rows["condition"]), key=view.conditions.place)
    arms = treatment_order(rows["treatment"], focus.treatment)
    for (name, params), ax in zip(sizes, axes[0], strict=True):
        panel = Panel(ax)
        here = rows[rows["size"] == name]
        dose = DoseAxis(here["ratio"])
        series: dict[Any, pd.DataFrame] = dict(iter(here.groupby(["treatment", "control", "condition"])))
        keys = sorted(
            series,
            key=lambda key: (arms.index(key[0]), key[1] != focus.control, view.conditions.place(key[2])),
        )
        slot, at = dose.dodge(keys, {(key, r) for key, points in series.items() for r in points["ratio"]})
        for key in keys:
            treatment, control, condition = key
            points = series[key].sort_values("ratio")
            place = of_condition.index(condition), len(of_condition)
            color, marker = tint(mark(treatment).color, *place), mark(treatment).marker
            fill: Fill = "full" if control == focus.control else "none"
            x = [
                panel.point(
                    at[key, row.ratio],
                    slot,
                    row.values,
                    (row.estimate, row.t_low, row.t_high),
                    color,
                    marker,
                    fill,
                )
                for row in each(points)
            ]
            line = line_style(*place)
            panel.join(x, list(points["estimate"]), color, line)
            label = spaced(", ".join(part for part in (f"{treatment} − {control}", condition) if part))
            handles[label] = handle(label, color, marker, line, fill)
        tokens = here.groupby("ratio")["dose_tokens"].agg(["min", "max"])
        dose.apply(ax, lambda r, at=tokens: f"{percent(r)}\n{span(*at.loc[r])}")  # type: ignore[misc]
        ax.set_title(size_label(name, params))
        ax.set_xlabel("dose (% of slots; tokens)")
        panels.append(panel)
    axes[0][0].set_ylabel(f"effect on {rung_label(focus.rung)} (nats)")
    level(panels)
    legend(figure, list(handles.values()))
    return figure


def climbed(view: View) -> pd.DataFrame:
    """The effects that the ladder shows: every rung, each arm's largest dose, before and after the largest S."""
    rows = view.effects[view.effects["family"] == view.focus.family]
    rows = rows[rows["control"] == view.focus.control].query("ratio > 0 and second_ratio == 0 and rung != ''")
    arm = ["size", "treatment"]
    rows = rows[rows["ratio"] == rows.groupby(arm)["ratio"].transform("max")]
    return rows[(rows["S"] == 0) | (rows["S"] == rows.groupby(arm)["S"].transform("max"))]


@styled
def ladder(view: View) -> Figure:
    """Effects along the ladder before and after the largest fine-tuning: arms by rows, sizes by columns."""
    focus = view.focus
    rows = climbed(view)
    if rows.empty:
        return words(f"No arm was compared with {spaced(focus.control) or 'a control'} on a ladder of rungs.")
    rungs = rung_order(rows["rung"])
    sizes = sizes_of(rows)
    arms = treatment_order(rows["treatment"], focus.treatment)
    figure, axes = grid(len(arms), len(sizes), max(1.6, 2.6 / len(arms)), sharey="all")
    panels = []
    farthest: dict[str, float] = {}
    for arm, line in zip(arms, axes, strict=True):
        for (name, _), ax in zip(sizes, line, strict=True):
            here = rows[(rows["treatment"] == arm) & (rows["size"] == name)]
            if here.empty:
                say(ax, f"{spaced(arm)} was not run at this size")
                continue
            panel = Panel(ax, size=4.0)
            dose = here["S"].max()
            for row in each(here.drop_duplicates(["rung", "S"])):
                panel.point(
                    rungs.index(row.rung) + (0.2 if row.S > 0 else -0.2),
                    0.36,
                    row.values,
                    (row.estimate, row.t_low, row.t_high),
                    mark(arm).color,
                    mark(arm).marker,
                    fill="full" if row.S == 0 else "none",
                )
                farthest[row.rung] = max([farthest.get(row.rung, 0.0), *map(abs, row.values)])
            after = f", after S = {count(dose)}" if dose > 0 else ""
            ax.set_title(f"{spaced(arm)} {percent(here['ratio'].max())}{after}", fontsize=8, loc="left")
            panels.append(panel)
    # One rung whose seeds stray does not flatten the others.
    reach = FAR * float(np.median(list(farthest.values())))
    level(panels, bound=(-reach, reach), write=True)
    for (name, params), ax in zip(sizes, axes[0], strict=True):
        ax.annotate(
            size_label(name, params),
            (0.5, 1.0),
            xytext=(0, 20),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            annotation_clip=False,
        )
    wide = len(sizes) == 1 and len(rungs) <= 8
    labels = [rung_label(rung, 10 if wide else 0) for rung in rungs]
    for ax in axes.flat:
        ax.set_xlim(-0.6, len(rungs) - 0.4)
        ax.set_xticks(range(len(rungs)), [""] * len(rungs))
    for ax in axes[-1]:
        ax.tick_params(bottom=ax.spines["bottom"].get_visible(), labelbottom=True)
        if wide:
            ax.set_xticks(range(len(rungs)), labels)
        else:
            ax.set_xticks(range(len(rungs)), labels, rotation=40, ha="right", rotation_mode="anchor")
    figure.supylabel(f"effect against {spaced(focus.control)} (nats)", fontsize=8.5)
    handles = [handle(BEFORE, "#333333", "o")]
    if (rows["S"] > 0).any():
        handles.append(handle(f"{AFTER} (largest S)", "#333333", "o", fill="none"))
    legend(figure, handles)
    return figure


@styled
def members(view: View) -> Figure:
    """Absolute margins on the primary endpoint before fine-tuning, with the equivalence margin."""
    focus = view.focus
    rows = focus.rows(view.margins).query("S == 0")
    if rows.empty:
        return words("No member was scored on the primary endpoint before fine-tuning.")
    sizes = sizes_of(rows)
    places = {name: _places(rows[rows["size"] == name]) for name, _ in sizes}
    figure, axes = grid(1, len(sizes), 2.6, width_of(len(sizes)))
    panels = []
    for (name, params), ax in zip(sizes, axes[0], strict=True):
        panel = Panel(ax)
        labels = []
        for x, (arm, ratio) in enumerate(places[name]):
            look = mark(arm)
            here = rows[(rows["size"] == name) & (rows["arm"] == arm) & (rows["ratio"] == ratio)]
            values = list(here.sort_values("seed")["margin"])
            panel.point(
                x, min(0.8, 0.1 * len(places[name])), values, t_interval(values), look.color, look.marker
            )
            labels.append(spaced(f"{arm} {percent(ratio)}" if ratio > 0 else arm))
        if math.isfinite(view.bound):
            ax.axhspan(-view.bound, view.bound, color="#000000", alpha=0.08, linewidth=0, gid="equivalence")
        ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_xlim(-0.6, len(labels) - 0.4)
        ax.set_title(size_label(name, params))
        panels.append(panel)
    axes[0][0].set_ylabel(f"margin on {rung_label(focus.rung)} (nats)")
    band = (-view.bound, view.bound) if math.isfinite(view.bound) else ()
    level(panels, hold=band)
    if band:
        legend(figure, [handle(f"equivalence margin ±{view.bound:g} nats", "#DDDDDD", "s")])
    return figure


def _places(rows: pd.DataFrame) -> list[tuple[str, float]]:
    pairs = rows[["arm", "ratio"]].drop_duplicates().itertuples(index=False)
    known = {arm: i for i, arm in enumerate(ORDER)}
    return sorted(((str(a), float(r)) for a, r in pairs), key=lambda p: (known.get(p[0], len(known)), *p))
