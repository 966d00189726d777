"""Seeds that an effect needs, and effects that the seeds resolve: power of the paired t test and of TOST."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy import optimize, stats

from caml.analysis.contrasts import FEWEST_SEEDS
from caml.analysis.equivalence import ALPHA
from caml.config.errors import UserError

POWER = 0.8
MOST_SEEDS = 10_000


def power_above(effect: float, sd: float, seeds: int, alpha: float = ALPHA) -> float:
    """Power of the two-sided one-sample t test on paired seed means, by the noncentral t distribution.

    `effect` and `sd` (of seed means, over seeds) in nats. Counts rejections on the effect's own side only.
    """
    if seeds < 2:
        return 0.0
    critical = stats.t.ppf(1 - alpha / 2, seeds - 1)
    return float(stats.nct.sf(critical, seeds - 1, abs(effect) / sd * np.sqrt(seeds)))


def power_equivalent(
    margin: float, sd: float, seeds: int, effect: float = 0.0, alpha: float = ALPHA
) -> float:
    """Power of TOST within +-`margin` at a true `effect`, nats: exact, by integrating over the sample sd.

    Phillips (1990), 'Power of the two one-sided tests procedure in bioequivalence'.
    """
    if seeds < 2:
        return 0.0
    midpoints = (np.arange(4000) + 0.5) / 4000
    scale = np.sqrt(stats.chi2.ppf(midpoints, seeds - 1) / (seeds - 1))
    room = margin - stats.t.ppf(1 - alpha, seeds - 1) * sd * scale / np.sqrt(seeds)
    error = sd / np.sqrt(seeds)
    inside = stats.norm.cdf((room - effect) / error) - stats.norm.cdf((-room - effect) / error)
    return float(np.where(room > 0, inside, 0.0).mean())


def seeds_above(effect: float, sd: float, power: float = POWER, alpha: float = ALPHA) -> int:
    """Seeds for which an `effect` other than 0 is found with `power`. Raises UserError beyond 10,000."""
    return _fewest(lambda n: power_above(effect, sd, n, alpha), power, f"an effect of {effect:g} nats")


def seeds_equivalent(margin: float, sd: float, power: float = POWER, alpha: float = ALPHA) -> int:
    """Seeds for which a true effect of 0 is shown to lie within `margin` with `power`. Raises UserError."""
    return _fewest(
        lambda n: power_equivalent(margin, sd, n, 0.0, alpha), power, f"a margin of {margin:g} nats"
    )


def smallest_effect(sd: float, seeds: int, power: float = POWER, alpha: float = ALPHA) -> float:
    """The effect in nats that `seeds` seeds find with `power`; infinite below two seeds."""
    if seeds < 2:
        return np.inf
    if sd == 0:
        return 0.0
    # In units of sd; 2 seeds need about 20 sd, so the bracket is wide.
    root = optimize.brentq(lambda d: power_above(d, 1.0, seeds, alpha) - power, 1e-6, 1e4)
    return float(root) * sd


def smallest_margin(sd: float, seeds: int, power: float = POWER, alpha: float = ALPHA) -> float:
    """The margin in nats within which `seeds` seeds show a true effect of 0 with `power`; infinite below two."""
    if seeds < 2:
        return np.inf
    if sd == 0:
        return 0.0
    root = optimize.brentq(lambda m: power_equivalent(m, 1.0, seeds, 0.0, alpha) - power, 1e-6, 1e5)
    return float(root) * sd


def sd_limits(sd: float, seeds: int, level: float = 0.95) -> tuple[float, float]:
    """The interval of a standard deviation that `seeds` normal values gave; NaN below two."""
    if seeds < 2:
        return np.nan, np.nan
    low, high = (stats.chi2.ppf(tail, seeds - 1) for tail in ((1 + level) / 2, (1 - level) / 2))
    return sd * np.sqrt((seeds - 1) / low), sd * np.sqrt((seeds - 1) / high)


POWER_COLUMNS = (
    "contrast", "claim", "seeds", "sd", "sd_low", "sd_high", "level", "smallest", "wanted", "seeds_needed",
)  # fmt: skip


def power_table(effects: pd.DataFrame, effect: float | None = None, power: float = POWER) -> pd.DataFrame:
    """For each named contrast of `effects`: what its seeds resolve, and the seeds that it would need.

    Columns: contrast, claim, seeds, sd (nats), sd_low and sd_high (its 95% limits, from chi-square: how little a
    pilot of few seeds says of the variance), level (of the test), smallest (nats: the effect that these seeds
    find with `power`, or the margin within which they show that there is none), wanted (nats: `effect`, or the
    contrast's own margin) and seeds_needed for it: by TOST for a claim of equivalence, by the two-sided t test
    otherwise. A primary contrast is tested at alpha over the size of the primary family, the strictest step of
    Holm. Never fewer seeds than a claim takes. NaN where nothing is wanted, or with fewer than two seeds.
    """
    named = effects[effects["contrast"] != ""]
    family = max(int(named["primary"].sum()), 1)
    rows = []
    for row in named.to_dict("records"):
        alpha = ALPHA / family if row["primary"] else ALPHA
        wanted = float(row["margin"]) if effect is None else effect
        sd, seeds, needed = float(row["sd"]), int(row["seeds"]), np.nan
        nothing = row["claim"] == "equivalent"
        if np.isfinite(wanted) and sd > 0:
            fewest = (seeds_equivalent if nothing else seeds_above)(wanted, sd, power, alpha)
            needed = float(max(fewest, FEWEST_SEEDS))
        least = smallest_margin if nothing else smallest_effect
        smallest = least(sd, seeds, power, alpha) if sd >= 0 else np.nan
        low, high = sd_limits(sd, seeds)
        rows.append((row["contrast"], row["claim"], seeds, sd, low, high, alpha, smallest, wanted, needed))
    return pd.DataFrame(rows, columns=POWER_COLUMNS)


def _fewest(power_of: Callable[[int], float], wanted: float, what: str) -> int:
    """The fewest seeds of at least 2 whose power reaches `wanted`; power grows with seeds."""
    high = 2
    while power_of(high) < wanted:
        high *= 2
        if high > MOST_SEEDS:
            raise UserError(f"{what} would need more than {MOST_SEEDS} seeds at this variance")
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power_of(middle) >= wanted else (middle, high)
    return max(high, 2)
