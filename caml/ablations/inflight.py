"""Populations in flight: who trains together below the output folder, until its members are complete."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from caml.ablations.places import Places
from caml.ablations.populations import Population
from caml.ablations.runs import StageRun
from caml.data.files import write_json
from caml.tracking.lease import acquire_all
from caml.tracking.ledger import State

# In the folder of a population in flight.
RECORD, CHECKPOINTS = "members.json", "checkpoints"


def recorded_members(
    where: Places, population: Population, missing: Sequence[StageRun], say: Callable[[str], None]
) -> list[StageRun]:
    """The members with which this population was first launched, by the record beside its checkpoints.

    Where a member has no ledger (it was put aside), was damaged after it had left, or a parent is not what it
    was, the population starts anew.
    """
    path = where.populations / population.name / RECORD
    by_name = {s.fingerprint: s for s in population.members}
    recorded = _read_record(path)
    if not recorded and path.exists():
        say(f"{path} was cut short or altered; this population starts anew")
    ledger = where.ledger
    if (
        {s.fingerprint for s in missing} <= set(recorded) <= set(by_name)
        and all(ledger.state(s.name) is not State.MISSING for s in missing)
        and all(started_from(where, by_name[name]) == parent for name, parent in recorded.items())
    ):
        return [by_name[name] for name in recorded]
    discard(where, population)
    trained = [s for s in missing if s.steps]
    write_json(path, {s.fingerprint: started_from(where, s) for s in trained})
    return trained


def started_from(where: Places, stagerun: StageRun) -> str | None:
    """The digest of the parent's parameters as they are now; None for a first stage."""
    return where.ledger.params_digest(stagerun.parent.name) if stagerun.parent else None


def discard(where: Places, population: Population) -> None:
    """Forget how far the training of `population` has come."""
    _remove(where.populations / population.name)


def discard_finished(where: Places, stageruns: Sequence[StageRun]) -> None:
    """Remove what populations of nothing but complete `stageruns` left behind.

    A launch may have been killed before it did, or have trained a member in another population.
    """
    folders = {s.fingerprint: where.ledger.folder(s.name) for s in stageruns
               if where.ledger.state(s.name) is State.COMPLETE}  # fmt: skip
    for record in where.populations.glob(f"*/{RECORD}"):
        members = _read_record(record)
        if members and set(members) <= set(folders):
            with acquire_all([folders[name] for name in members]) as leases:
                if not leases.refused:
                    _remove(record.parent)


def _remove(folder: Path) -> None:
    # Its record goes last: what a kill leaves of it is found again.
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def _read_record(path: Path) -> dict[str, str | None]:
    """The members of a population and what they started from; none where there is no record to be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}
