"""All figures of a report: which there are, and how one is saved."""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from caml.analysis.figures.captions import ONE_SIZE, ONLY_SECOND, UNCOUNTERED, UNPAIRED, UNTUNED, caption
from caml.analysis.figures.install import climbed, install, ladder, members, sizes_of
from caml.analysis.figures.style import RC, spaced
from caml.analysis.figures.training import side_by_side, trajectories
from caml.analysis.figures.view import View
from caml.analysis.figures.washout import (
    counter_evidence,
    finetunes,
    most,
    retained,
    retention_by_size,
    washed,
    washout,
)

LONGEST_NAME = 120
# Conditions that shades and broken lines keep apart in one figure.
MOST_CONDITIONS = 4


@dataclass(frozen=True)
class Drawing:
    """A figure to come: `name` is its file's, `section` the part of the report it stands in.

    Where there is nothing to draw, `draw` is None and `caption` says so.
    """

    name: str
    section: str
    title: str
    caption: str
    draw: Callable[[], Figure] | None


def drawings(view: View) -> list[Drawing]:
    """Every figure of the report; a section's in their order, some of them anew for each condition."""
    if view.focus.control:
        out = _of_effects(view)
    else:
        sections = ("install", "washout", "counter", "sizes", "ladder")
        out = [Drawing(section, section, "", UNPAIRED, None) for section in sections]
    for condition in view.conditions.every:
        part, of = view.under(condition), condition.name
        title = _told("Margins of every arm, no control subtracted", of)
        scored = view.focus.rows(part.margins).query("S == 0")
        draw = partial(members, part)
        out.append(_drawing(view, "members", "install", title, draw, of, counted=scored))
        trained = scored[scored["pretrain_tokens"] > 0]
        for size, _ in sizes_of(trained):
            beside = most(trained[trained["size"] == size], "arm")
            tuned = part.margins[(part.margins["size"] == size) & (part.margins["second_ratio"] == 0)]
            for by, after in _by_source(part, finetunes(view), set(tuned["finetune"])):
                title = _told(f"Beside the disposition, size {size}", of, by)
                draw = partial(side_by_side, after, size)
                out.append(
                    _drawing(view, "side_by_side", "beside", title, draw, size, by, of, counted=beside)
                )
    out.append(
        _drawing(view, "trajectories", "training", "Pretraining of every member", partial(trajectories, view))
    )
    return _named_apart(out)


def of_benchmark(view: View) -> list[Drawing]:
    """The wash-out of what members scored on a benchmark, the view's focus, by each source of fine-tuning."""
    name, out = view.focus.family, []
    for source in finetunes(view) if view.focus.control else ():
        tuned, by = washed(view, source), source if len(finetunes(view)) > 1 else ""
        for part, of in _by_conditions(view, tuned):
            draw = partial(washout, part, source)
            counted = tuned[tuned["condition"].isin(part.effects["condition"])]
            title = _told(f"{name} by {source}", of)
            out.append(_drawing(view, "washout", "washout", title, draw, name, by, of, counted=counted))
    return out


def _named_apart(found: list[Drawing]) -> list[Drawing]:
    """The drawings with names of files that are not too long, and none twice."""
    names: dict[str, int] = {}
    out = []
    for drawing in found:
        name = drawing.name
        if len(name) > LONGEST_NAME:
            name = f"{name[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        names[name] = names.get(name, 0) + 1
        out.append(dataclasses.replace(drawing, name=f"{name}_{names[name]}" if names[name] > 1 else name))
    return out


def _of_effects(view: View) -> list[Drawing]:
    """The figures of effects against the control, and a sentence for what the grid lacks."""
    effects = view.focus.rows(view.effects).query("control != ''")
    title = "Dose-response of the install"
    before = effects[effects["S"] == 0]
    out = []
    for part, of in _by_conditions(view, before):
        draw, counted = partial(install, part), before[before["condition"].isin(part.effects["condition"])]
        out.append(_drawing(view, "install", "install", _told(title, of), draw, of, counted=counted))
    sources = finetunes(view)
    if not sources:
        why = ONLY_SECOND if (view.effects["S"] > 0).any() else UNTUNED
        out += [Drawing(section, section, "", why, None) for section in ("washout", "sizes")]
    for source in sources:
        tuned, by = washed(view, source), source if len(sources) > 1 else ""
        title, several = f"Wash-out by {source}", tuned["condition"].nunique() > 1
        shown = most(tuned) if several else tuned
        lines = _told(title, "each arm's largest dose under each condition" if several else "")
        for part, of in _by_conditions(view, tuned):
            draw, counted = (
                partial(washout, part, source),
                shown[shown["condition"].isin(part.effects["condition"])],
            )
            out.append(_drawing(view, "washout", "washout", _told(lines, of), draw, by, of, counted=counted))
        for condition in view.conditions.every if len(shown) < len(tuned) else ():
            own, of = condition.rows(tuned), condition.name
            if len(own):
                draw = partial(washout, view.under(condition), source)
                out.append(_drawing(view, "washout", "washout", _told(title, of), draw, by, of, counted=own))
        if view.effects["size"].nunique() < 2:
            continue
        if tuned["size"].nunique() < 2:
            out.append(
                Drawing("sizes", "sizes", "", f"{ONE_SIZE} that was fine-tuned on {spaced(source)}.", None)
            )
            continue
        for of, part in _of_sizes(view):
            draw, title = partial(retention_by_size, part, source), f"Retention against size after {source}"
            own = retained(part, source)
            out.append(
                _drawing(view, "retention_by_size", "sizes", _told(title, of), draw, by, of, counted=own)
            )
    if sources and view.effects["size"].nunique() < 2:
        out.append(Drawing("sizes", "sizes", "", f"{ONE_SIZE}.", None))
    if not (effects["second_ratio"] > 0).any():
        out.append(Drawing("counter_evidence", "counter", "", UNCOUNTERED, None))
    for condition in view.conditions.every:
        part, of = view.under(condition), condition.name
        own = condition.rows(effects[effects["ratio"] > 0])
        if own.empty:
            continue
        for by, after in _by_source(part, sources, set(own["finetune"])):
            tuned = own[(own["S"] > 0) & (own["second_ratio"] == 0)]
            here = dataclasses.replace(after, effects=_laddered(after.effects, tuned, by))
            draw, title = partial(ladder, here), _told("The ladder of generalisation", of, by)
            out.append(_drawing(view, "ladder", "ladder", title, draw, by, of, counted=climbed(here)))
        countered = own[own["second_ratio"] > 0]
        if len(countered):
            draw, title = partial(counter_evidence, part), _told("Counter-evidence", of)
            out.append(_drawing(view, "counter_evidence", "counter", title, draw, of, counted=countered))
    return out


def _by_conditions(view: View, rows: pd.DataFrame) -> list[tuple[View, str]]:
    """Views of the conditions of `rows`, at most MOST_CONDITIONS in each, with the number of each where several."""
    here = sorted(set(rows["condition"]), key=view.conditions.place)
    parts = [here[i : i + MOST_CONDITIONS] for i in range(0, len(here), MOST_CONDITIONS)]
    if len(parts) < 2:
        return [(view, "")]
    return [(view.among(part), f"{i} of {len(parts)}") for i, part in enumerate(parts, start=1)]


def _by_source(view: View, sources: Sequence[str], here: Collection[str]) -> list[tuple[str, View]]:
    """A view for each source of fine-tuning that was run `here`, with its name where the grid has several."""
    if len(sources) < 2 or not set(sources) & set(here):
        return [("", view)]
    return [(source, view.after(source)) for source in sources if source in here]


def _laddered(frame: pd.DataFrame, tuned: pd.DataFrame, source: str) -> pd.DataFrame:
    """The rows of `frame` that the ladder of `source` shows, where there is one for each source ('': there is not).

    Those of arms and sizes that were fine-tuned on it. The ladder of the first source has what was tuned on none.
    `tuned`: the effects after any source alone.
    """
    if not source:
        return frame
    of = {name: set(zip(o["size"], o["treatment"], strict=True)) for name, o in tuned.groupby("finetune")}
    own, elsewhere = of.get(source, set()), set().union(*of.values())
    pairs = zip(frame["size"], frame["treatment"], strict=True)
    first = source == min(map(str, of), default=source)
    return frame[[pair in own or (first and pair not in elsewhere) for pair in pairs]]


def _of_sizes(view: View) -> list[tuple[str, View]]:
    """The views in which sizes are compared, with their names.

    Those of each condition; but where no token budget is common to all sizes, each size at its largest one.
    """
    rows = view.retention[(view.retention["ratio"] > 0) & (view.retention["control"] == view.focus.control)]
    out: dict[str, View] = {}
    for condition in view.conditions.every:
        group = dataclasses.replace(condition, pretrain_tokens=None)
        budgets = [set(own["pretrain_tokens"]) for _, own in group.rows(rows).groupby("size")]
        if not budgets or condition.pretrain_tokens is None or set.intersection(*budgets):
            out[condition.name] = view.under(condition)
        else:
            told = ", ".join(part for part in (group.name, "each size at its largest token budget") if part)
            out[told] = view.under(group).at_largest_budgets()
    return list(out.items())


def _drawing(
    view: View,
    kind: str,
    section: str,
    title: str,
    draw: Callable[[], Figure],
    *of: str,
    counted: pd.DataFrame | None = None,
) -> Drawing:
    """A figure with its caption.

    `of`: names in its file's name, which set it apart from others of its kind; empty ones are left out.
    `counted`: what the caption counts the seed blocks of.
    """
    told = caption(view, kind, counted)
    return Drawing("_".join([kind, *(_plain(part) for part in of if part)]), section, title, told, draw)


def save(figure: Figure, drawing: Drawing, folder: Path, provenance: dict[str, Any]) -> bytes:
    """Write `figure` as NAME.png (200 dpi) and NAME.pdf to `folder`; returns the bytes of the PNG.

    Title, caption and `provenance` (as JSON) are in the metadata of both. The same figure gives
    the same bytes: no date is written.
    """
    told = json.dumps(provenance, sort_keys=True)
    png, pdf = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(RC):  # type: ignore[arg-type]
        # The layout is solved once here, and nothing is drawn for it; otherwise each file would solve it twice. An
        # engine of kind "none" still has each file drawn twice.
        layout = figure.get_layout_engine()
        if layout is not None:
            layout.execute(figure)
        figure.set_layout_engine(None)
        figure.savefig(
            png,
            format="png",
            metadata={"Title": drawing.title, "Description": drawing.caption, "Provenance": told},
        )
        figure.savefig(
            pdf,
            format="pdf",
            metadata={
                "Title": drawing.title,
                "Subject": drawing.caption,
                "Keywords": told,
                "CreationDate": None,
            },
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{drawing.name}.png").write_bytes(png.getvalue())
    (folder / f"{drawing.name}.pdf").write_bytes(pdf.getvalue())
    return png.getvalue()


def _told(title: str, *of: str) -> str:
    parts = ", ".join(part for part in of if part)
    return spaced(f"{title}: {parts}" if parts else title)


def _plain(name: str) -> str:
    """`name` as a part of a file name."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_")
