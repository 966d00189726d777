"""An ablation from its gin file to its report: what is missing is made, what is there is used."""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caml.ablations import freezing, reporting
from caml.ablations.grid import Cell, cells, stagerun_text
from caml.ablations.places import Places, make_writable, places
from caml.ablations.populations import Population, depth, plan
from caml.ablations.prepare import Stores, stores_of
from caml.ablations.progress import Progress
from caml.ablations.runs import Ablation, Run, StageRun
from caml.ablations.scorer import Evaluators, score_missing
from caml.ablations.trainer import Launch, discard, discard_finished, pace, train_population
from caml.analysis.lock import state as statement_of
from caml.config.errors import UserError
from caml.config.files import suggest
from caml.config.resolve import Loaded
from caml.data.files import write_text
from caml.evals.evaluation import evaluation_fingerprint
from caml.tracking.lease import Leases, acquire_all
from caml.tracking.ledger import Ledger, State
from caml.tracking.markers import Damaged
from caml.tracking.mirror import Mirror
from caml.tracking.provenance import provenance

# Seconds between looks at StageRuns that another launch is training.
WAIT = 2.0
# Seconds that the tracking store is given at the end, before the rest is left to `caml sync`.
MIRROR_PATIENCE = 120.0


class Stopped(Exception):
    """The launch was told to stop, and left everything so that the same command goes on."""


@dataclass(frozen=True)
class Outcome:
    """What a launch did: the headline, where the report lies, and how many StageRuns it trained and scored."""

    headline: list[str]
    report: Path
    trained: int
    seconds: float


def run(loaded: Loaded, progress: Progress, stop: threading.Event, only: str | None = None) -> Outcome:
    """Train, evaluate, mirror, analyse and report whatever of the ablation is missing.

    `only` names one cell: it is trained and evaluated, and nothing is reported, as where a setting of an axis
    macro leaves only a part of the grid. Raises UserError before
    anything is written, Failure for what breaks, `Stopped` where `stop` was set.
    """
    began = time.monotonic()
    ablation: Ablation = loaded.tree
    grid = cells(loaded)
    wanted = [chosen(grid, only)] if only else grid
    where = places(ablation)
    make_writable(where)
    stageruns = freezing.used_stageruns(wanted)
    evaluation = evaluation_fingerprint(wanted[0].run.probes)
    _move_damaged_aside(where, stageruns, evaluation, progress)
    missing = unfinished(where, stageruns, evaluation)
    mirror = Mirror(where.ledger, ablation.tracking or where.tracking, ablation.name, progress.say)
    if missing:
        progress.say(
            f"{ablation.name}: {len(missing)} of {len(stageruns)} StageRuns are to be trained or scored"
        )
        launch = _launch(ablation, grid, where, progress, stop, mirror)
        _make(launch, freezing.used_stageruns(grid), stageruns, [cell.run for cell in grid])
    discard_finished(where, stageruns)
    if stop.is_set():
        raise Stopped
    for stagerun in stageruns:
        mirror.submit(stagerun.name)
    statement = statement_of(
        ablation.contrasts, ablation.axes, ablation.control, evaluation, grid[0].run.probes.gate
    )
    if only or loaded.restrictions:
        # A part of the grid has no controls, or fewer seeds: the report is of all of it.
        headline = [
            f"{len(wanted)} cells of the grid are trained and scored; the report is of the whole grid"
        ]
        report = where.ledger.folder(stageruns[-1].name)
    else:
        headline, report = reporting.report(
            where, ablation, grid, statement, evaluation, progress, bool(missing)
        )
    with progress.task("tracking store", max(len(stageruns), 1)) as advance:

        def brought(left: int) -> None:
            advance(max(len(stageruns) - left, 0), "StageRuns")
            if stop.is_set():
                raise Stopped

        mirror.stop(MIRROR_PATIENCE, brought)
    return Outcome(headline, report, len(missing), time.monotonic() - began)


def chosen(grid: Sequence[Cell], name: str) -> Cell:
    """The cell called `name`. Raises UserError where there is none."""
    found = {cell.id: cell for cell in grid}
    if name not in found:
        raise UserError(f"--only {name}: there is no such cell{suggest(name, found)}; `caml show` lists them")
    return found[name]


def unfinished(where: Places, stageruns: Sequence[StageRun], evaluation: str) -> list[StageRun]:
    """Those of `stageruns` that are not trained, not scored, or from other parameters than their parent's."""
    ledger = where.ledger
    return [
        s
        for s in stageruns
        if ledger.state(s.name) is not State.COMPLETE
        or ledger.evaluation_state(s.name, evaluation) is not State.COMPLETE
        or _orphaned(where, s)
    ]


def _orphaned(where: Places, stagerun: StageRun) -> bool:
    """Whether a complete StageRun started from other parameters than its complete parent has now."""
    ledger, parent = where.ledger, stagerun.parent
    if parent is None or ledger.state(parent.name) is not State.COMPLETE:
        return False
    return ledger.manifest(stagerun.name)["started_from"] != ledger.params_digest(parent.name)


def _launch(
    ablation: Ablation,
    grid: Sequence[Cell],
    where: Places,
    progress: Progress,
    stop: threading.Event,
    mirror: Mirror,
) -> Launch:
    configs = {}
    for cell in grid:
        for stagerun in cell.stageruns:
            if stagerun.fingerprint not in configs:
                configs[stagerun.fingerprint] = stagerun_text(ablation, stagerun)
        write_text(where.folder / "cells" / cell.file, cell.text(ablation))
    return Launch(
        where=where,
        stores=Stores(where),
        progress=progress,
        stop=stop,
        submit=mirror.submit,
        provenance=provenance(),
        configs=configs,
        control=" ".join(str(value) for value in ablation.control.values()),
        rung=next((contrast.rung for contrast in ablation.contrasts if contrast.primary), None),
        pace=pace(ablation.population, ablation.checkpoint_seconds),
    )


def _make(
    launch: Launch, all_of_them: Sequence[StageRun], wanted: Sequence[StageRun], runs: Sequence[Run]
) -> None:
    """Prepare data, then train and score population after population, parents before children.

    Populations are planned from the StageRuns of the whole ablation, so that they are the same in each launch.
    """
    populations, asked_for = [], set(wanted)
    for population in plan(all_of_them, launch.pace.places):
        members = tuple(member for member in population.members if member in asked_for)
        if members:
            populations.append(Population(members))
    held_out = {(run.probes.held_out(run.seed), run.seed, run.tokenizer, "chatml") for run in runs}
    if not launch.stores.prepare([*stores_of(wanted), *held_out], launch.progress, launch.stop):
        raise Stopped
    evaluators = Evaluators(launch, runs)
    for number, population in enumerate(populations, start=1):
        first = population.members[0]
        arms = ", ".join(sorted({member.arm for member in population.members}))
        launch.progress.say(
            f"population {number} of {len(populations)}: {first.stage.name}, size {first.model.name}, "
            f"{len(population.members)} members ({arms}), up to {max(m.steps for m in population.members)} steps"
        )
        _make_population(launch, population, evaluators)


def _make_population(launch: Launch, population: Population, evaluators: Evaluators) -> None:
    """Train and score one population; StageRuns that another launch holds are waited for, or taken over."""
    where, members = launch.where, population.members
    waited = False
    while unfinished(where, members, evaluators.fingerprint):
        if launch.stop.is_set():
            raise Stopped
        with acquire_all([where.ledger.folder(member.name) for member in members]) as leases:
            if not leases.refused:
                _train_and_score(launch, population, evaluators, leases)
                return
        if not waited:
            who = next(iter(leases.refused.values()))
            launch.progress.say(f"another launch ({who}) is working on this population; waiting for it")
            waited = True
        # Not in step with the other launch, or each could for ever find what the other has just taken.
        launch.stop.wait(WAIT * random.uniform(0.5, 1.5))


def _train_and_score(launch: Launch, population: Population, evaluators: Evaluators, leases: Leases) -> None:
    ledger = launch.where.ledger
    evaluator = evaluators.of(population.members[0])
    for member in population.members:
        if ledger.state(member.name) is State.COMPLETE and _orphaned(launch.where, member):
            aside = ledger.repair(member.name)
            launch.progress.say(f"the parent of {member.name} has other parameters now; moved to {aside}")
    sound = {member.name for member in population.members}
    while True:
        try:
            complete = train_population(launch, population, evaluator)
            break
        except Damaged as damaged:
            if damaged.name not in sound:
                raise
            # What a kill or a disk left behind is put aside, once. The checkpoints go with it: they are of
            # steps whose metrics are gone.
            sound.remove(damaged.name)
            _put_aside(ledger, damaged, launch.progress)
            discard(launch, population)
    if not complete:
        raise Stopped
    for folder in leases.held:
        leases.check(folder)
    score_missing(launch, evaluators, population.members)
    if launch.stop.is_set():
        raise Stopped


def _move_damaged_aside(
    where: Places, stageruns: Sequence[StageRun], evaluation: str, progress: Progress
) -> None:
    """Put aside every complete StageRun, or its scores, of which a file was altered: they are made again."""
    ledger = where.ledger
    for stagerun in sorted(stageruns, key=depth):
        name = stagerun.name
        if ledger.state(name) is State.MISSING:
            continue
        for scores in (None, evaluation):
            if _damage(ledger, name, scores):
                with acquire_all([ledger.folder(name)]) as leases:
                    # Whoever has the lease puts it aside: another launch may have done so in the meantime.
                    damaged = _damage(ledger, name, scores)
                    if damaged and not leases.refused:
                        _put_aside(ledger, damaged, progress)


def _damage(ledger: Ledger, name: str, evaluation: str | None) -> Damaged | None:
    """What is wrong with a StageRun, or with its scores by `evaluation`, every file read; None if nothing is."""
    there = ledger.state(name)
    if evaluation is None:
        return ledger.damage(name, content=True) if there in (State.COMPLETE, State.DAMAGED) else None
    if there is not State.COMPLETE or ledger.evaluation_state(name, evaluation) in (
        State.MISSING,
        State.STARTED,
    ):
        return None
    return ledger.damage(name, content=True, evaluation=evaluation)


def _put_aside(ledger: Ledger, damaged: Damaged, progress: Progress) -> None:
    aside = ledger.repair(damaged.name, damaged.evaluation)
    progress.say(f"{damaged.file} {damaged.wrong}; moved to {aside}, and it is made again")
