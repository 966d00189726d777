"""Wash-out curves E(S) = E0 [rho + (1 - rho) g(S)]: plateau and S50, where they can be estimated."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from caml.analysis.intervals import fieller, jackknife, student
from caml.analysis.retention import NOT_ESTIMABLE, OK, UNDEFINED, Kept

FEWEST_DOSES = 6
DECADES = 2.0
# g(S) of x = S / k. The exponential has no exponent; the hyperbola is the power law of exponent 1.
SHAPES: dict[str, tuple[float, ...]] = {
    "exponential": (np.inf,),
    "hyperbolic": (1.0,),
    "power law": (0.25, 0.5, 2.0, 4.0),
}
CONSTANT = "constant"
GRID = 121


@dataclasses.dataclass(frozen=True)
class Curve:
    """A fitted wash-out E(S) = E0 [rho + (1 - rho) g(S / k)].

    `E0` in nats, `k` in tokens, `error` the sum of squared errors; an exponential's exponent is infinite.
    """

    shape: str
    exponent: float
    k: float
    E0: float
    rho: float
    error: float

    @property
    def s50(self) -> float:
        """The dose at which half of E0 is left; infinite where the plateau lies at half or above."""
        if self.rho >= 0.5:
            return np.inf
        left = (0.5 - self.rho) / (1 - self.rho)
        if np.isinf(self.exponent):
            return float(-self.k * np.log(left))
        return float(self.k * (left ** (-1 / self.exponent) - 1))

    def at(self, S: np.ndarray) -> np.ndarray:
        """E at doses `S`, nats."""
        return self.E0 * (self.rho + (1 - self.rho) * _g(S / self.k, self.exponent))


def fit_shape(S: np.ndarray, E: np.ndarray, shape: str) -> Curve:
    """Least squares of one `shape` on mean effects E [doses] at S [doses], the smallest dose first.

    For a given k and exponent the curve is linear in E0 rho and E0 (1 - rho) (variable projection, Golub &
    Pereyra 1973), so k alone is searched, on a logarithmic grid a decade beyond the doses, then again finely
    around its best. 0 <= rho <= 1.
    """
    positive = S[S > 0]
    low, high = np.log(positive.min() / 10), np.log(positive.max() * 10)
    best: Curve | None = None
    for exponent in SHAPES[shape]:
        edges = (low, high)
        for _ in range(3):
            k = np.exp(np.linspace(*edges, GRID))
            kept, lost, error = _linear(E, _g(S[None] / k[:, None], exponent))
            i = int(error.argmin())
            width = (edges[1] - edges[0]) / (GRID - 1)
            edges = (max(np.log(k[i]) - width, low), min(np.log(k[i]) + width, high))
        total = kept[i] + lost[i]
        rho = float(kept[i] / total) if total else 1.0
        if best is None or error[i] < best.error:
            best = Curve(shape, exponent, float(k[i]), float(total), rho, float(error[i]))
    assert best is not None
    return best


def choose_shape(S: np.ndarray, E: np.ndarray) -> str:
    """The shape that best predicts doses left out in turn (S = 0 stays), or 'constant' where none helps."""
    out = np.flatnonzero(S > 0)
    errors = {CONSTANT: sum(float((np.delete(E, d).mean() - E[d]) ** 2) for d in out)}
    for shape in SHAPES:
        errors[shape] = sum(
            float((fit_shape(np.delete(S, d), np.delete(E, d), shape).at(S[d : d + 1]) - E[d])[0] ** 2)
            for d in out
        )
    return min(errors, key=lambda shape: errors[shape])


def washout_table(kept: Sequence[Kept]) -> pd.DataFrame:
    """One row per wash-out curve: doses, chosen shape, E0, rho, k, S50 with jackknife limits, and a bracket.

    `status` 'not estimable' leaves the fit out and `needs` says what would make it so. The bracket for S50
    (the largest dose with R surely above a half, the smallest with R surely below) and the lower bound of R
    at the largest dose are given wherever R is defined.
    """
    curves: dict[tuple[object, ...], list[Kept]] = {}
    for k in kept:
        c = k.comparison
        if c.contrast is None:
            key = (
                k.family,
                k.rung,
                c.roots,
                c.control_roots,
                c.cell["variant"],
                c.cell["finetune"],
                c.cell["second"],
            )
            curves.setdefault((*key, c.cell["second_ratio"]), []).append(k)
    return pd.DataFrame([_row(sorted(c, key=lambda k: int(k.comparison.cell["S"]))) for c in curves.values()])


def _row(curve: list[Kept]) -> dict[str, object]:
    first = curve[0]
    S = np.array([0.0] + [float(k.comparison.cell["S"]) for k in curve])
    E = np.column_stack([first.before] + [k.after for k in curve])
    label = {c: v for c, v in first.comparison.label.items() if c not in ("contrast", "S")}
    ratios = [fieller(k.after, k.before) for k in curve]
    row: dict[str, object] = {
        "family": first.family,
        "rung": first.rung,
        **label,
        "seeds": len(E),
        "doses": len(S) - 1,
        "largest_S": S[-1],
        "retention_low": ratios[-1][1],
        "bracket_low": max([s for s, r in zip(S[1:], ratios, strict=True) if r[1] > 0.5], default=0.0),
        "bracket_high": min([s for s, r in zip(S[1:], ratios, strict=True) if r[2] < 0.5], default=np.inf),
    }
    numbers = ("E0", "E0_low", "E0_high", "rho", "rho_low", "rho_high", "k", "exponent", "S50")
    row |= dict.fromkeys((*numbers, "S50_low", "S50_high"), np.nan) | {"shape": ""}
    start = student(first.before)
    if not (start.low > 0 or start.high < 0):
        row["bracket_low"] = np.nan
        row["bracket_high"] = np.nan
        needs = "an E(0) whose interval does not hold 0: more seeds, or a larger dose"
        return row | {"status": UNDEFINED, "needs": needs}
    decades = np.log10(S[-1] / S[1])
    if len(S) - 1 < FEWEST_DOSES or decades < DECADES:
        needs = (
            f"at least {FEWEST_DOSES} doses over {DECADES:g} decades; here {len(S) - 1} over {decades:.1f}"
        )
        return row | {"status": NOT_ESTIMABLE, "needs": needs}
    shape = choose_shape(S, E.mean(0))
    if shape == CONSTANT:
        needs = f"doses beyond {S[-1]:,.0f} tokens: no wash-out shows within these"
        return row | {"shape": shape, "status": NOT_ESTIMABLE, "needs": needs}
    return row | _estimates(S, E, shape)


def _estimates(S: np.ndarray, E: np.ndarray, shape: str) -> dict[str, object]:
    best = fit_shape(S, E.mean(0), shape)

    def numbers(seeds: np.ndarray) -> np.ndarray:
        curve = fit_shape(S, seeds.mean(0), shape)
        return np.array([curve.E0, curve.rho, np.log(curve.s50)])

    (_, low, high) = jackknife(numbers, E)
    row: dict[str, object] = {"shape": shape, "E0": best.E0, "E0_low": low[0], "E0_high": high[0]}
    row |= {"k": best.k, "exponent": best.exponent}
    seen = 1 - _g(np.array([S[-1] / best.k]), best.exponent)[0]
    if seen >= 0.5:
        row |= {"rho": best.rho, "rho_low": max(low[1], 0.0), "rho_high": min(high[1], 1.0)}
    if S[-1] >= best.s50:
        row |= {"S50": best.s50, "S50_low": np.exp(low[2]), "S50_high": np.exp(high[2])}
    missing = []
    if seen < 0.5:
        missing.append(f"plateau: doses well beyond {S[-1]:,.0f} tokens, where most of the wash-out is past")
    if S[-1] < best.s50:
        missing.append("S50: a dose at which less than half is left")
    return row | {"status": OK if len(missing) < 2 else NOT_ESTIMABLE, "needs": "; ".join(missing)}


def _g(x: np.ndarray, exponent: float) -> np.ndarray:
    return np.exp(-x) if np.isinf(exponent) else (1 + x) ** -exponent


def _linear(E: np.ndarray, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(kept, lost, error) [k] of E [doses] = kept + lost g [k, doses], with kept and lost of one sign."""
    centred = g - g.mean(1, keepdims=True)
    spread = (centred**2).sum(1)
    slope = np.divide(centred @ E, spread, out=np.zeros(len(g)), where=spread > 1e-12)
    level = E.mean() - slope * g.mean(1)
    only = g @ E / (g**2).sum(1)
    nothing = np.zeros(len(g))
    choices = [(level, slope), (nothing, only), (np.full(len(g), E.mean()), nothing)]
    errors = np.stack([((a[:, None] + b[:, None] * g - E) ** 2).sum(1) for a, b in choices])
    errors[0] = np.where(level * slope < 0, np.inf, errors[0])
    best = errors.argmin(0)
    pick = np.arange(len(g))
    kept, lost = (np.stack(part)[best, pick] for part in zip(*choices, strict=True))
    return kept, lost, errors[best, pick]
