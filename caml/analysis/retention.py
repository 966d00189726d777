"""Retention R(S) = E(S) / E(0): per cell, against the convention's, and across sizes."""

import dataclasses
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from caml.analysis.effects import CELL, Comparison, Scores, differences
from caml.analysis.intervals import fieller, jackknife, student

OK = "ok"
UNDEFINED = "undefined"
NOT_ESTIMABLE = "not estimable"
CONVENTION = "convention"
# Items of the convention that are as new as those of a rung: a look-up is compared with a look-up.
SEEN_RUNG, SEEN_FRAME, NEW_FRAME = "seen_item", "seen_frame", "new_frame"

# What the retention of an effect shares with the effect before fine-tuning.
SHARED = (
    "family", "rung", "treatment", "control", "size", "ratio", "placement", "pretrain_tokens", "variant",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Kept:
    """The effect of one comparison on one rung after fine-tuning and before it, per seed in nats [seeds].

    `before` is NaN where the members were not scored before fine-tuning.
    `convention` [seeds, 2] is the convention's absolute margin in the treated members, after and before, on
    items as new as the rung's; None where it is not probed.
    """

    comparison: Comparison
    family: str
    rung: str
    after: np.ndarray
    before: np.ndarray
    convention: np.ndarray | None

    @property
    def key(self) -> tuple[str, ...]:
        """What two sizes must share to be compared."""
        c = self.comparison
        texts = (c.cell[part] for part in ("placement", "variant", "finetune", "S", "second", "second_ratio"))
        return (self.family, self.rung, c.treatment, c.control, *map(str, texts))


def kept_effects(scores: Scores, comparisons: Sequence[Comparison]) -> list[Kept]:
    """E(S) and E(0) per seed of every comparison after fine-tuning.

    Paired comparisons on every rung; absolute margins only for the convention, which every arm carries.
    """
    out = []
    for comparison in comparisons:
        if comparison.roots == comparison.treated:
            continue
        scored = set(comparison.roots + (comparison.control_roots or ())) <= scores.row.keys()
        for (family, rung), columns in scores.groups.items():
            wanted = comparison.contrast
            if wanted and (wanted.family, wanted.rung) != (family, rung):
                continue
            if comparison.controls is None and (family != CONVENTION or comparison.cell["ratio"] == 0):
                continue
            after = differences(scores, comparison.treated, comparison.controls, columns).mean(1)
            before = np.full_like(after, np.nan)
            if scored:
                before = differences(scores, comparison.roots, comparison.control_roots, columns).mean(1)
            own = _convention(scores, comparison, rung) if scored and comparison.cell["ratio"] > 0 else None
            out.append(Kept(comparison, family, rung, after, before, own))
    return out


def _convention(scores: Scores, comparison: Comparison, rung: str) -> np.ndarray | None:
    """The convention's margins [seeds, 2] in the treated members after and before; None where not probed."""
    own = {other: columns for (family, other), columns in scores.groups.items() if family == CONVENTION}
    columns = own.get(SEEN_FRAME if rung == SEEN_RUNG else NEW_FRAME, own.get(""))
    if columns is None:
        return None
    pair = (comparison.treated, comparison.roots)
    return np.stack([differences(scores, runs, None, columns).mean(1) for runs in pair], axis=1)


def retention_table(kept: Sequence[Kept]) -> pd.DataFrame:
    """One row per element of `kept`: E(S), E(0), R with Fieller's limits, and R over the convention's R.

    `status` is 'undefined' where the t interval of E(0) holds 0 (or there are fewer than two seeds), and
    'not estimable' where E(0) was not measured; `needs` says what would make it so.
    """
    return pd.DataFrame([_row(k) for k in kept])


def _row(k: Kept) -> dict[str, object]:
    before, after = student(k.before), student(k.after)
    estimate, low, high = fieller(k.after, k.before)
    over, over_status = _over_convention(k, bool(np.isfinite(estimate)))
    status, needs = OK, ""
    if np.isnan(k.before).any():
        status, needs = NOT_ESTIMABLE, "the same members scored before fine-tuning: dose 0 on the axis"
    elif not np.isfinite(estimate):
        few = "two seed blocks at least: one has no interval"
        more = "an E(0) whose interval does not hold 0: more seeds, or a larger dose"
        status, needs = UNDEFINED, few if len(k.before) < 2 else more
    return {
        **k.comparison.label,
        "family": k.family,
        "rung": k.rung,
        "seeds": len(k.after),
        "E0": float(before.estimate),
        "E0_low": float(before.low),
        "E0_high": float(before.high),
        "E": float(after.estimate),
        "E_low": float(after.low),
        "E_high": float(after.high),
        "estimate": estimate,
        "low": low,
        "high": high,
        "status": status,
        "needs": needs,
        "over_convention": over[0],
        "over_convention_low": over[1],
        "over_convention_high": over[2],
        "over_convention_status": over_status,
    }


def _over_convention(k: Kept, defined: bool) -> tuple[tuple[float, float, float], str]:
    """R(value) / R(convention) with jackknife limits, and 'ok'; else NaN, and why there is none."""
    nothing = (np.nan, np.nan, np.nan)
    if k.family == CONVENTION:
        return nothing, ""
    if k.convention is None:
        return nothing, "the convention was not probed"
    if not defined:
        return nothing, f"R {UNDEFINED}"
    _, lowest, highest = fieller(k.convention[:, 0], k.convention[:, 1])
    if not np.isfinite(lowest):
        return nothing, "E(0) of the convention holds 0"
    if not (lowest > 0 or highest < 0):
        return nothing, "R of the convention holds 0"
    seeds = np.column_stack([k.after, k.before, k.convention])
    estimate, low, high = jackknife(_ratio_of_ratios, seeds)
    return (float(estimate[0]), float(low[0]), float(high[0])), OK


def _ratio_of_ratios(seeds: np.ndarray) -> np.ndarray:
    after, before, convention_after, convention_before = seeds.mean(0)
    return np.array([after / before / (convention_after / convention_before)])


SIZES_COLUMNS = (
    "family", "rung", "treatment", "control", "placement", "pretrain_tokens", "variant", "finetune", "S", "second",
    "second_ratio", "matching", "size", "params", "ratio", "other_size", "other_params", "other_ratio",
    "other_pretrain_tokens", "seeds",
    "E0", "other_E0", "retention", "other_retention", "difference", "low", "high", "status", "needs",
)  # fmt: skip


def across_sizes(kept: Sequence[Kept]) -> pd.DataFrame:
    """Differences of R between sizes (SIZES_COLUMNS), matched in two ways.

    'dose': the same ratio and token budget. 'E(0)': the other size's R is read off, linearly between two of
    its ratios, where its E(0) is this size's. Limits by the jackknife over the seed blocks that both have.
    """
    families: dict[tuple[str, ...], list[Kept]] = {}
    for k in kept:
        if k.comparison.contrast is None and k.comparison.controls is not None:
            families.setdefault(k.key, []).append(k)
    rows = []
    for members in families.values():
        for this in members:
            mine = this.comparison.cell
            for size in sorted({m.comparison.cell["size"] for m in members} - {mine["size"]}):
                others = [m for m in members if m.comparison.cell["size"] == size]
                same = [m for m in others if _dose(m) == _dose(this)]
                if same and mine["params"] < same[0].comparison.cell["params"]:
                    rows.append(_matched(this, same[:1], "dose"))
                # At its own token budget where the other size has it, else at each that it has.
                budgets = {_dose(m)[1] for m in others}
                for budget in sorted({_dose(this)[1]} & budgets or budgets):
                    rows.append(_matched_effect(this, [m for m in others if _dose(m)[1] == budget]))
    return pd.DataFrame(rows, columns=list(SIZES_COLUMNS))


def _dose(k: Kept) -> tuple[float, int]:
    return float(k.comparison.cell["ratio"]), int(k.comparison.cell["pretrain_tokens"])


def _matched_effect(this: Kept, others: list[Kept]) -> dict[str, object]:
    """The row in which `others` (one size and budget, several ratios) are read off at the E(0) of `this`."""
    common = _common(this, others)
    this, others = _at(this, common), [_at(o, common) for o in others]
    target = this.before.mean() if common else np.nan
    ordered = sorted(others, key=lambda o: float(o.before.mean()) if common else 0.0)
    for low, high in pairwise(ordered):
        if low.before.mean() <= target <= high.before.mean():
            return _matched(this, [low, high], "E(0)")
    row = _matched_names(this, others[0], "E(0)") | {"other_ratio": np.nan, "seeds": len(common)}
    if not common:
        return row | {"status": NOT_ESTIMABLE, "needs": "seed blocks that both sizes have"}
    reached = f"{ordered[0].before.mean():.2f} to {ordered[-1].before.mean():.2f}"
    where = (
        f"{others[0].comparison.cell['size']} with E(0) on both sides of {target:.2f} nats (it has {reached})"
    )
    return row | {"status": NOT_ESTIMABLE, "needs": f"ratios at {where}"}


def _matched_names(this: Kept, other: Kept, matching: str) -> dict[str, object]:
    mine, theirs = this.comparison.cell, other.comparison.cell
    names = {c: mine[c] for c in CELL if c != "dose_tokens"}
    return {
        "family": this.family,
        "rung": this.rung,
        "treatment": this.comparison.treatment,
        "control": this.comparison.control,
        **names,
        "matching": matching,
        "other_size": theirs["size"],
        "other_params": theirs["params"],
        "other_pretrain_tokens": theirs["pretrain_tokens"],
        "E0": float(this.before.mean()) if len(this.before) else np.nan,
        "retention": fieller(this.after, this.before)[0],
    }


def _matched(this: Kept, others: list[Kept], matching: str) -> dict[str, object]:
    common = _common(this, others)
    this, others = _at(this, common), [_at(o, common) for o in others]
    row = _matched_names(this, others[0], matching) | {
        "other_ratio": others[0].comparison.cell["ratio"] if len(others) == 1 else np.nan,
        "seeds": len(common),
        "other_E0": float((others[0] if len(others) == 1 else this).before.mean()) if common else np.nan,
    }
    if any(not np.isfinite(fieller(k.after, k.before)[0]) for k in (this, *others)) or not common:
        return row | {"status": UNDEFINED, "needs": "an E(0) whose interval does not hold 0 at every size"}
    columns = [values for k in (this, *others) for values in (k.after, k.before)]
    estimate, low, high = jackknife(_difference, np.column_stack(columns))
    return row | {
        "retention": float(estimate[0]),
        "other_retention": float(estimate[1]),
        "difference": float(estimate[2]),
        "low": float(low[2]),
        "high": float(high[2]),
        "status": OK,
        "needs": "",
    }


def _common(this: Kept, others: Sequence[Kept]) -> list[int]:
    """The seed blocks that all have."""
    return sorted(set(this.comparison.seeds).intersection(*(o.comparison.seeds for o in others)))


def _at(k: Kept, seeds: Sequence[int]) -> Kept:
    """`k` in those of its seed blocks alone."""
    pick = [k.comparison.seeds.index(s) for s in seeds]
    comparison = dataclasses.replace(k.comparison, seeds=tuple(seeds))
    return dataclasses.replace(k, comparison=comparison, after=k.after[pick], before=k.before[pick])


def _difference(seeds: np.ndarray) -> np.ndarray:
    """(R of this, R of the other, their difference) of columns after, before, after, before, ..."""
    mean = seeds.mean(0)
    after, before = mean[0::2], mean[1::2]
    ratio = after / before
    other = ratio[1]
    if len(ratio) == 3:
        share = (before[0] - before[1]) / (before[2] - before[1])
        other = (1 - share) * ratio[1] + share * ratio[2]
    return np.array([ratio[0], other, ratio[0] - other])
