"""Members that never learned the mechanism, lost it, diverged or skipped steps, and unlike numerics: told and kept."""

import pandas as pd

COLUMNS = ["stagerun", "name", "stage", "size", "arm", "ratio", "seed", "reason", "mechanism"]
DIVERGED = "diverged"
NEVER_LEARNED = "never learned the mechanism"
SKIPPED = "skipped steps at spikes of its gradient"
LOST = "lost the mechanism in fine-tuning"
UNMEASURED = "mechanism not measured"


def flagged(stageruns: pd.DataFrame, gate: float) -> pd.DataFrame:
    """One row per StageRun and reason (COLUMNS), own reasons and those inherited from its parents.

    A trained first stage whose `mechanism` (nats) ends below `gate` never learned it, and so did what was
    fine-tuned from it; a later stage that ends below it lost it. An untrained model (0 steps) is no member
    that failed. Skipped steps are told by a column that the table has where there are some.
    """
    runs = stageruns.set_index("stagerun")
    first = (runs["parent"].fillna("") == "") & (runs["steps"] > 0)
    below, later = runs["mechanism"] < gate, (runs["parent"].fillna("") != "") & (runs["steps"] > 0)
    never = _with_children(runs, first & below)
    reasons = {
        DIVERGED: _with_children(runs, runs["diverged"].astype(bool)),
        NEVER_LEARNED: never,
        LOST: _with_children(runs, later & below & ~never),
    }
    if "skipped" in runs:
        reasons[SKIPPED] = _with_children(runs, runs["skipped"] > 0)
    # Of probes that ask of no mechanism there is none to be learned.
    if runs["mechanism"].notna().any():
        reasons[UNMEASURED] = _with_children(runs, first & runs["mechanism"].isna())
    rows = [runs[struck].reset_index().assign(reason=reason)[COLUMNS] for reason, struck in reasons.items()]
    return pd.concat(rows, ignore_index=True).sort_values(
        ["reason", "size", "arm", "ratio", "seed", "stage", "stagerun"]
    )


def numerics_classes(stageruns: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Of each StageRun the numerics version and the machine of every stage on its way, first to last.

    Members of different classes have other bits, whatever else they share.
    """
    columns = ("stagerun", "numerics", "machine", "parent")
    rows = list(zip(*(stageruns[column].fillna("").astype(str) for column in columns), strict=True))
    own = {stagerun: (numerics, machine) for stagerun, numerics, machine, _ in rows}
    parents = {stagerun: parent for stagerun, _, _, parent in rows}

    def lineage(stagerun: str) -> tuple[str, ...]:
        before = lineage(parents[stagerun]) if parents[stagerun] in own else ()
        return before + own[stagerun]

    return {stagerun: lineage(stagerun) for stagerun in own}


def _with_children(runs: pd.DataFrame, struck: pd.Series) -> pd.Series:
    """Those of `runs` that are `struck`, and all that was trained from them."""
    # A chain is at most as long as the stages of a Run.
    while True:
        inherited = struck | runs["parent"].map(struck).eq(True)
        if inherited.equals(struck):
            return struck
        struck = inherited
