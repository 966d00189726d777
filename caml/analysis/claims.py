"""What the seeds say of a claim: the p that is tested, Holm's correction over the primary family, the verdict."""

from collections.abc import Sequence

import pandas as pd

from caml.analysis.contrasts import FEWEST_SEEDS, Contrast
from caml.analysis.equivalence import ALPHA, holm


def judged(table: pd.DataFrame, contrasts: Sequence[Contrast | None]) -> pd.DataFrame:
    """Estimates with the columns `p_holm` and `verdict`; `contrasts` are those of the rows of `table`."""
    claims = table["primary"] & (table["seeds"] >= FEWEST_SEEDS)
    tested = table["p"].where(table["claim"] != "equivalent", table["tost_p"])
    table = table.assign(p_holm=holm(tested.where(claims).to_numpy()))
    rows = zip(contrasts, table.itertuples(), strict=True)
    return table.assign(
        verdict=[
            verdict(contrast, r.seeds, r.estimate, r.t_low, r.t_high, r.p_holm, r.margin)  # type: ignore[arg-type]
            for contrast, r in rows
        ]
    )


def verdict(
    contrast: Contrast | None, seeds: int, mean: float, low: float, high: float, p: float, margin: float
) -> str:
    """What a contrast's data say of its claim; p after Holm. Only primary contrasts claim anything."""
    if seeds < FEWEST_SEEDS:
        return "too few seeds"
    if contrast is None or not contrast.primary:
        return "exploratory"
    if contrast.claim == "equivalent":
        outside = low > margin or high < -margin
        return "supported" if p < ALPHA else "contradicted" if outside else "not supported"
    sign = 1 if contrast.claim == "above" else -1
    if sign * mean > 0:
        return "supported" if p < ALPHA else "not supported"
    return "contradicted" if low > 0 or high < 0 else "not supported"
