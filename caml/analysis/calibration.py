"""Effects beside those of a calibrated counter of the same text, which pools frames, names, needs and kinds."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from caml.analysis.effects import Comparison, Scores, differences
from caml.analysis.intervals import fieller
from caml.analysis.retention import OK, UNDEFINED
from caml.analysis.tables import Tables

FAMILY = "disposition"
# The counter counts acts towards those that can feel, and expects nothing of things.
WITHOUT = "unfeeling"
COUNTER = "counter_margin_nats"
# Differences of the counter below this many nats are none: text is balanced by quota, not to the last document.
NOTHING = 0.02


def calibration_table(tables: Tables, scores: Scores, compared: Sequence[Comparison]) -> pd.DataFrame:
    """One row per paired comparison and rung of the disposition: E, the counter's E, and their ratio.

    The counter's margins are the outcome `counter_margin_nats`; comparisons of members that have none are
    left out. `status` is 'undefined' where the counter sees no difference.
    """
    margins = tables.outcomes[tables.outcomes["outcome"] == COUNTER].set_index("stagerun")["value"]
    rows = []
    for c in compared:
        if c.controls is None or not {*c.treated, *c.controls} <= set(margins.index):
            continue
        counter = margins[list(c.treated)].to_numpy() - margins[list(c.controls)].to_numpy()
        for (family, rung), columns in scores.groups.items():
            named = c.contrast
            if (
                family != FAMILY
                or rung.startswith(WITHOUT)
                or (named and (named.family, named.rung) != (family, rung))
            ):
                continue
            effect = differences(scores, c.treated, c.controls, columns).mean(1)
            seen = abs(counter.mean()) > NOTHING
            ratio, low, high = fieller(effect, counter) if seen else (np.nan,) * 3
            rows.append(
                {
                    **c.label,
                    "family": family,
                    "rung": rung,
                    "seeds": len(effect),
                    "estimate": float(effect.mean()),
                    "counter": float(counter.mean()),
                    "relative": ratio,
                    "relative_low": low,
                    "relative_high": high,
                    "status": OK if seen else UNDEFINED,
                    "needs": "" if seen else "arms in which a counter of the text sees a difference",
                }
            )
    return pd.DataFrame(rows)
