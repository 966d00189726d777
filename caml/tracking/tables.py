"""Tables of what the ledger holds, for a list of StageRuns: metrics, trajectories, scores, manifests."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from caml.config.errors import Failure
from caml.tracking.ledger import COLUMNS, Kind, Ledger, State


def require_complete(ledger: Ledger, names: Sequence[str], evaluation: str | None = None) -> None:
    """Raise Failure, naming them, unless all `names` are complete, whole and scored by `evaluation`."""
    wrong = []
    for name in names:
        state = ledger.state(name)
        if state is not State.COMPLETE:
            wrong.append(f"{name} is {state}")
        elif evaluation is not None:
            scored = ledger.evaluation_state(name, evaluation)
            if scored is State.DAMAGED:
                wrong.append(f"{name} has scores that are damaged")
            elif scored is not State.COMPLETE:
                stale = "only of other probes" if ledger.evaluations(name) else "missing"
                wrong.append(f"{name} has scores that are {stale}")
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise Failure(f"{'; '.join(wrong[:3])}{more}: start `caml run` again to make them complete")


def metrics(ledger: Ledger, names: Sequence[str]) -> pd.DataFrame:
    """`stagerun, step, tokens, loss, gradient_norm, rate` of the complete StageRuns `names`.

    And what else segments tell, NaN where a StageRun has none of it. `stagerun` is the fingerprint. Raises Failure
    naming what is incomplete or damaged, as all readers here.
    """
    found = _rows(ledger, names, "metrics")
    more = sorted(set(found.columns) - {"stagerun", *COLUMNS["metrics"]})
    return found[["stagerun", *COLUMNS["metrics"], *more]]


def trajectory(ledger: Ledger, names: Sequence[str]) -> pd.DataFrame:
    """`stagerun, step, tokens, outcome, value` of the complete StageRuns `names`: for curves only."""
    return _rows(ledger, names, "trajectory")[["stagerun", *COLUMNS["trajectory"]]]


LENGTHS = ("tokens_aligned", "tokens_opposed")
NORMS = ("margin", "margin_token", "margin_character", "margin_unconditional")


def margins(ledger: Ledger, names: Sequence[str], evaluation: str) -> pd.DataFrame:
    """`stagerun`, `item`, lengths of the continuations and margins by every norm, of the evaluation asked for.

    A StageRun that was scored by other probes or another scorer only is refused by name.
    """
    require_complete(ledger, names, evaluation)
    parts = []
    for name in names:
        part = ledger.read_evaluation(name, evaluation).margins.to_pandas()
        part.insert(0, "stagerun", ledger.manifest(name)["fingerprint"])
        parts.append(part)
    columns = ["stagerun", "item", *LENGTHS, *NORMS]
    return _joined(parts, columns)[columns]


def outcomes(ledger: Ledger, names: Sequence[str], evaluation: str) -> pd.DataFrame:
    """`stagerun, outcome, value` by the evaluation asked for; NaN where an outcome is not defined."""
    require_complete(ledger, names, evaluation)
    rows = [
        (ledger.manifest(name)["fingerprint"], outcome, value)
        for name in names
        for outcome, value in ledger.read_evaluation(name, evaluation).outcomes.items()
    ]
    return pd.DataFrame(rows, columns=["stagerun", "outcome", "value"]).astype({"value": float})


def manifests(ledger: Ledger, names: Sequence[str], facts: Sequence[str]) -> pd.DataFrame:
    """`stagerun`, `name` and the `facts` of the manifests of the complete StageRuns `names`, a row each.

    A fact that a manifest lacks is looked for in its last launch (`commit`, `dirty`, `machine`); null is NaN.
    Raises Failure naming a fact that is in neither.
    """
    require_complete(ledger, names)
    rows = []
    for name in names:
        manifest = ledger.manifest(name)
        known = {**manifest["launches"][-1], **manifest}
        missing = [fact for fact in facts if fact not in known]
        if missing:
            raise Failure(f"the manifest of {ledger.folder(name)} has no {', '.join(missing)}")
        values = [np.nan if known[fact] is None else known[fact] for fact in facts]
        rows.append([manifest["fingerprint"], name, *values])
    return pd.DataFrame(rows, columns=["stagerun", "name", *facts])


def _rows(ledger: Ledger, names: Sequence[str], kind: Kind) -> pd.DataFrame:
    require_complete(ledger, names)
    parts = []
    for name in names:
        fingerprint = ledger.manifest(name)["fingerprint"]
        for content in ledger.read_segments(name, kind):
            part = content.table.to_pandas()
            part.insert(0, "stagerun", fingerprint)
            parts.append(part)
    return _joined(parts, ["stagerun", *COLUMNS[kind]])


def _joined(parts: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
    """The rows of all `parts`; without any, none in `columns`."""
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))
