"""Figures before fine-tuning: dose-response of the install, the ladder, and the margins of every member."""

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from caml.analysis.figures.panels import DoseAxis, Panel, grid, handle, legend, level, say, width_of, words
from caml.analysis.figures.style import (
    ORDER,
    count,
    line_style,
    mark,
    percent,
    rung_label,
    rung_order,
    span,
    styled,
    tint,
    treatment_order,
)
from caml.analysis.figures.view import View, each, t_interval

BEFORE, AFTER = "before fine-tuning", "after fine-tuning"


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
    for (name, params), ax in zip(sizes, axes[0], strict=True):
        panel = Panel(ax)
        here = rows[rows["size"] == name]
        dose = DoseAxis(here["ratio"])
        series: list[tuple[Any, pd.DataFrame]] = list(here.groupby(["treatment", "control", "condition"]))
        arms = treatment_order(rows["treatment"], focus.treatment)
        series.sort(
            key=lambda s: (arms.index(s[0][0]), s[0][1] != focus.control, view.conditions.place(s[0][2]))
        )
        for i, ((treatment, control, condition), points) in enumerate(series):
            points = points.sort_values("ratio")
            place = of_condition.index(condition), len(of_condition)
            color, marker = tint(mark(treatment).color, *place), mark(treatment).marker
            usual = control == focus.control
            slot = dose.slot(len(series))
            x = [
                panel.point(
                    dose.at(row.ratio) + slot * (i + 0.5 - len(series) / 2),
                    slot,
                    row.values,
                    (row.estimate, row.t_low, row.t_high),
                    color,
                    marker,
                    usual,
                )
                for row in each(points)
            ]
            line = line_style(*place)
            panel.join(x, list(points["estimate"]), color, line)
            label = ", ".join(part for part in (f"{treatment} − {control}", condition) if part)
            handles[label] = handle(label, color, marker, line, usual)
        tokens = here.groupby("ratio")["dose_tokens"].agg(["min", "max"])
        dose.apply(ax, lambda r, at=tokens: f"{percent(r)}\n{span(*at.loc[r])}")  # type: ignore[misc]
        ax.set_title(size_label(name, params))
        ax.set_xlabel("dose (% of slots; tokens)")
        panels.append(panel)
    axes[0][0].set_ylabel(f"effect on {rung_label(focus.rung)} (nats)")
    level(panels)
    legend(figure, list(handles.values()))
    return figure


@styled
def ladder(view: View) -> Figure:
    """Effects along the ladder before and after the largest fine-tuning: arms by rows, sizes by columns."""
    focus = view.focus
    rows = view.effects[view.effects["family"] == focus.family]
    rows = rows[rows["control"] == focus.control].query("ratio > 0 and second_ratio == 0 and rung != ''")
    if rows.empty:
        return words(f"No arm was compared with {focus.control or 'a control'} on a ladder of rungs.")
    rungs = rung_order(rows["rung"])
    sizes = sizes_of(rows)
    arms = treatment_order(rows["treatment"], focus.treatment)
    figure, axes = grid(len(arms), len(sizes), max(1.5, 2.6 / len(arms)), sharey="all")
    panels = []
    for arm, line in zip(arms, axes, strict=True):
        for (name, _), ax in zip(sizes, line, strict=True):
            here = rows[(rows["treatment"] == arm) & (rows["size"] == name)]
            if here.empty:
                say(ax, f"{arm} was not run at this size")
                continue
            panel = Panel(ax)
            here = here[here["ratio"] == here["ratio"].max()]
            dose = here["S"].max()
            for row in each(here[here["S"].isin([0, dose])].drop_duplicates(["rung", "S"])):
                panel.point(
                    rungs.index(row.rung) + (0.2 if row.S > 0 else -0.2),
                    0.36,
                    row.values,
                    (row.estimate, row.t_low, row.t_high),
                    mark(arm).color,
                    mark(arm).marker,
                    filled=row.S == 0,
                )
            after = f", after S = {count(dose)}" if dose > 0 else ""
            ax.set_title(f"{arm} {percent(here['ratio'].max())}{after}", fontsize=8, loc="left")
            panels.append(panel)
    level(panels)
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
        ax.tick_params(bottom=True, labelbottom=True)
        if wide:
            ax.set_xticks(range(len(rungs)), labels)
        else:
            ax.set_xticks(range(len(rungs)), labels, rotation=40, ha="right", rotation_mode="anchor")
    figure.supylabel(f"effect against {focus.control} (nats)", fontsize=8.5)
    handles = [handle(BEFORE, "#333333", "o", filled=True)]
    if (rows["S"] > 0).any():
        handles.append(handle(f"{AFTER} (largest S)", "#333333", "o", filled=False))
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
            labels.append(f"{arm} {percent(ratio)}" if ratio > 0 else arm)
        if math.isfinite(view.bound):
            ax.axhspan(-view.bound, view.bound, color="#000000", alpha=0.08, linewidth=0, gid="equivalence")
            panel.dots.extend([-view.bound, view.bound])
        ax.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
        ax.set_xlim(-0.6, len(labels) - 0.4)
        ax.set_title(size_label(name, params))
        panels.append(panel)
    axes[0][0].set_ylabel(f"margin on {rung_label(focus.rung)} (nats)")
    level(panels)
    if math.isfinite(view.bound):
        legend(figure, [handle(f"equivalence margin ±{view.bound:g} nats", "#DDDDDD", "s")])
    return figure


def _places(rows: pd.DataFrame) -> list[tuple[str, float]]:
    pairs = rows[["arm", "ratio"]].drop_duplicates().itertuples(index=False)
    known = {arm: i for i, arm in enumerate(ORDER)}
    return sorted(((str(a), float(r)) for a, r in pairs), key=lambda p: (known.get(p[0], len(known)), *p))
