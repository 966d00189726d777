"""The named contrasts against the other controls: a conclusion that depends on its control is shown so."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from caml.analysis.contrasts import FEWEST_SEEDS, Contrast
from caml.analysis.effects import Comparison, Scores, differences
from caml.analysis.equivalence import ALPHA, tost
from caml.analysis.intervals import student
from caml.analysis.tables import Tables

# Arms that can stand for 'no disposition'. Base has no intervention, so it has no ratio to match.
CONTROLS = ("neutral", "neutral_humility", "offtopic", "base")
MATCHED = ("size", "pretrain_tokens", "variant", "finetune", "second", "second_ratio", "seed")
COLUMNS = ["contrast", "family", "rung", "treatment", "control", "stated", "seeds", "estimate", "t_low",
           "t_high", "stated_estimate", "agrees"]  # fmt: skip


def other_controls(tables: Tables, scores: Scores, compared: Sequence[Comparison]) -> pd.DataFrame:
    """One row (COLUMNS) per paired contrast and other control, on the seed blocks in which the grid holds that.

    `agrees`: by both controls the contrast's claim holds, or by neither; where it claims nothing, both t
    intervals hold 0 or lie on the same side of it. Empty where there are too few seed blocks for a claim.
    """
    rows_of_cells = tables.cells.to_dict("records")
    place = {row["stagerun"]: row for row in rows_of_cells}
    found = {
        (*_key(row), row["arm"], float(row["ratio"]), _dose(row)): row["stagerun"] for row in rows_of_cells
    }
    rows = []
    for c in compared:
        if c.contrast is None or c.controls is None:
            continue
        columns = scores.groups[c.contrast.family, c.contrast.rung]
        stated = differences(scores, c.treated, c.controls, columns).mean(1)
        for arm in CONTROLS:
            if arm in (c.treatment, c.control):
                continue
            others = []
            for run in c.treated:
                row = place[run]
                if arm == "base":  # without intervention, and so without a placement of it
                    row = {**row, "ratio": 0.0}
                others.append(found.get((*_key(row), arm, float(row["ratio"]), _dose(row))))
            held = [i for i, other in enumerate(others) if other is not None]
            if held:
                treated, runs = [c.treated[i] for i in held], [str(others[i]) for i in held]
                over = differences(scores, treated, runs, columns).mean(1)
                rows.append(_row(c, arm, over, stated[held]))
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(c: Comparison, arm: str, over: np.ndarray, stated: np.ndarray) -> dict[str, object]:
    assert c.contrast is not None
    here, there = student(over), student(stated)
    same = _finding(c.contrast, over) == _finding(c.contrast, stated)
    return {
        "contrast": c.contrast.name,
        "family": c.contrast.family,
        "rung": c.contrast.rung,
        "treatment": c.treatment,
        "control": arm,
        "stated": c.control,
        "seeds": len(over),
        "estimate": float(here.estimate),
        "t_low": float(here.low),
        "t_high": float(here.high),
        "stated_estimate": float(there.estimate),
        "agrees": bool(same) if len(over) >= FEWEST_SEEDS else None,
    }


def _finding(contrast: Contrast, values: np.ndarray) -> str:
    """What `values` [seeds] say of the contrast's claim; where nothing is claimed, on which side of 0 they lie."""
    if contrast.claim == "equivalent":
        return "within" if tost(values, contrast.margin) < ALPHA else ""
    t = student(values)
    side = "above" if t.low > 0 else "below" if t.high < 0 else ""
    return side if contrast.claim in ("explore", side) else ""


def _key(row: dict) -> tuple[object, ...]:
    placement = row["placement"] if row["ratio"] > 0 else ""
    return (placement, *(row[part] for part in MATCHED))


def _dose(row: dict) -> int:
    """Fine-tuning rows are the same in all arms of a seed block, and so is their count."""
    return int(row["S"])
