"""Claims of nothing there (two one-sided tests), and correction for a family of claims (Holm)."""

import numpy as np
from scipy import stats

ALPHA = 0.05


def tost(values: np.ndarray, margin: float) -> np.ndarray:
    """p of the claim that the mean over seeds lies within +-`margin`; values [..., seeds].

    Schuirmann's (1987) two one-sided t tests: the larger of the two p. NaN below two seeds or without a
    margin above 0.
    """
    values = np.asarray(values, float)
    n = values.shape[-1]
    mean = values.mean(-1)
    if n < 2 or not margin > 0:
        return np.full_like(mean, np.nan)
    error = values.std(-1, ddof=1) / np.sqrt(n)
    inside = margin - np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, inside / error, np.where(inside > 0, np.inf, -np.inf))
    return stats.t.sf(t, n - 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's (1979) step-down adjusted p of a family [tests]; NaN entries are outside the family."""
    p = np.asarray(p, float)
    adjusted = np.full_like(p, np.nan)
    inside = np.flatnonzero(~np.isnan(p))
    order = inside[np.argsort(p[inside], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
