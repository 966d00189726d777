"""The result of a study in short, for its own folder: the headline, the contrasts, and chosen figures."""

import shutil
from pathlib import Path

from caml.analysis.figures.style import rung_label
from caml.analysis.figures.view import each
from caml.analysis.files import replace_file
from caml.analysis.report.page import Extras, headline
from caml.analysis.report.persistence import short_table
from caml.analysis.report.tables import interval, number, probability
from caml.analysis.results import Results

FIGURES = ("install", "washout")


def write_summary(folder: Path, results: Results, report: Path, extras: Extras, drawn_by: str) -> list[Path]:
    """Write RESULT.md and the first figures of `report` (a report's folder) to `folder`; returns the files.

    `drawn_by` is the command that wrote them: every number in RESULT.md comes from the tables it read.
    """
    lines = [f"<!-- Drawn by `{drawn_by}`; do not edit. -->", "", *headline(results), *extras.caveats, ""]
    lines += [
        "| contrast | rung | claim | estimate (nats) | 95% interval | seeds | p (Holm) | verdict | locked |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    named = results.effects[results.effects["contrast"] != ""]
    for row in each(named):
        claim = f"within ±{row.margin:g}" if row.claim == "equivalent" else f"{row.claim} 0"
        lines.append(
            f"| {row.contrast} | {rung_label(row.rung)} | {'–' if row.claim == 'explore' else claim} "
            f"| {number(row.estimate)} | {interval(row.t_low, row.t_high)} | {row.seeds} | {probability(row.p_holm)} "
            f"| {row.verdict} | {'yes' if row.locked else 'no'} |"
        )
    left = short_table(results)
    if left:
        lines += ["", "What fine-tuning leaves of the first of them (Fieller's 95% limits of R):", "", *left]
    lines += ["", extras.methods, ""]
    replace_file(folder / "RESULT.md", "\n".join(lines).encode())
    written = [folder / "RESULT.md"]
    for name in FIGURES:
        for drawn in sorted((report / "figures").glob(f"{name}*.png")):
            written.append(Path(shutil.copyfile(drawn, folder / drawn.name)))
    return written
