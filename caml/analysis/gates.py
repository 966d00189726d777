"""Members that never learned the mechanism, lost it, or diverged: flagged and listed, never dropped."""

import pandas as pd

COLUMNS = ["stagerun", "name", "stage", "size", "arm", "ratio", "seed", "reason", "mechanism"]
DIVERGED = "diverged"
NEVER_LEARNED = "never learned the mechanism"
LOST = "lost the mechanism in fine-tuning"
UNMEASURED = "mechanism not measured"


def flagged(stageruns: pd.DataFrame, gate: float) -> pd.DataFrame:
    """One row per StageRun and reason (COLUMNS), own reasons and those inherited from its parents.

    A trained first stage whose `mechanism` (nats) ends below `gate` never learned it, and so did what was
    fine-tuned from it; a later stage that ends below it lost it. An untrained model (0 steps) is no member
    that failed.
    """
    runs = stageruns.set_index("stagerun")
    first = (runs["parent"].fillna("") == "") & (runs["steps"] > 0)
    below, later = runs["mechanism"] < gate, (runs["parent"].fillna("") != "") & (runs["steps"] > 0)
    never = _with_children(runs, first & below)
    reasons = {
        DIVERGED: _with_children(runs, runs["diverged"].astype(bool)),
        NEVER_LEARNED: never,
        LOST: _with_children(runs, later & below & ~never),
        UNMEASURED: _with_children(runs, first & runs["mechanism"].isna()),
    }
    rows = [runs[struck].reset_index().assign(reason=reason)[COLUMNS] for reason, struck in reasons.items()]
    return pd.concat(rows, ignore_index=True).sort_values(
        ["reason", "size", "arm", "ratio", "seed", "stage", "stagerun"]
    )


def _with_children(runs: pd.DataFrame, struck: pd.Series) -> pd.Series:
    """Those of `runs` that are `struck`, and all that was trained from them."""
    # A chain is at most as long as the stages of a Run.
    while True:
        inherited = struck | runs["parent"].map(struck).eq(True)
        if inherited.equals(struck):
            return struck
        struck = inherited
