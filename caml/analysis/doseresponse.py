"""Dose-response: Hill curves of the effect in intervention tokens and in ratio, where estimable."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from caml.analysis.intervals import jackknife, student
from caml.analysis.retention import NOT_ESTIMABLE, OK, UNDEFINED

# Three parameters, and two doses more to see that they fit.
FEWEST_DOSES = 5
DECADES = 1.0
STEEPNESS = np.exp(np.linspace(np.log(0.25), np.log(8), 41))
GRID = 81


@dataclasses.dataclass(frozen=True)
class Point:
    """The effect at one dose: `effect` [seeds] in nats, in the order of `seeds`."""

    group: tuple[object, ...]
    label: dict[str, object]
    seeds: tuple[int, ...]
    tokens: float
    ratio: float
    budget: float
    effect: np.ndarray


@dataclasses.dataclass(frozen=True)
class Hill:
    """E(x) = top x^h / (half^h + x^h) (Hill 1910): `top` in nats, `half` in units of x, `error` the SSE."""

    top: float
    half: float
    h: float
    error: float

    def at(self, x: np.ndarray) -> np.ndarray:
        """E at doses `x`, nats."""
        return self.top * _rise(x, np.array([self.half]), np.array([self.h]))[0, 0]


def fit_hill(x: np.ndarray, E: np.ndarray) -> Hill:
    """Least squares on mean effects E [doses] at doses x > 0 [doses].

    `top` is linear given the others (variable projection), so half and h are searched on a logarithmic grid,
    half a decade beyond the doses, then finely around their best.
    """
    low, high = np.log(x.min() / 10), np.log(x.max() * 10)
    halves, steep = np.exp(np.linspace(low, high, GRID)), STEEPNESS
    for _ in range(4):
        g = _rise(x, halves, steep)
        top = (g @ E) / (g**2).sum(-1)
        error = ((top[..., None] * g - E) ** 2).sum(-1)
        i, j = np.unravel_index(int(error.argmin()), error.shape)
        best = Hill(float(top[i, j]), float(halves[i]), float(steep[j]), float(error[i, j]))
        step, turn = np.log(halves[1] / halves[0]), np.log(steep[1] / steep[0])
        halves = np.exp(np.clip(np.log(best.half) + np.linspace(-step, step, 21), low, high))
        steep = np.exp(np.clip(np.log(best.h) + np.linspace(-turn, turn, 21), *np.log(STEEPNESS[[0, -1]])))
        if step == 0 or turn == 0:
            break
    return best


def left_out_error(x: np.ndarray, E: np.ndarray) -> float:
    """Sum of squared errors of a Hill curve on doses left out in turn, nats squared."""
    return sum(
        float((fit_hill(np.delete(x, d), np.delete(E, d)).at(x[d : d + 1]) - E[d])[0] ** 2)
        for d in range(len(x))
    )


def doseresponse_table(points: Sequence[Point]) -> pd.DataFrame:
    """Two rows per group of `points` (variable 'tokens' and 'ratio'): the Hill curve with jackknife limits.

    `status` says whether it could be estimated and `needs` what would make it so. `matters` answers which of
    tokens and ratio predicts left-out doses better, and is asked only where token budgets differ.
    """
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(point.group, []).append(point)
    rows: list[dict[str, object]] = []
    for members in groups.values():
        matters, why = _matters(members)
        for variable in ("tokens", "ratio"):
            rows.append({**_row(members, variable), "matters": matters, "matters_needs": why})
    return pd.DataFrame(rows)


def _matters(members: list[Point]) -> tuple[str, str]:
    if len({m.budget for m in members}) < 2:
        return (
            NOT_ESTIMABLE,
            "token budgets that differ: at one budget tokens and ratio are the same variable",
        )
    if len({m.ratio for m in members}) < 2:
        return NOT_ESTIMABLE, "ratios that differ: at one ratio tokens and the budget are the same variable"
    if len(members) < FEWEST_DOSES:
        return NOT_ESTIMABLE, f"at least {FEWEST_DOSES} doses over the budgets; here {len(members)}"
    E = np.array([m.effect.mean() for m in members])
    tokens = left_out_error(np.array([m.tokens for m in members]), E)
    ratio = left_out_error(np.array([m.ratio for m in members]), E)
    return ("tokens" if tokens < ratio else "ratio"), ""


def _row(members: list[Point], variable: str) -> dict[str, object]:
    members = sorted(members, key=lambda m: (getattr(m, variable), m.budget))
    x = np.array([float(getattr(m, variable)) for m in members])
    seeds = sorted(set.intersection(*(set(m.seeds) for m in members)))
    row: dict[str, object] = {
        **members[0].label,
        "variable": variable,
        "seeds": len(seeds),
        "doses": len(set(x)),
        "budgets": len({m.budget for m in members}),
        "smallest": x[0],
        "largest": x[-1],
    }
    row |= dict.fromkeys(("top", "top_low", "top_high", "half", "half_low", "half_high", "h"), np.nan)
    if row["budgets"] != 1 and len({m.ratio for m in members}) == 1:
        needs = "several ratios at one token budget: here dose and length of training vary together"
        return row | {"status": NOT_ESTIMABLE, "needs": needs}
    decades = np.log10(x[-1] / x[0])
    if len(set(x)) < FEWEST_DOSES or decades < DECADES:
        needs = (
            f"at least {FEWEST_DOSES} doses over {DECADES:g} decade; here {len(set(x))} over {decades:.1f}"
        )
        return row | {"status": NOT_ESTIMABLE, "needs": needs}
    if not seeds:
        return row | {"status": NOT_ESTIMABLE, "needs": "seed blocks that hold all doses"}
    E = np.column_stack([m.effect[[m.seeds.index(s) for s in seeds]] for m in members])
    # One test, named in advance: over all doses some interval would leave out 0 by luck.
    last = student(E[:, -1])
    if not (last.low > 0 or last.high < 0):
        return row | {
            "status": UNDEFINED,
            "needs": "an effect at the largest dose whose interval leaves out 0",
        }

    def numbers(values: np.ndarray) -> np.ndarray:
        hill = fit_hill(x, values.mean(0))
        return np.array([hill.top, np.log(hill.half), hill.h])

    best, low, high = jackknife(numbers, E)
    if not (low[0] > 0 or high[0] < 0):
        return row | {
            "status": NOT_ESTIMABLE,
            "needs": "more seeds or doses: the interval of the top holds 0",
        }
    half = float(np.exp(best[1]))
    if half > x[-1] or half < x[0]:
        side = f"above {x[-1]:g}" if half > x[-1] else f"below {x[0]:g}"
        return row | {
            "status": NOT_ESTIMABLE,
            "needs": f"doses {side}: the half-way dose lies outside of them",
        }
    return row | {
        "top": best[0],
        "top_low": low[0],
        "top_high": high[0],
        "half": half,
        "half_low": np.exp(low[1]),
        "half_high": np.exp(high[1]),
        "h": best[2],
        "status": OK,
        "needs": "",
    }


def _rise(x: np.ndarray, half: np.ndarray, h: np.ndarray) -> np.ndarray:
    """x^h / (half^h + x^h), [half, h, doses]."""
    return 1 / (1 + np.exp(h[None, :, None] * (np.log(half)[:, None, None] - np.log(x))))
