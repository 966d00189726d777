"""An ablation from its gin file to its report: what is missing is made, what is there is used."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caml.ablations.condition import Study, kept_report, move_damaged_aside, study_of, unfinished
from caml.ablations.grid import Cell, used_stageruns, write_cells
from caml.ablations.inflight import discard_finished
from caml.ablations.machine import refuse_too_large
from caml.ablations.places import let_go, named_below
from caml.ablations.progress import Progress, Stopped
from caml.analysis.lock import read_lock
from caml.config.errors import UserError
from caml.config.files import suggest
from caml.config.resolve import Loaded
from caml.config.text import counted
from caml.tracking.mirror import Mirror

# Seconds that the tracking store is given at the end, before the rest is left to `caml sync`.
MIRROR_PATIENCE = 120.0


@dataclass(frozen=True)
class Outcome:
    """What a launch did: the headline, where the report lies, how many StageRuns it trained and scored.

    And how many sittings of benchmarks were asked and graded.
    """

    headline: list[str]
    report: Path | None
    trained: int
    sat: int
    seconds: float


def run(
    loaded: Loaded,
    progress: Progress,
    stop: threading.Event,
    only: str | None = None,
    profile: bool = False,
) -> Outcome:
    """Train, evaluate, mirror, analyse and report whatever of the ablation is missing.

    `only` names one cell: it is trained and evaluated, and nothing is reported, as where a setting of an axis
    macro leaves only a part of the grid. `profile`: a few dispatches of training are traced. Raises UserError
    for what is wrong (where it is in the file, before anything is written that stays), Failure for what breaks,
    `Stopped` where `stop` was set.
    """
    began = time.monotonic()
    study = study_of(loaded)
    wanted = study.grid if only is None else [chosen(study.grid, only)]
    refuse_too_large(study.loaded, used_stageruns(wanted), study.ablation.population)
    asked = _unsat(study, wanted)
    if asked:
        _require_ready(study)
    claimed = study.claim()
    with named_below(study.where):
        headline, page, made, sat = _run(
            study, claimed, wanted, only is not None, progress, stop, profile, asked
        )
    return Outcome(headline, page, made, sat, time.monotonic() - began)


def _unsat(study: Study, wanted: Sequence[Cell]) -> bool:
    """Whether some StageRun is there, or will be, that has not sat all benchmarks of the ablation."""
    if not study.ablation.benchmarks:
        return False
    from caml.ablations.examining import unsat

    return bool(unsat(study, used_stageruns(wanted)))


def _require_ready(study: Study) -> None:
    """Raise UserError for a benchmark that cannot be asked, before hours are spent on what is to sit it."""
    from caml.evals.benchmarks.readiness import named_in, ready

    for benchmark in study.ablation.benchmarks:
        with named_in(study.loaded.fault):
            ready(benchmark)


def _run(
    study: Study,
    claimed: list[Path],
    wanted: list[Cell],
    alone: bool,
    progress: Progress,
    stop: threading.Event,
    profile: bool,
    ready: bool,
) -> tuple[list[str], Path | None, int, int]:
    """Headline, page and numbers of StageRuns and sittings made; `alone`: `wanted` is one cell that was named.

    `claimed`: what was made for this launch so far. `ready`: it is known that the benchmarks can be asked.
    """
    ablation, where, evaluation = study.ablation, study.where, study.evaluation
    stageruns = used_stageruns(wanted)
    read_lock(where.lock)  # An altered one is named before hours are spent.
    move_damaged_aside(where, stageruns, evaluation, progress)
    missing = unfinished(where, stageruns, evaluation)
    if missing:
        if not ready:  # what was sat is of parameters that may come out otherwise
            _require_ready(study)
        progress.say(
            f"{ablation.name}: {len(missing)} of {counted(len(stageruns), 'StageRun')} to be trained or scored"
        )
        # Imported where it is used, as all that is heavy here: a finished ablation need not wait for jax.
        from caml.ablations.making import make, planned

        try:
            populations = planned(study, stageruns, progress.say)
        except UserError:
            let_go(claimed)
            raise
    mirror = Mirror(where.ledger, ablation.tracking or where.tracking, ablation.name, progress.say)
    made = sat = 0
    if missing:
        made = make(study, populations, stageruns, progress, stop, mirror, profile)
    elif profile:
        progress.say("no profile was written: nothing is left to train")
    discard_finished(where, stageruns)
    if stop.is_set():
        raise Stopped
    if ablation.benchmarks:
        from caml.ablations.examining import sit_missing

        sat = sit_missing(study, stageruns, mirror.submit, progress, stop)
    for stagerun in stageruns:
        mirror.submit(stagerun.name)
    page: Path | None
    if alone or study.loaded.restrictions:
        # A part of the grid has no controls, or fewer seeds: the report is of all of it.
        named = "; ".join(cell.id for cell in wanted[:3])
        headline = [
            f"trained and scored: {named}{' ...' if len(wanted) > 3 else ''}",
            "a report is of the whole grid: `caml run` without --only, and without --set of an axis",
        ]
        page = None
    else:
        headline, page = _reported(study, bool(missing), progress)
    with progress.task("tracking store", max(len(stageruns), 1)) as advance:

        def brought(left: int) -> None:
            advance(max(len(stageruns) - left, 0), "StageRuns")
            if stop.is_set():
                raise Stopped

        mirror.stop(MIRROR_PATIENCE, brought)
    return headline, page, made, sat


def _reported(study: Study, anew: bool, progress: Progress) -> tuple[list[str], Path]:
    """Headline and page, written where there are none of what is there now."""
    found = None if anew else kept_report(study, progress)
    if found is None:
        from caml.ablations.reporting import report

        return report(study, progress)
    for altered in write_cells(study.where.folder, study.ablation, study.grid):
        progress.say(f"{altered} was altered; it is written anew")
    return found


def chosen(grid: Sequence[Cell], name: str) -> Cell:
    """The cell called `name`, or the only one that has all the values in it. Raises UserError where there is none."""
    found = {cell.id: cell for cell in grid}
    if name in found:
        return found[name]
    asked = set(name.split(","))
    alike = [cell for cell in grid if asked <= set(cell.id.split(","))]
    if len(alike) == 1:
        return alike[0]
    if alike:
        raise UserError(
            f"{name!r}: {len(alike)} cells have these values, such as {alike[0].id} and {alike[1].id}; name more"
        )
    raise UserError(f"{name!r}: there is no such cell{suggest(name, found)}; `caml show` lists them")
