"""Every effect by every norm of a continuation's length, side by side; and how unequal those lengths are."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from caml.analysis.claims import judged
from caml.analysis.effects import Comparison, estimates, score_matrix
from caml.analysis.equivalence import tost
from caml.analysis.tables import NATS, Tables


@dataclasses.dataclass(frozen=True)
class Norm:
    """How log probabilities become a margin: `column` of the frozen margins, its `unit`, and its name in words."""

    column: str
    unit: str
    words: str


CLAIMED = "sum"  # what effects are, and what is claimed; all other norms are exploratory
NORMS = {
    CLAIMED: Norm("margin", NATS, "sum"),
    "token": Norm("margin_token", "nats per token", "per token"),
    "character": Norm("margin_character", "nats per character", "per character"),
    "unconditional": Norm("margin_unconditional", NATS, "unconditional taken off"),
}
UNJUDGED = "not judged"  # of a claim of equivalence by a norm in whose unit no margin was stated
# Of the largest margin: what a sum of single-precision log probabilities may be off by, and much more.
ROUNDING = 1e-5


def norms_table(tables: Tables, compared: Sequence[Comparison]) -> pd.DataFrame:
    """A row per row of the effects and norm, those of the sum first. Columns: `RESULTS_DICTIONARY`.

    Each norm is judged as the sum is, with Holm's correction over the primary family by that same norm.
    """
    claimed = score_matrix(tables)
    parts: list[pd.DataFrame] = []
    for name, norm in NORMS.items():
        scores = score_matrix(tables, norm.column)
        scale = {
            group: _scale(claimed.values[:, columns], scores.values[:, columns])
            for group, columns in scores.groups.items()
        }
        found = estimates(scores, compared)
        rows: list[dict[str, Any]] = []
        for e in found:
            row, times = e.row, scale[e.family, e.rung]
            # An equivalence margin is stated in nats of the sum.
            margin = e.margin * (1.0 if norm.unit == NATS else times)
            row |= {"norm": name, "unit": norm.unit, "scale": times, "margin": margin}
            row |= {"tost_p": float(tost(e.over_items, margin))}
            row |= {"exploratory": name != CLAIMED or not row["primary"]}
            rows.append(row)
        table = pd.DataFrame(rows)
        unjudged = (table["claim"] == "equivalent") & table["margin"].isna()
        first = parts[0] if parts else table
        # What cannot be judged keeps the family as large as it is: there it has the p of the sum.
        table["tost_p"] = table["tost_p"].where(~unjudged, first["tost_p"])
        table = judged(table, [e.comparison.contrast for e in found])
        held = table["primary"] & unjudged & (table["verdict"] != "too few seeds")
        table["verdict"] = table["verdict"].where(~held, UNJUDGED)
        parts.append(table.assign(agrees=_agrees(table, parts[0] if parts else table)))
    return pd.concat(parts, ignore_index=True)


def lengths_table(tables: Tables) -> pd.DataFrame:
    """A row per family and rung: how many items have continuations of unequal length in tokens, and by how many.

    Lengths are means over an item's halves: in a mirror pair the same two phrases change sides, and a sum favours
    neither whatever their lengths. Such items are counted apart, as `evened`: their margin per token is not
    the sum's over one length. Columns: `RESULTS_DICTIONARY`.
    """
    summed, normed = score_matrix(tables), score_matrix(tables, NORMS["token"].column)
    aligned = summed.items["tokens_aligned"].to_numpy(float)
    off = aligned - summed.items["tokens_opposed"].to_numpy(float)
    rows = []
    for (family, rung), columns in summed.groups.items():
        values, of = summed.values[:, columns], off[columns]
        gap = np.nanmax(np.abs(normed.values[:, columns] * aligned[columns] - values), axis=0)
        rows.append(
            {
                "family": family,
                "rung": rung,
                "items": len(columns),
                "unequal": int((of != 0).sum()),
                "most": float(np.abs(of).max()),
                "aligned_shorter": int((of < 0).sum()),
                "opposed_shorter": int((of > 0).sum()),
                "evened": int(((of == 0) & (gap > _rounding(values))).sum()),
            }
        )
    return pd.DataFrame(rows)


def _scale(claimed: np.ndarray, normed: np.ndarray) -> float:
    """The one number that turns the margins of the sum into those of a norm; NaN where there is none."""
    over = np.nansum(claimed**2)
    if over == 0:
        return np.nan
    times = float(np.nansum(claimed * normed) / over)
    return times if np.nanmax(np.abs(normed - times * claimed)) <= _rounding(claimed) else np.nan


def _rounding(margins: np.ndarray) -> float:
    return ROUNDING * float(np.nanmax(np.abs(margins)))


def _agrees(table: pd.DataFrame, claimed: pd.DataFrame) -> pd.Series:
    """Whether each row says what the row of the sum says: `agrees` of RESULTS_DICTIONARY."""
    # The sign of an estimate whose interval holds 0 is a matter of chance.
    same_side = _side(table) == _side(claimed)
    of_claim = (table["verdict"] == claimed["verdict"]) & (same_side | (table["claim"] == "equivalent"))
    agrees = of_claim.where(table["primary"], same_side)
    unknown = (table["verdict"] == UNJUDGED) | (~table["primary"] & (table["seeds"] < 2))
    return agrees.astype(object).where(~unknown, None)


def _side(table: pd.DataFrame) -> pd.Series:
    """On which side of 0 the t interval lies: 1, -1, or 0 where it holds 0."""
    return (table["t_low"] > 0).astype(int) - (table["t_high"] < 0).astype(int)
