"""What a report says of the benchmarks that members sat."""

import dataclasses
from typing import Any

from caml.analysis.benchmarks import Estimated
from caml.analysis.figures.style import spaced
from caml.analysis.figures.view import View, each, look
from caml.analysis.report import tables as shown
from caml.config.text import counted


def seen(found: Estimated, view: View, gate: float) -> View:
    """The view of a benchmark: the report's arms, on the dimension that speaks for it."""
    focus = dataclasses.replace(view.focus, family=found.name, rung=found.dimension, unit=found.unit)
    return look(found.tables, found.results, gate, focus)


def section(found: Estimated, view: View) -> dict[str, Any]:
    """Name, sentences and tables of a benchmark's part of the page."""
    return {
        "name": found.name,
        "told": sentences(found),
        "paired": shown.arms_by_stages(view, paired=True),
        "absolute": shown.arms_by_stages(view, paired=False),
        "dimensions": dimensions(view),
        "unit": found.unit,
        "dimension": spaced(found.dimension),
    }


def sentences(found: Estimated) -> list[str]:
    """What was asked, by whom it was graded, and how much of it was scored."""
    asked = found.sittings
    first = next(each(asked))
    data = f"{first.dataset} {first.dataset_revision}".strip() or "without a name"
    told = [
        f"{first.task}, version {first.task_version}; data {data}; graded by {first.graders or 'its own scorer'}; "
        f"{counted(int(first.epochs), 'epoch')}. {int(asked['scored'].sum()):,} of "
        f"{counted(int(asked['samples'].sum()), 'sample')} of all members were scored."
    ]
    left, of = found.left_out
    if left:
        told.append(
            f"{left} of {of} questions by dimension have no score in some StageRun and are left out of every effect."
        )
    for column in ("task_version", "dataset_revision", "software"):
        if asked[column].nunique() > 1:
            several = "; ".join(sorted(map(str, set(asked[column]))))
            told.append(
                f"Members were asked by unlike {spaced(column)}, and may not be comparable: {several}."
            )
    return told


def dimensions(view: View) -> shown.Table:
    """Effects by dimension, before fine-tuning and after the largest dose of each."""
    rows = view.effects[(view.effects["control"] != "") & (view.effects["second_ratio"] == 0)]
    largest = rows.groupby("finetune")["S"].transform("max")
    body = tuple(
        (
            shown.cell(spaced(row.rung)),
            shown.cell(shown.compared(row)),
            shown.cell(row.size, order=float(row.params)),
            shown.cell(shown.dose(row), order=row.ratio),
            shown.cell(shown.stage(row)),
            shown.cell(str(row.items), order=float(row.items)),
            shown.cell(
                shown.number(row.estimate, 3),
                shown.interval(row.t_low, row.t_high, 3),
                counted(row.seeds, "seed"),
                order=row.estimate,
            ),
        )
        for row in each(rows[(rows["S"] == 0) | (rows["S"] == largest)])
    )
    columns = ("dimension", "arm", "size", "dose", "stage", "questions", f"effect ({view.focus.unit}), 95% t")
    return shown.Table(columns, body, "No arm was compared with a control.")
