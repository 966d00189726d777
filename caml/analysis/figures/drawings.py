"""All figures of a report: which there are, what each caption says, and how one is saved."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from caml.analysis.figures.install import install, ladder, members, sizes_of
from caml.analysis.figures.style import RC, percent, rung_label
from caml.analysis.figures.training import side_by_side, trajectories
from caml.analysis.figures.view import View, usual_of
from caml.analysis.figures.washout import counter_evidence, finetunes, retention_by_size, washout

DOTS = """
Small dots are seed blocks, in the order of their seeds; the large marker is their mean and the bar its 95%
Student's t interval (an arrow where it leaves the panel).
"""
# What a reader must know to use a figure: what is drawn, how it is computed, what the marks are.
CAPTIONS = {
    "install": """
    {effect} Before fine-tuning. Below each share stands the dose in intervention tokens without padding.
    Open markers: another control. Lines join means and are no fit. {seeds} {dots}""",
    "members": """
    Absolute margin ({family}, {rung}) before fine-tuning, in nats; 0 is no preference. {band} {usual}
    {dots}""",
    "ladder": """
    Effect against {control} on every rung, at each arm's largest dose: filled before fine-tuning, open after
    the largest dose of plain fine-tuning. Rungs L5 concern things that cannot feel: an effect there is
    indiscriminate. {usual} {dots}""",
    "washout": """
    {effect} S counts loss-bearing fine-tuning tokens; each S is a run of its own with a completed schedule.
    Below: retention R(S) = E(S) / E(0) of the same members with Fieller's 95% limits; “undefined” where the
    interval of E(0) holds 0. Lighter: smaller doses. Lines join means and are no fit. Where fine-tuning
    also takes the mechanism, or base text itself, R measures forgetting in general. {seeds} {dots}""",
    "retention_by_size": """
    Left: R of {treatment} at the largest dose that all sizes share. Right: R at the largest S that all sizes
    share against E(0), one marker per dose; sizes with equal E(0) stand on one vertical line. Upright bars:
    Fieller's 95% limits of R; level bars: 95% t interval of E(0). {usual}""",
    "counter_evidence": """
    Above, the effect. {effect} Below: the same members' margins with no control subtracted, at the largest
    dose of each arm. Counter-evidence replaces rows of the fine-tuning set. {usual} {seeds} {dots}""",
    "side_by_side": """
    Absolute values, no control subtracted; each arm at its largest dose: filled before, open after the
    largest dose of plain fine-tuning. Scales differ between panels. {usual} {dots}""",
    "trajectories": """
    Above: training loss. Below: the mechanism, the mean margin with the actor's trait named in the context,
    scored during training (for curves only; no estimate uses it). A marker stands where it first passed the
    gate; members that never did are dashed.""",
}
EFFECT = """
    The effect is the {family} margin on {rung} of the treated member less that of the {control} member of the
    same seed block, size, dose and fine-tuning rows, mean over items, in nats."""
USUAL = """
    The grid varies more than this figure has room for: it shows one placement ({placement}), the largest token
    budget{variant}.
    """
BAND = "The band is the stated equivalence margin."
UNTUNED = "Not estimable: no cell of this grid was fine-tuned."
UNCOUNTERED = "Not estimable: no fine-tuning set of this grid holds counter-evidence."


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
    """Every figure of the report, in its order."""
    focus = view.focus
    names = {"family": focus.family, "rung": rung_label(focus.rung), "control": focus.control}
    names |= {"treatment": focus.treatment, "dots": DOTS, "effect": EFFECT.format(**names)}
    names |= {"band": BAND if math.isfinite(view.bound) else ""}
    dosed = view.effects[view.effects["ratio"] > 0]
    parts = ["placement", "pretrain_tokens", "variant"]
    varied = dosed.groupby("size")[parts].nunique().gt(1).to_numpy().any()
    placement, variant = usual_of(view.effects)
    usual = USUAL.format(placement=placement, variant=f" and {variant}" if variant else "")
    names |= {"usual": usual if varied else ""}
    effects = view.effects[
        (view.effects["family"] == focus.family)
        & (view.effects["rung"] == focus.rung)
        & (view.effects["control"] != "")
    ]

    def drawing(
        kind: str,
        section: str,
        title: str,
        draw: Callable[[], Figure],
        of: str = "",
        shown: pd.DataFrame = effects[:0],
    ) -> Drawing:
        caption = " ".join(CAPTIONS[kind].format(**names, seeds=_seeds(shown)).split())
        return Drawing(f"{kind}_{_plain(of)}" if of else kind, section, title, caption, draw)

    out = [
        drawing(
            "install",
            "install",
            "Dose-response of the install",
            partial(install, view),
            shown=effects[effects["S"] == 0],
        ),
        drawing("members", "install", "Margins of every arm, no control subtracted", partial(members, view)),
        drawing("ladder", "ladder", "The ladder of generalisation", partial(ladder, view)),
    ]
    sources = finetunes(view)
    if not sources:
        out += [Drawing(section, section, "", UNTUNED, None) for section in ("washout", "sizes")]
    for source in sources:
        of = source if len(sources) > 1 else ""
        title = f"Retention against size after {source}"
        tuned = effects[(effects["finetune"] == source) & (effects["second_ratio"] == 0)]
        draw = partial(washout, view, source)
        out.append(drawing("washout", "washout", f"Wash-out by {source}", draw, of, tuned))
        out.append(drawing("retention_by_size", "sizes", title, partial(retention_by_size, view, source), of))
    if (view.effects["second_ratio"] > 0).any():
        countered = effects[effects["second_ratio"] > 0]
        draw, title = partial(counter_evidence, view), "Counter-evidence"
        out.append(drawing("counter_evidence", "counter", title, draw, shown=countered))
    else:
        out.append(Drawing("counter_evidence", "counter", "", UNCOUNTERED, None))
    for size, _ in sizes_of(view.margins[view.margins["pretrain_tokens"] > 0]):
        title = f"Beside the disposition, size {size}"
        out.append(drawing("side_by_side", "beside", title, partial(side_by_side, view, size), size))
    out.append(drawing("trajectories", "training", "Training of every member", partial(trajectories, view)))
    return out


def _seeds(effects: pd.DataFrame) -> str:
    """On how many seed blocks `effects` rest, by size."""
    told = []
    for (_, size), own in effects.groupby(["params", "size"]):
        usual = int(own["seeds"].mode().max())
        others: dict[str, list[str]] = {}
        for (arm, ratio), cells in own.groupby(["treatment", "ratio"]):
            counts = " or ".join(str(n) for n in sorted(set(cells["seeds"])))
            if counts != str(usual):
                others.setdefault(counts, []).append(f"{arm} {percent(float(ratio))}")  # type: ignore[arg-type]
        but = "; ".join(f"{', '.join(arms)}: {counts}" for counts, arms in others.items())
        told.append(f"{size}: {usual}{f' ({but})' if but else ''}")
    return f"Seed blocks: {'; '.join(told)}." if told else ""


def save(figure: Figure, drawing: Drawing, folder: Path, provenance: dict[str, Any]) -> bytes:
    """Write `figure` as NAME.png (200 dpi) and NAME.pdf to `folder`; returns the bytes of the PNG.

    Title, caption and `provenance` (as JSON) are in the metadata of both. The same figure gives
    the same bytes: no date is written.
    """
    told = json.dumps(provenance, sort_keys=True)
    png, pdf = io.BytesIO(), io.BytesIO()
    with matplotlib.rc_context(RC):  # type: ignore[arg-type]
        # The layout is solved once here; otherwise each file would solve it twice.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
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


def _plain(name: str) -> str:
    """`name` as a part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
