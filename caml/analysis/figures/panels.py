"""The parts figures are made of: dose axes, panels with every seed as a dot, words where nothing is drawn."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path

from caml.analysis.figures.style import DOUBLE, SINGLE, Fill, count, signed, styled, wrapped

# Two slanted strokes: the axis is cut between 0 and its logarithmic part.
BREAK = Path([(-1, -1), (-0.1, 1), (0.1, -1), (1, 1)], [Path.MOVETO, Path.LINETO, Path.MOVETO, Path.LINETO])


class DoseAxis:
    """A logarithmic x axis that also has a place for 0, one step left of the smallest dose.

    A dose axis holds a handful of values that were really run; each has its tick.
    """

    def __init__(self, values: Iterable[float]):
        self.values = sorted({float(v) for v in values})
        positive = [v for v in self.values if v > 0]
        logs = [math.log10(v) for v in positive]
        steps = [b - a for a, b in itertools.pairwise(logs)]
        self.step = float(np.median(steps)) if steps else 1.0
        self.origin = logs[0] if logs else 0.0

    def at(self, value: float) -> float:
        """The x position of `value`; doses that were run lie about one unit apart."""
        return -1.0 if value <= 0 else (math.log10(value) - self.origin) / self.step

    def slot(self, series: int) -> float:
        """The width of one of `series` series side by side at each dose: no dose runs into the next."""
        at = [self.at(v) for v in self.values]
        gaps = [b - a for a, b in itertools.pairwise(at)]
        return min([0.9 * min(gaps, default=1.0) / max(series, 1), 0.1 * (max(at) - min(at) + 1)])

    def dodge(
        self, keys: Sequence[Any], points: Collection[tuple[Any, float]]
    ) -> tuple[float, dict[tuple[Any, float], float]]:
        """The width of a slot, and the x position of each of `points` (series, dose).

        The series that are at a dose stand side by side around its tick, in the order of `keys`.
        """
        there = {value: [key for key in keys if (key, value) in points] for value in self.values}
        slot = self.slot(max(map(len, there.values()), default=1))
        return slot, {
            (key, value): self.at(value) + slot * (i + 0.5 - len(own) / 2)
            for value, own in there.items()
            for i, key in enumerate(own)
        }

    def apply(self, axes: Axes, label: Callable[[float], str] = count) -> None:
        """Set ticks, limits and the break between 0 and the logarithmic part.

        A tick whose label would touch its neighbour's keeps its line and loses its label.
        """
        at = [self.at(v) for v in self.values]
        low, high = min(at, default=0.0) - EDGE, max(at, default=0.0) + EDGE
        width = axes.get_position().width * axes.get_figure(root=True).get_size_inches()[0]  # type: ignore[union-attr]
        width *= 1.1  # the layout, solved later, takes less for margins than matplotlib does
        labels: list[str] = []
        free = math.inf
        for x, value in reversed(list(zip(at, self.values, strict=True))):
            text = label(value)
            half = 0.5 * 0.062 * max(len(line) for line in text.split("\n"))  # inches, at 8 points
            place = (x - low) / (high - low) * width
            shown = place + half < free - 0.04
            labels.append(text if shown else "")
            free = place - half if shown else free
        axes.set_xticks(at, labels[::-1])
        axes.set_xlim(low, high)
        if self.values and self.values[0] <= 0 and len(self.values) > 1:
            for marker, color, order in (("s", "white", 5), (BREAK, "black", 6)):
                axes.plot(
                    [-0.5],
                    [0],
                    transform=axes.get_xaxis_transform(),
                    linestyle="none",
                    marker=marker,
                    markersize=6,
                    markeredgewidth=0.7 if marker is BREAK else 0,
                    color=color,
                    clip_on=False,
                    zorder=order,
                    gid="break",
                )


EDGE = 0.5  # of a dose axis beyond its first and last dose, in steps
RIGHT = 0.22  # where in its slot an estimate stands, right of its seeds


def spread(seeds: int) -> np.ndarray:
    """Where in its slot each of the dots of `seeds` seed blocks stands."""
    return np.linspace(-0.38, -0.05, seeds) if seeds > 1 else np.full(seeds, -0.2)


@dataclass
class Panel:
    """Axes on which every seed is a dot and every interval a bar; knows what its y range must hold.

    `size`: the diameter of an estimate's marker in points.
    """

    axes: Axes
    size: float = 4.6
    estimates: list[float] = field(default_factory=list)
    bars: list[tuple[float, float, float, Any]] = field(default_factory=list)
    # x and y of dots, their colour, and on which side of them there is room for words ("left" or "right")
    seeds: list[tuple[np.ndarray, np.ndarray, Any, str]] = field(default_factory=list)

    @property
    def of_seeds(self) -> list[float]:
        """The y values of all dots."""
        return [float(y) for _, ys, _, _ in self.seeds for y in ys]

    def point(
        self,
        x: float,
        width: float,
        values: Sequence[float],
        estimate: tuple[float, float, float],
        color: Any,
        marker: str,
        fill: Fill = "full",
    ) -> float:
        """Seeds as dots and, right of them, the estimate (value, low, high), in `width` around `x`.

        Returns the x position of the estimate. The dots stand in the order of the seeds.
        """
        shown = np.asarray([v for v in values if math.isfinite(v)], float)
        at = x + width * spread(len(shown))
        self.axes.plot(
            at,
            shown,
            linestyle="none",
            marker=marker,
            markersize=0.57 * self.size,
            markeredgewidth=0,
            color=color,
            alpha=0.6,
            zorder=3.5,
            gid="seeds",
        )
        self.seeds.append((at, shown, color, "left" if fill == "full" else "right"))
        return self.estimate(x + RIGHT * width, estimate, color, marker, fill)

    def shares(
        self, x: np.ndarray, after: Sequence[float], before: Sequence[float], color: Any, marker: str
    ) -> None:
        """Each seed's own ratio of `after` to `before` as a faint dot at its place of `x`.

        A ratio of means is the mean of its seeds' ratios weighted by `before`: that weight is the area of a dot,
        and one that is negative makes it open. So a seed that began near 0, whose ratio is anything, is a speck.
        """
        weights = np.asarray(before, float) / np.mean(before)
        shown = np.asarray(after, float) / np.asarray(before, float)
        good = np.isfinite(shown)
        x, weights, shown = x[good], weights[good], shown[good]
        area = np.abs(weights) / np.abs(weights).max(initial=1e-9)
        self.axes.scatter(
            x,
            shown,
            s=np.maximum((0.7 * self.size) ** 2 * area, 1.2**2),
            marker=marker,
            facecolors=[color if w > 0 else "white" for w in weights],
            edgecolors=[color],
            linewidths=[0.0 if w > 0 else 0.5 for w in weights],
            alpha=0.5,
            zorder=3.5,
            gid="shares",
        )
        self.seeds.append((x, shown, color, "left"))

    def estimate(
        self, x: float, estimate: tuple[float, float, float], color: Any, marker: str, fill: Fill = "full"
    ) -> float:
        """The estimate (value, low, high) as a marker with a bar; the marker alone where there is no bar."""
        value, low, high = estimate
        if math.isfinite(value):
            self.axes.plot(
                [x],
                [value],
                linestyle="none",
                marker=marker,
                markersize=self.size,
                color=color,
                **filled(color, fill),
                markeredgewidth=1.0,
                zorder=4,
                gid="estimate",
            )
            self.estimates.append(value)
            if math.isfinite(low) and math.isfinite(high):
                self.axes.plot(
                    [x, x],
                    [low, high],
                    color=color,
                    linewidth=1.3,
                    solid_capstyle="butt",
                    zorder=3,
                    gid="interval",
                )
                self.bars.append((x, low, high, color))
        return x

    def join(self, x: Sequence[float], y: Sequence[float], color: Any, style: str = "-") -> None:
        """A thin line through estimates: it guides the eye and is no fit."""
        self.axes.plot(x, y, color=color, linestyle=style, linewidth=0.9, zorder=1.5, gid="guide")

    def word(self, x: float, text: str, color: Any) -> None:
        """Words at the foot of the place where an estimate would stand."""
        self.axes.text(
            x,
            0.1,
            text,
            transform=self.axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            color=color,
            gid="word",
            zorder=5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.8},
        )


def level(
    panels: Sequence[Panel],
    zero: bool = True,
    hold: tuple[float, ...] = (),
    bound: tuple[float, float] | None = None,
    write: bool = False,
) -> None:
    """Give `panels` one y range: all dots, 0, `hold`, and intervals as far as they leave the dots readable.

    With two seeds an interval is a hundred times its dots; a bar that leaves the panel ends in an
    arrow at the edge. `bound` limits the range further (low, high), but hides no estimate: a seed beyond it
    is an open arrow at the edge, with its value beside it where `write` is set.
    """
    held = [y for panel in panels for y in panel.estimates] + ([0.0] if zero else []) + list(hold)
    seeds = [y for panel in panels for y in panel.of_seeds]
    dots = held + [y for y in seeds if not bound or bound[0] <= y <= bound[1]]
    if not dots:
        return
    low, high = min(dots), max(dots)
    room = (high - low) or abs(high) or 1.0
    ends = [end for panel in panels for _, *both, _ in panel.bars for end in both]
    low, high = (
        min([low, *[max(e, low - room) for e in ends]]),
        max([high, *[min(e, high + room) for e in ends]]),
    )
    if bound:
        low, high = max(low, min(bound[0], *held)), min(high, max(bound[1], *held))
    wide = high - low or 1.0
    # Words at an edge have a strip of their own.
    below = 0.2 if write and min(seeds, default=low) < low else 0.06
    above = 0.2 if write and max(seeds, default=high) > high else 0.06
    low, high = low - below * wide, high + above * wide
    for panel in panels:
        panel.axes.set_ylim(low, high)
        for x, bottom, top, color in panel.bars:
            for end, edge, arrow in ((bottom, low, "v"), (top, high, "^")):
                if (edge - end) * (1 if arrow == "v" else -1) > 0:
                    _beyond(panel.axes, [x], edge, arrow, color, color)
        for xs, ys, color, side in panel.seeds:
            for out, edge, arrow in ((ys < low, low, "v"), (ys > high, high, "^")):
                if out.any():
                    _beyond(panel.axes, xs[out], edge, arrow, color, "white", 3.2)
                    if write:
                        _written(panel.axes, xs[out].mean(), edge, arrow == "^", ys[out], color, side)
        if zero:
            panel.axes.axhline(0, color="black", linewidth=0.6, zorder=0.5, gid="zero")


def _beyond(axes: Axes, x: Any, edge: float, arrow: str, color: Any, face: Any, size: float = 4.0) -> None:
    """Arrows at the edge of `axes`: what they stand for lies beyond it."""
    axes.plot(
        x,
        [edge] * len(x),
        linestyle="none",
        marker=arrow,
        markersize=size,
        color=color,
        markerfacecolor=face,
        markeredgewidth=0.7,
        clip_on=False,
        zorder=6,
        gid="beyond",
    )


def _written(
    axes: Axes, x: float, edge: float, up: bool, values: Iterable[float], color: Any, side: str
) -> None:
    """The `values` of what lies beyond the `edge` of `axes` (the upper one: `up`), beside their arrows."""
    axes.annotate(
        "\n".join(signed(v, 1) for v in values),
        (x, edge),
        xytext=(-3 if side == "left" else 3, -1 if up else 1),
        textcoords="offset points",
        ha="right" if side == "left" else "left",
        va="top" if up else "bottom",
        fontsize=7,
        color=color,
        annotation_clip=False,
        gid="written",
    )


def grid(
    rows: int,
    columns: int,
    height: float,
    width: float = DOUBLE,
    sharey: Literal["none", "all", "row"] = "row",
    shares: Sequence[float] | None = None,
) -> tuple[Figure, Any]:
    """A figure of `rows` x `columns` axes (an object array), `height` inches a row, without overlap.

    `shares`: how the columns part the width, where not equally.
    """
    figure = Figure(figsize=(width, height * rows + 0.55), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05, wspace=0.03, hspace=0.04)  # type: ignore[union-attr, call-arg]
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=sharey, width_ratios=shares)


def width_of(columns: int) -> float:
    """Inches: two columns of a page, and one for a figure of one panel."""
    return DOUBLE if columns > 1 else SINGLE


def say(axes: Axes, text: str) -> None:
    """Say in words, in the middle of empty `axes`, why nothing is drawn there."""
    axes.tick_params(left=False, labelleft=False, bottom=False, labelbottom=False)  # shared axes keep theirs
    for spine in axes.spines.values():
        spine.set_visible(False)
    width = axes.get_position().width * axes.get_figure(root=True).get_size_inches()[0]  # type: ignore[union-attr]
    axes.text(
        0.5,
        0.5,
        wrapped(text, max(12, int(width / 0.07))),
        transform=axes.transAxes,
        ha="center",
        va="center",
        color="#444444",
        fontsize=8,
        gid="words",
    )


@styled
def words(text: str, width: float = DOUBLE, height: float = 0.9) -> Figure:
    """A figure that is one sentence: what a reader gets where there is nothing to draw."""
    figure, axes = grid(1, 1, height, width)
    say(axes[0][0], text)
    return figure


def filled(color: Any, fill: Fill) -> dict[str, Any]:
    """How a marker is filled, as arguments of a line; an open one is white, so that no bar shows through it."""
    face = "white" if fill == "none" else color
    return {
        "fillstyle": "full" if fill == "none" else fill,
        "markerfacecolor": face,
        "markerfacecoloralt": "white",
    }


def handle(label: str, color: Any, marker: str = "", style: str = "none", fill: Fill = "full") -> Line2D:
    """A legend entry."""
    return Line2D(
        [],
        [],
        color=color,
        marker=marker,
        linestyle=style,  # type: ignore[arg-type]
        label=label,
        markersize=5.5,
        **filled(color, fill),
    )


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend above the whole figure, in as many columns as its labels leave room for.

    The figure grows by what more than one line of it takes: the panels keep their height.
    """
    if not handles:
        return
    widest = max(len(str(h.get_label())) for h in handles) * 0.06 + 0.5  # inches, at 8 points
    width, height = figure.get_size_inches()
    columns = max(1, min(len(handles), int(width / widest)))
    figure.set_size_inches(width, height + 0.179 * (-(-len(handles) // columns) - 1))
    figure.legend(
        handles=list(handles), loc="outside upper center", ncols=columns, columnspacing=1.3, handletextpad=0.5
    )
