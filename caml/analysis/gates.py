"""Members that never learned the mechanism, or diverged: flagged and listed, never dropped."""

import pandas as pd

COLUMNS = ["stagerun", "name", "stage", "size", "arm", "ratio", "seed", "reason", "mechanism"]
DIVERGED = "diverged"
NEVER_LEARNED = "never learned the mechanism"
UNMEASURED = "mechanism not measured"


def flagged(stageruns: pd.DataFrame, gate: float) -> pd.DataFrame:
    """One row per StageRun and reason (COLUMNS), own reasons and those inherited from its parents.

    A trained first stage whose `mechanism` (nats) ends below `gate` never learned it, and so did what was
    fine-tuned from it. An untrained model (0 steps) is no member that failed.
    """
    runs = stageruns.set_index("stagerun")
    first = (runs["parent"].fillna("") == "") & (runs["steps"] > 0)
    reasons = {
        DIVERGED: runs["diverged"].astype(bool),
        NEVER_LEARNED: first & (runs["mechanism"] < gate),
        UNMEASURED: first & runs["mechanism"].isna(),
    }
    rows = []
    for reason, own in reasons.items():
        struck = own.copy()
        # A child inherits from its parent; a chain is at most as long as the stages of a Run.
        while True:
            inherited = struck | runs["parent"].map(struck).eq(True)
            if inherited.equals(struck):
                break
            struck = inherited
        hit = runs[struck].reset_index()
        rows.append(hit.assign(reason=reason)[COLUMNS])
    return pd.concat(rows, ignore_index=True).sort_values(
        ["reason", "size", "arm", "ratio", "seed", "stage", "stagerun"]
    )
