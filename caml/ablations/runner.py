"""An ablation from its gin file to its report: what is missing is made, what is there is used."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caml.ablations.condition import kept_report, move_damaged_aside, statement_of, unfinished
from caml.ablations.grid import Cell, cells, used_stageruns, write_cells
from caml.ablations.inflight import discard_finished
from caml.ablations.places import Places, make_writable, named_below, places
from caml.ablations.progress import Progress, Stopped
from caml.ablations.runs import Ablation
from caml.config.errors import UserError
from caml.config.files import suggest
from caml.config.resolve import Loaded
from caml.config.text import counted
from caml.evals.identity import evaluation_fingerprint
from caml.tracking.mirror import Mirror

# Seconds that the tracking store is given at the end, before the rest is left to `caml sync`.
MIRROR_PATIENCE = 120.0


@dataclass(frozen=True)
class Outcome:
    """What a launch did: the headline, where the report lies, and how many StageRuns it trained and scored."""

    headline: list[str]
    report: Path | None
    trained: int
    seconds: float


def run(loaded: Loaded, progress: Progress, stop: threading.Event, only: str | None = None) -> Outcome:
    """Train, evaluate, mirror, analyse and report whatever of the ablation is missing.

    `only` names one cell: it is trained and evaluated, and nothing is reported, as where a setting of an axis
    macro leaves only a part of the grid. Raises UserError before anything is written, Failure for what
    breaks, `Stopped` where `stop` was set.
    """
    began = time.monotonic()
    ablation: Ablation = loaded.tree
    grid = cells(loaded)
    wanted = grid if only is None else [chosen(grid, only)]
    where = places(ablation)
    make_writable(where)
    with named_below(where):
        headline, page, made = _run(loaded, grid, wanted, only is not None, where, progress, stop)
    return Outcome(headline, page, made, time.monotonic() - began)


def _run(
    loaded: Loaded,
    grid: list[Cell],
    wanted: list[Cell],
    alone: bool,
    where: Places,
    progress: Progress,
    stop: threading.Event,
) -> tuple[list[str], Path | None, int]:
    """Headline, page and number of StageRuns made; `alone`: `wanted` is one cell that was named."""
    ablation: Ablation = loaded.tree
    stageruns = used_stageruns(wanted)
    evaluation = evaluation_fingerprint(wanted[0].run.probes)
    move_damaged_aside(where, stageruns, evaluation, progress)
    missing = unfinished(where, stageruns, evaluation)
    mirror = Mirror(where.ledger, ablation.tracking or where.tracking, ablation.name, progress.say)
    made = 0
    if missing:
        progress.say(
            f"{ablation.name}: {len(missing)} of {counted(len(stageruns), 'StageRun')} to be trained or scored"
        )
        # Imported where it is used, as reports are below: a finished ablation need not wait for jax.
        from caml.ablations.making import make

        made = make(ablation, grid, stageruns, where, progress, stop, mirror)
    discard_finished(where, stageruns)
    if stop.is_set():
        raise Stopped
    for stagerun in stageruns:
        mirror.submit(stagerun.name)
    statement = statement_of(ablation, grid, evaluation)
    if alone or loaded.restrictions:
        # A part of the grid has no controls, or fewer seeds: the report is of all of it.
        named = "; ".join(cell.id for cell in wanted[:3])
        headline = [
            f"trained and scored: {named}{' ...' if len(wanted) > 3 else ''}",
            "a report is of the whole grid: `caml run` without --only, and without --set of an axis",
        ]
        page = None
    else:
        found = None if missing else kept_report(where, grid, statement, progress)
        if found is not None and any(not (where.folder / "cells" / cell.file).exists() for cell in grid):
            write_cells(where.folder, ablation, grid)
        if found is None:
            from caml.ablations.reporting import report

            found = report(where, ablation, grid, statement, evaluation, progress)
        headline, page = found
    with progress.task("tracking store", max(len(stageruns), 1)) as advance:

        def brought(left: int) -> None:
            advance(max(len(stageruns) - left, 0), "StageRuns")
            if stop.is_set():
                raise Stopped

        mirror.stop(MIRROR_PATIENCE, brought)
    return headline, page, made


def chosen(grid: Sequence[Cell], name: str) -> Cell:
    """The cell called `name`. Raises UserError where there is none."""
    found = {cell.id: cell for cell in grid}
    if name not in found:
        raise UserError(f"{name!r}: there is no such cell{suggest(name, found)}; `caml show` lists them")
    return found[name]
