"""Probe items as a person reads them: texts, lengths, and each arm's margin before and after fine-tuning."""

from typing import Any

import pandas as pd

from caml.analysis.figures.style import endpoint, in_order, rung_order, spaced
from caml.analysis.figures.view import View, each
from caml.analysis.report.tables import Table, cell, number, stage
from caml.config.text import counted

ITEM = (
    "family",
    "rung",
    "item",
    "template",
    "context",
    "aligned",
    "opposed",
    "tokens_aligned",
    "tokens_opposed",
)
SCORED = ("size", "condition", "finetune", "S")
SHOWN = 40  # per rung; all of them are in the CSV file beside the page


def item_margins(view: View, margins: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """Mean margin of every item per arm, over the seeds of the arm's largest dose at each size.

    Before fine-tuning, and after the largest S of each fine-tuning without a second source (NaN for an arm that was not
    taken so far). Columns: ITEM, SCORED, then one per arm (nats).
    """
    parts = []
    for condition in view.conditions.every:
        runs = condition.rows(view.margins[view.margins["second_ratio"] == 0]).drop_duplicates("stagerun")
        dose = runs[runs["S"] == 0].groupby(["size", "arm"])["ratio"].max().rename("dose")
        runs = runs.join(dose, on=["size", "arm"]).query("ratio == dose")
        runs = runs[runs["S"] == runs.groupby(["size", "finetune"])["S"].transform("max")]
        parts.append(runs.assign(condition=condition.name)[["stagerun", "arm", *SCORED]])
    scored = margins.merge(pd.concat(parts), on="stagerun")
    wide = scored.pivot_table(
        index=["item", *SCORED], columns="arm", values="margin", aggfunc="mean", sort=False
    ).reset_index()
    return items[list(ITEM)].merge(wide, on="item").rename_axis(columns=None)


def items_tables(
    frame: pd.DataFrame, lengths: pd.DataFrame, size: str, condition: str
) -> list[tuple[str, str, Table]]:
    """(family and rung, how many items, table of the first SHOWN of them) of one size and condition.

    An arm's cell has a line for each stage, the first before fine-tuning; the caption says which they are.
    """
    own = frame[(frame["size"] == size) & (frame["condition"] == condition)].sort_values(
        ["S", "finetune"], kind="stable"
    )
    arms = in_order(str(c) for c in frame.columns if c not in (*ITEM, *SCORED))
    arms = [arm for arm in arms if own[arm].notna().any()]
    stages = [stage(row) for row in each(own.drop_duplicates(["finetune", "S"]).assign(second_ratio=0.0))]
    caption = f"Margins, line by line: {'; after '.join(stages)}." if len(stages) > 1 else ""
    out = []
    rungs = rung_order(own["rung"])
    groups = [(str(family), str(rung), rows) for (family, rung), rows in own.groupby(["family", "rung"])]
    groups.sort(key=lambda g: (g[0] != "disposition", g[0], rungs.index(g[1])))
    for family, rung, rows in groups:
        (told,) = each(lengths[(lengths["family"] == family) & (lengths["rung"] == rung)])
        heads = ("context", "aligned", "opposed", *(("tokens",) if told.unequal else ()))
        body = []
        for _, lines in list(rows.groupby("item", sort=False))[:SHOWN]:
            row = lines.iloc[0]
            said = [cell(str(row["context"])), cell(str(row["aligned"])), cell(str(row["opposed"]))]
            if told.unequal:
                aligned, opposed = row["tokens_aligned"], row["tokens_opposed"]
                said.append(cell(f"{aligned:g}, {opposed:g}", order=aligned - opposed))
            body.append((*said, *(cell(*map(number, lines[arm]), order=row[arm]) for arm in arms)))
        table = Table((*heads, *map(spaced, arms)), tuple(body), caption=caption)
        out.append((endpoint(family, rung), _counted_items(told, len(body)), table))
    return out


def _counted_items(lengths: Any, shown: int) -> str:
    """How many items a rung has, how many are in the table, and how many have continuations of unequal length."""
    told = [counted(lengths.items, "item")]
    told += [f"the first {shown} here"] if shown < lengths.items else []
    if lengths.unequal:
        told.append(
            f"{lengths.unequal} with continuations of unequal length in tokens, by up to {lengths.most:g}"
        )
    if lengths.evened:
        told.append(
            f"{lengths.evened} pairs whose halves have continuations of unequal length, which even out"
        )
    return ", ".join(told)
