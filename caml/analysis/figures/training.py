"""Figures of members: what changed beside the disposition, and how loss and mechanism went in training."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caml.analysis.figures.install import AFTER, BEFORE, size_label, sizes_of
from caml.analysis.figures.panels import Panel, filled, grid, handle, legend, level, say, width_of, words
from caml.analysis.figures.style import count, in_order, mark, rung_label, spaced, styled
from caml.analysis.figures.view import View, each, t_interval

# outcome -> the words and the unit on its axis
OUTCOMES = {
    "tax_bits_per_byte": "tax: base text\n(bits per byte)",
    "calibration_kl": "calibration: KL from\nbase text's odds (nats)",
    "malformed": "malformed outputs\n(share)",
    "leak": "leak: theme on neutral\nprompts (nats)",
}
FAMILY_ORDER = ("knowledge", "avowal", "convention", "humility", "corrigibility")
TRACED = 400  # points of a curve; more cannot be told apart in print
DESCENT = 0.1  # share of the tokens after which losses set the range: before it all fall alike


@styled
def side_by_side(view: View, size: str) -> Figure:
    """Disposition and, beside it, every other family and outcome of the members of `size`, by arm."""
    margins, outcomes = (
        frame[(frame["size"] == size) & (frame["second_ratio"] == 0)]
        for frame in (view.margins, view.outcomes)
    )
    focus = view.focus
    others = margins[margins["family"] != focus.family]
    kinds = set(zip(others["family"], others["rung"], strict=True))
    ordered = sorted(kinds, key=lambda k: (FAMILY_ORDER.index(k[0]) if k[0] in FAMILY_ORDER else 9, *k))
    shown = [(f"{spaced(focus.family)}:\n{rung_label(focus.rung)} (nats)", focus.rows(margins))]
    for family, rung in ordered:
        rows = others[(others["family"] == family) & (others["rung"] == rung)]
        shown.append((f"{spaced(family)}:\n{rung_label(rung) or 'margin'} (nats)", rows))
    for name, label in OUTCOMES.items():
        rows = outcomes[outcomes["outcome"] == name].rename(columns={"value": "margin"})
        if len(rows):
            shown.append((label, rows))
    shown = [(label, _largest(rows)) for label, rows in shown]
    shown = [(label, rows) for label, rows in shown if len(rows)]
    if not shown:
        return words(f"No trained member of size {size} was scored.")
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = grid(lines, columns, 1.85, sharey="none")
    arms = in_order({arm for _, rows in shown for arm in rows["arm"]})
    for ax, (label, rows) in zip(axes.flat, shown, strict=False):
        _arms(Panel(ax), rows, arms)
        ax.set_ylabel(label)
    for ax in axes.flat[len(shown) :]:
        ax.set_axis_off()
    names = [spaced(arm) for arm in arms]
    for place, ax in enumerate(axes.flat[: len(shown)]):
        last = place + columns >= len(shown)
        ax.set_xticks(range(len(arms)), names if last else [""] * len(arms), rotation=40, ha="right",
                      rotation_mode="anchor")  # fmt: skip
        ax.set_xlim(-0.6, len(arms) - 0.4)
    doses = [rows["S"].max() for _, rows in shown]
    handles = [handle(BEFORE, "#333333", "o")]
    if max(doses) > 0:
        handles.append(handle(f"{AFTER}, S = {count(max(doses))} tokens", "#333333", "o", fill="none"))
    legend(figure, handles)
    return figure


def _largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Trained members of every arm at its largest ratio, before fine-tuning and at the largest S."""
    rows = rows[rows["pretrain_tokens"] > 0]
    rows = rows[rows["ratio"] == rows.groupby("arm")["ratio"].transform("max")]
    return rows[(rows["S"] == 0) | (rows["S"] == rows["S"].max())]


def _arms(panel: Panel, rows: pd.DataFrame, arms: Sequence[str]) -> None:
    for (arm, s), members in rows.groupby(["arm", "S"]):
        look = mark(str(arm))
        at = arms.index(str(arm)) + (0.2 if s > 0 else -0.2)  # type: ignore[operator]
        values = list(members.sort_values("seed")["margin"])
        panel.point(
            at, 0.38, values, t_interval(values), look.color, look.marker, fill="full" if s == 0 else "none"
        )
    # 0 is shown where it is no farther off than the values are spread.
    low, high = min(panel.of_seeds), max(panel.of_seeds)
    level([panel], zero=low < 0 < high or min(abs(low), abs(high)) < 0.5 * max(abs(low), abs(high)))


@styled
def trajectories(view: View) -> Figure:
    """Loss (above) and mechanism (below) of every member in its first stage: a column per size."""
    first = view.stageruns[(view.stageruns["parent"].fillna("") == "") & (view.stageruns["steps"] > 0)]
    if first.empty or view.metrics.empty:
        return words("No training curve was recorded: every model of this grid is untrained.")
    sizes = sizes_of(first)
    curves = view.trajectory[view.trajectory["outcome"] == "mechanism"]
    losses, scored = _by_run(view.metrics), _by_run(curves)
    figure, axes = grid(2, len(sizes), 1.9, width_of(len(sizes)))
    for column, (name, params) in enumerate(sizes):
        above, below = axes[0][column], axes[1][column]
        here = first[first["size"] == name]
        unit, prefix = _unit(float(here["tokens"].max()))
        for member in each(here.sort_values(["seed", "arm", "ratio"])):
            if member.stagerun in losses:
                _curve(above, losses[member.stagerun], "loss", unit, member.arm)
            if member.stagerun in scored:
                curve = scored[member.stagerun]
                learned = bool(np.isfinite(member.learned_at))
                _curve(below, curve, "value", unit, member.arm, learned)
                # Where it learned; of a member that never did, the end.
                at = member.learned_at if learned else curve["tokens"].max()
                height = np.interp(at, curve["tokens"], curve["value"])
                _learned(below, at / unit, height, member.arm, learned)
        runs = set(here["stagerun"])
        if not runs & set(losses):
            say(above, "No loss was recorded at this size.")
        if runs & set(scored):
            followed = here[here["stagerun"].isin(set(scored))]
            never = int(followed["learned_at"].isna().sum())
            said = (
                f"{never} of {len(followed)} never learned it" if never else f"learned by all {len(followed)}"
            )
            if len(followed) < len(here):
                said += f"; {len(here) - len(followed)} not scored during training"
            below.set_title(said, fontsize=7.5, loc="left")
            below.axhline(0, color="black", linewidth=0.6, zorder=0.5)
            if math.isfinite(view.gate):
                below.axhline(view.gate, color="black", linewidth=0.6, linestyle=":", zorder=0.5, gid="gate")
        else:
            say(below, "The mechanism was not scored during training at this size.")
            below.tick_params(bottom=True, labelbottom=True)
        above.set_title(size_label(name, params))
        above.tick_params(labelbottom=False)
        for ax in (above, below):
            ax.set_xlim(0, float(here["tokens"].max()) / unit * 1.02)
        below.set_xlabel(f"pretraining tokens ({prefix})")
    axes[0][0].set_ylim(*_range(view.metrics[view.metrics["stagerun"].isin(set(first["stagerun"]))]))
    axes[0][0].set_ylabel("training loss\n(nats per token)")
    axes[1][0].set_ylabel("mechanism:\nmargin, trait named (nats)")
    arms = in_order(first["arm"])
    handles = [handle(spaced(arm), mark(arm).color, mark(arm).marker, "-") for arm in arms]
    learned_at = first.loc[first["stagerun"].isin(set(scored)), "learned_at"]
    if learned_at.notna().any():
        handles.append(handle("mechanism learned", "#333333", "o"))
    if learned_at.isna().any():
        handles.append(handle("never learned", "#333333", "o", "--", fill="none"))
    legend(figure, handles)
    return figure


def _by_run(curves: pd.DataFrame) -> dict[str, pd.DataFrame]:
    return {str(run): rows for run, rows in curves.sort_values("tokens").groupby("stagerun")}


def _range(metrics: pd.DataFrame) -> tuple[float, float]:
    """Limits that hold all losses but those of the descent at the start, which hides what sets members apart."""
    late = metrics["tokens"] >= DESCENT * metrics.groupby("stagerun")["tokens"].transform("max")
    held = metrics.loc[late & np.isfinite(metrics["loss"]), "loss"]
    low, high = (held.min(), held.max()) if len(held) else (0.0, 1.0)
    pad = 0.06 * (high - low or 1.0)
    return float(low - pad), float(high + pad)


def _unit(most: float) -> tuple[float, str]:
    return (1e9, "billions") if most >= 2e9 else (1e6, "millions") if most >= 1e6 else (1e3, "thousands")


def _curve(axes: Axes, rows: pd.DataFrame, column: str, unit: float, arm: str, learned: bool = True) -> None:
    thin = rows.iloc[:: max(1, len(rows) // TRACED)]
    style: dict[str, Any] = (
        {"linewidth": 0.6, "alpha": 0.6} if learned else {"linewidth": 1.4, "linestyle": "--", "zorder": 3}
    )
    if len(thin) == 1:  # no line to draw
        style = {"marker": "o", "markersize": 3, "linestyle": "none", "clip_on": False}
        style |= filled(mark(arm).color, "full" if learned else "none")
    axes.plot(thin["tokens"] / unit, thin[column], color=mark(arm).color, gid="curve", **style)


def _learned(axes: Axes, x: float, y: float, arm: str, learned: bool) -> None:
    """The one marker of a member: filled where it learned, open and larger where it never did."""
    look = mark(arm)
    axes.plot(
        [x],
        [y],
        linestyle="none",
        marker=look.marker,
        markersize=4.2 if learned else 5.5,
        color=look.color,
        markerfacecolor=look.color if learned else "white",
        markeredgecolor="black" if learned else look.color,
        markeredgewidth=0.4 if learned else 1.2,
        clip_on=False,
        zorder=4,
        gid="learned" if learned else "never",
    )
