"""What is left of the first primary effect after fine-tuning: a sentence for the headline, and rows in short."""

from typing import Any

import pandas as pd

from caml.analysis.contrasts import FEWEST_SEEDS
from caml.analysis.figures.style import count, percent, spaced
from caml.analysis.figures.view import each
from caml.analysis.report import tables as shown
from caml.analysis.results import Results
from caml.analysis.retention import SHARED


def kept(results: Results) -> pd.DataFrame:
    """Retention of the first primary contrast before fine-tuning, at every dose that the grid has; maybe no row."""
    effects, retention = results.effects, results.retention
    stated = effects[
        effects["primary"].astype(bool) & (effects["S"] == 0) & (effects["control"].fillna("") != "")
    ]
    if stated.empty or retention.empty:
        return retention.iloc[:0]
    first = stated.iloc[0]
    same = (retention["contrast"] == "") & (retention["control"].fillna("") == first["control"])
    for column in SHARED:
        if column != "control":
            same &= retention[column] == first[column]
    order = ["finetune", "second_ratio", "S"]
    return retention[same].sort_values(order, kind="stable")


def sentence(results: Results) -> list[str]:
    """What is left after the largest dose of each kind of fine-tuning; no sentence where nothing was fine-tuned."""
    rows = kept(results)
    if rows.empty:
        return []
    largest = rows.loc[rows.groupby(["finetune", "second", "second_ratio"], sort=False)["S"].idxmax()]
    told = [f"{_retained(row)} after {_stage(row)}" for row in each(largest)]
    few = " Fewer than five seed blocks claim nothing." if (largest["seeds"] < FEWEST_SEEDS).any() else ""
    return [f"Left of it at the largest dose of each fine-tuning: {'; '.join(told)}.{few}"]


def short_table(results: Results) -> list[str]:
    """Lines of a Markdown table of `kept`; none where nothing was fine-tuned."""
    rows = kept(results)
    if rows.empty:
        return []
    lines = [
        "| after | S (loss-bearing tokens) | E(0) (nats) | E(S) (nats) | R = E(S) / E(0) | seeds |",
        "|---|---|---|---|---|---|",
    ]
    for row in each(rows):
        before = f"{shown.number(row.E0)} {shown.interval(row.E0_low, row.E0_high)}"
        after = f"{shown.number(row.E)} {shown.interval(row.E_low, row.E_high)}"
        ratio = (
            f"{shown.number(row.estimate)} {shown.interval(row.low, row.high)}"
            if row.status == "ok"
            else row.status
        )
        lines.append(f"| {_kind(row)} | {row.S:,} | {before} | {after} | {ratio} | {row.seeds} |")
    return lines


def _retained(row: Any) -> str:
    if row.status != "ok":
        return f"R {row.status}, E {shown.number(row.E)} {shown.interval(row.E_low, row.E_high)}"
    return f"R {shown.number(row.estimate)} {shown.interval(row.low, row.high)}"


def _kind(row: Any) -> str:
    beside = f" with {row.second} in {percent(row.second_ratio)} of the slots" if row.second_ratio > 0 else ""
    return spaced(f"{row.finetune}{beside}")


def _stage(row: Any) -> str:
    return f"{count(row.S)} loss-bearing tokens of {_kind(row)}"
