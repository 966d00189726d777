"""The report: one self-contained page, its figures as files, and the result tables beside it."""

import base64
import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from caml.analysis import benchmarks
from caml.analysis.benchmarks import Estimated
from caml.analysis.dictionary import ITEM_MARGINS
from caml.analysis.figures.captions import unequal
from caml.analysis.figures.conditions import Conditions
from caml.analysis.figures.drawings import UNPAIRED, Drawing, drawings, of_benchmark, save
from caml.analysis.figures.install import sizes_of
from caml.analysis.figures.style import in_order, rung_label, spaced
from caml.analysis.figures.view import View, each, look
from caml.analysis.files import replace_file, write_digests
from caml.analysis.pages.rendering import rendered
from caml.analysis.report import benchmarks as asked
from caml.analysis.report import items as probes
from caml.analysis.report import norms, persistence
from caml.analysis.report import tables as shown
from caml.analysis.report.methods import quoted
from caml.analysis.results import Results
from caml.analysis.retention import SEEN_RUNG
from caml.analysis.tables import NATS, Tables, write_frames
from caml.config.text import counted

SCREEN = 120  # pixels on the page for an inch in print

# column of a result table -> (its heading, digits after the point)
DOSE_RESPONSE = {"top": ("top (nats)", 2), "half": ("half-way dose", 3), "h": ("steepness", 2)}
WASHOUT = {
    "E0": ("E0 (nats)", 2),
    "rho": ("plateau (share of E0)", 2),
    "S50": ("S50 (tokens)", 0),
    "bracket_low": ("S50 above (tokens)", 0),
    "bracket_high": ("S50 below (tokens)", 0),
    "retention_low": ("lower bound of R at largest S", 2),
}
RETENTION = {
    "E0": ("E(0) (nats)", 2),
    "E": ("E(S) (nats)", 2),
    "estimate": ("R(S)", 2),
    "over_convention": ("R over the convention's", 2),
}
CALIBRATION = {
    "estimate": ("E (nats)", 2),
    "counter": ("a calibrated counter's E (nats)", 2),
    "relative": ("E / the counter's", 2),
}
SIZES = {
    "retention": ("R", 2),
    "other_retention": ("R of the other size", 2),
    "difference": ("difference", 2),
    "E0": ("E(0) (nats)", 2),
    "other_E0": ("E(0) of the other (nats)", 2),
}


@dataclass(frozen=True)
class Extras:
    """What a report says beside its tables.

    **Attributes**: `title` of the page; `methods`, text whose paragraphs are parted by empty lines;
    `resolution`, sentences on what the study can and cannot resolve; `documents`, arm -> texts, the same
    index being the same document; `looks`, sentences on the lock and the looks taken since; `provenance`,
    name -> value or list of values (fingerprints, commit, versions, machine), plain JSON data, which goes
    into every figure's metadata too; `caveats`, sentences that belong to the headline; `gate`, the nats of
    mechanism that a member must pass; `frozen`, the folder of the frozen tables relative to the report, '' where
    they are not kept.
    """

    title: str
    methods: str = ""
    resolution: Sequence[str] = ()
    documents: Mapping[str, Sequence[str]] = field(default_factory=dict)
    looks: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    caveats: Sequence[str] = ()
    gate: float = math.nan
    frozen: str = ""


def write_report(
    folder: Path, tables: Tables, results: Results, extras: Extras, of_benchmarks: Sequence[Estimated] = ()
) -> Path:
    """Write `figures/`, `tables/` and then `index.html` to `folder`; returns the page's path.

    The page holds its figures and needs no network and no script; links are relative. Figures of an earlier report in
    `folder` that this one does not have are removed. `digests.json` is written last. `of_benchmarks`: what the
    StageRuns scored on benchmarks.
    """
    view = look(tables, results, extras.gate)
    items = probes.item_margins(view, tables.margins, tables.items)
    frames = results.frames
    columns = [
        ("item_margins", c, *ITEM_MARGINS.get(c, (f"mean margin of {c}", NATS))) for c in map(str, items)
    ]
    dictionary = pd.DataFrame(columns, columns=list(frames["dictionary"]))
    told = [frames["dictionary"], dictionary, benchmarks.dictionary(of_benchmarks)]
    frames |= benchmarks.frames(of_benchmarks) | {"item_margins": items, "dictionary": pd.concat(told)}
    write_frames(frames, folder / "tables")
    views = [asked.seen(one, view, extras.gate) for one in of_benchmarks]
    wanted = [*drawings(view), *(drawing for other in views for drawing in of_benchmark(other))]
    figures = _draw(wanted, folder / "figures", dict(extras.provenance))
    files = [(name, len(frame), "tables") for name, frame in frames.items()]
    if extras.frozen:
        files += [(name, len(table), extras.frozen) for name, table in tables.frames.items()]
    page = rendered(
        "report/page.html.jinja",
        ("sorting",),
        title=extras.title,
        headline=[*headline(results), *extras.caveats],
        contrasts=shown.contrasts(results.effects),
        controls=shown.other_controls(results.controls),
        looks=extras.looks,
        norms=norms.side_by_side(results.norms, view),
        norms_told=[*norms.sentences(results.norms, view), *_unequal(view)],
        figures=figures,
        doseresponse=shown.fits(_installed(results.doseresponse), view, DOSE_RESPONSE),
        washouts=shown.fits(results.washout, view, WASHOUT),
        tuned=shown.fine_tuning(view),
        kept=shown.fits(_limits(view.retention, "estimate"), view, RETENTION, (SEEN_RUNG,)),
        sizes=shown.fits(_limits(view.sizes, "difference"), view, SIZES),
        calibration=shown.fits(_calibration(results), view, CALIBRATION),
        endpoint=f"{spaced(view.focus.family)} on {rung_label(view.focus.rung)}",
        paired=shown.arms_by_stages(view, paired=True),
        absolute=shown.arms_by_stages(view, paired=False),
        flagged=shown.flagged_members(results.flagged, view),
        documents=_documents(extras.documents),
        items=_items(view, items),
        benchmarks=[asked.section(one, other) for one, other in zip(of_benchmarks, views, strict=True)],
        methods=[part.strip() for part in extras.methods.split("\n\n") if part.strip()],
        resolution=extras.resolution,
        provenance=[(str(key), _lines(value)) for key, value in extras.provenance.items()],
        files=files,
    )
    path = folder / "index.html"
    replace_file(path, page.encode())
    drawn = [path, *sorted((folder / "figures").iterdir())]
    write_digests(
        folder,
        {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in drawn},
    )
    return path


def headline(results: Results) -> list[str]:
    """Sentences on the primary contrasts: the first, what is left of it, and the verdicts of all."""
    stated = results.effects[results.effects["primary"].astype(bool)]
    if stated.empty:
        told = ["No primary contrast was stated before results: everything on this page is exploratory."]
        return told if results.effects["control"].fillna("").any() else [*told, UNPAIRED]
    stated = Conditions(results.effects).told(stated.assign(control=stated["control"].fillna("")))
    first = next(each(stated))
    limits = f"95% interval {shown.interval(first.t_low, first.t_high)}" if first.seeds > 1 else "no interval"
    claim = f"within ±{first.margin:g} nats" if first.claim == "equivalent" else f"{first.claim} 0"
    lead = (
        f"{shown.compared(first)} on {rung_label(first.rung)} ({first.size}, {shown.dose(first)}, "
        f"{shown.stage(first)}): {shown.number(first.estimate)} nats, {limits}, "
        f"{counted(first.seeds, 'seed')}. The claim “{claim}” is {_verdict(first.verdict)}."
    )
    if first.flagged:
        lead += (
            f" In {first.flagged} of them a member never learned the mechanism, diverged or skipped steps."
        )
    if first.mixed:
        lead += (
            f" In {first.mixed} of them the two members were trained on unlike machines, whose bits differ."
        )
    left = [*norms.dependent(results.norms), *persistence.sentence(results)]
    if len(stated) == 1:
        return [lead if first.locked else f"{lead} It was not locked before these results.", *left]
    names: dict[str, list[str]] = {}
    for row in each(stated):
        names.setdefault(row.verdict, []).append(str(row.contrast))
    by_verdict = "; ".join(f"{verdict}: {', '.join(quoted(group))}" for verdict, group in names.items())
    unlocked = int((~stated["locked"].astype(bool)).sum())
    held = (
        "all locked before these results" if not unlocked else f"{unlocked} not locked before these results"
    )
    return [lead, *left, f"Of {len(stated)} primary contrasts ({held}) – {by_verdict}."]


def _verdict(verdict: str) -> str:
    return {"too few seeds": "not judged: there are too few seeds"}.get(verdict, verdict)


def _draw(wanted: Sequence[Drawing], folder: Path, provenance: dict[str, Any]) -> list[dict[str, Any]]:
    """Draw and save every figure; what the page shows of each."""
    out = []
    for drawing in wanted:
        shown_here: dict[str, Any] = {
            part: getattr(drawing, part) for part in ("name", "section", "title", "caption")
        }
        if drawing.draw:
            png = save(drawing.draw(), drawing, folder, provenance)
            (width,) = struct.unpack(">I", png[16:20])  # the PNG's header says it; 200 dots an inch
            shown_here |= {"png": base64.b64encode(png).decode(), "width": round(width / 200 * SCREEN)}
        else:
            shown_here["png"] = ""
        out.append(shown_here)
    drawn = {f"{figure['name']}.{suffix}" for figure in out if figure["png"] for suffix in ("png", "pdf")}
    for old in folder.iterdir():
        if old.suffix in (".png", ".pdf") and old.name not in drawn:
            old.unlink()
    return out


def _unequal(view: View) -> list[str]:
    """On which rungs of the contrasts and of the primary endpoint continuations are of unequal length."""
    stated = view.effects[view.effects["contrast"] != ""]
    kinds = {*zip(stated["family"], stated["rung"], strict=True), (view.focus.family, view.focus.rung)}
    of = [kind in kinds for kind in zip(view.lengths["family"], view.lengths["rung"], strict=True)]
    told = unequal(view.lengths[of])
    return [told] if told else []


def _calibration(results: Results) -> pd.DataFrame:
    """Each comparison beside the counter once, whether or not a contrast names it."""
    table = results.calibration
    return table.drop_duplicates([c for c in table if c != "contrast"])


def _installed(curves: pd.DataFrame) -> pd.DataFrame:
    """The curves before fine-tuning; those after it are in the table's file."""
    return curves[curves["S"] == 0] if len(curves) else curves


def _limits(frame: pd.DataFrame, of: str) -> pd.DataFrame:
    """`frame` with its limits named after the column that they belong to."""
    return frame.rename(columns={"low": f"{of}_low", "high": f"{of}_high"})


def _items(view: View, items: pd.DataFrame) -> list[tuple[str, list[tuple[str, str, shown.Table]]]]:
    """(size and condition, its tables of items) of every size and condition that was scored before fine-tuning."""
    out = []
    for size, _ in sizes_of(view.margins):
        for condition in view.conditions.every:
            tables = probes.items_tables(items, view.lengths, size, condition.name)
            if tables:
                out.append(
                    (", ".join(part for part in (f"size {size}", spaced(condition.name)) if part), tables)
                )
    return out


def _documents(documents: Mapping[str, Sequence[str]]) -> list[tuple[int, list[tuple[str, str]]]]:
    """(number, [(arm, text), ...]) of every document, arms in their order."""
    longest = max((len(texts) for texts in documents.values()), default=0)
    return [
        (i + 1, [(spaced(arm), documents[arm][i]) for arm in in_order(documents) if i < len(documents[arm])])
        for i in range(longest)
    ]


def _lines(value: Any) -> list[str]:
    """A provenance value as lines: dictionaries and lists one entry a line."""
    if isinstance(value, Mapping):
        return [f"{key}: {entry}" for key, entry in value.items()]
    if isinstance(value, (list, tuple)):
        return [str(entry) for entry in value]
    return [str(value)]
