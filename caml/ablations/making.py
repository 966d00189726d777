"""Making what is missing of an ablation: stores, then population after population, trained and scored."""

import dataclasses
import functools
import random
import threading
from collections.abc import Callable, Sequence

from caml.ablations.condition import Study, orphaned, put_aside, unfinished
from caml.ablations.grid import stagerun_text, used_stageruns, write_cells
from caml.ablations.inflight import discard
from caml.ablations.populations import Population, depth, plan
from caml.ablations.prepare import Stores, stores_of
from caml.ablations.progress import Progress, Stopped
from caml.ablations.runs import StageRun
from caml.ablations.scorer import Evaluators, score_missing
from caml.ablations.trainer import Launch, beside, layout, pace, together, train_population
from caml.config.text import counted
from caml.tracking.lease import Leases, acquire_all
from caml.tracking.ledger import State
from caml.tracking.markers import Damaged
from caml.tracking.mirror import Mirror
from caml.tracking.provenance import provenance
from caml.training.layouts import Unfit
from caml.training.pacing import Pace
from caml.training.profiling import PASSED, Profile
from caml.training.programs import compiled

# Seconds between looks at StageRuns that another launch is training.
WAIT = 2.0


def planned(study: Study, wanted: Sequence[StageRun], say: Callable[[str], None]) -> list[Population]:
    """The populations of the whole ablation, so that those with one of `wanted` to train are the same in each launch.

    Raises UserError where they cannot be laid out as is asked. Nothing is written. `say` is told what takes long.
    """
    stageruns, members = used_stageruns(study.whole), study.ablation.population
    paced, due = _pace(study), _to_train(study, wanted)
    try:
        populations = plan(
            stageruns,
            together=functools.partial(together, paced, members, due, say),
            beside=functools.partial(beside, paced),
        )
        for population in populations:
            layout(paced, population)
    except Unfit as unfit:
        raise study.loaded.fault(str(unfit), (study.ablation.execution, unfit.field)) from unfit
    return populations


def _to_train(study: Study, wanted: Sequence[StageRun]) -> set[StageRun]:
    """Those of `wanted` that are not trained, or whose parent may come out otherwise."""
    due: set[StageRun] = set()
    for stagerun in sorted(wanted, key=depth):
        there = study.where.ledger.state(stagerun.name) is State.COMPLETE
        if stagerun.steps and (not there or stagerun.parent in due or orphaned(study.where, stagerun)):
            due.add(stagerun)
    return due


def make(
    study: Study,
    populations: Sequence[Population],
    wanted: Sequence[StageRun],
    progress: Progress,
    stop: threading.Event,
    mirror: Mirror,
    profile: bool,
) -> int:
    """Prepare data, then train and score what is missing of `wanted`, parents before children.

    `populations`: those of the whole ablation, as `planned`. Returns how many StageRuns were made here, and not by
    another launch beside this one. Raises `Stopped` where `stop` was set. `profile`: a few dispatches of training are
    traced.
    """
    launch = _launch(study, progress, stop, mirror, profile)
    asked_for, todo = set(wanted), []
    for population in populations:
        members = tuple(member for member in population.members if member in asked_for)
        if members:
            todo.append(dataclasses.replace(population, members=members))
    runs = [cell.run for cell in study.whole]
    held_out = {(run.probes.held_out(run.seed), run.seed, run.tokenizer, "chatml") for run in runs}
    if not launch.stores.prepare([*stores_of(wanted), *held_out], launch.progress, launch.stop):
        raise Stopped
    # What only the stores can tell, of every stage, is told before the first of them is trained.
    for stagerun in wanted:
        if stagerun.steps and study.where.ledger.state(stagerun.name) is not State.COMPLETE:
            launch.stores.data(stagerun)
    evaluators = Evaluators(launch, runs)
    made = 0
    for number, population in enumerate(todo, start=1):
        first = population.members[0]
        arms = ", ".join(sorted({member.arm for member in population.members}))
        launch.progress.say(
            f"population {number} of {len(todo)}: {first.stage.name}, size {first.model.name}, "
            f"{counted(len(population.members), 'member')} ({arms}), "
            f"up to {counted(max(m.steps for m in population.members), 'step')}"
        )
        made += _make_population(launch, population, evaluators)
    count, seconds = compiled()
    if count:
        progress.say(f"compiled {counted(count, 'program')} for training in all, in {seconds:.1f} s")
    if launch.profile and not launch.profile.begun:
        progress.say(
            f"no profile was written: nothing was left to train, or in fewer than {PASSED + 1} dispatches"
        )
    return made


def _pace(study: Study) -> Pace:
    return pace(study.ablation.checkpoint_seconds, study.ablation.execution)


def _launch(study: Study, progress: Progress, stop: threading.Event, mirror: Mirror, profile: bool) -> Launch:
    ablation, where = study.ablation, study.where
    write_cells(where.folder, ablation, study.whole)
    return Launch(
        where=where,
        stores=Stores(where),
        progress=progress,
        stop=stop,
        submit=mirror.submit,
        provenance=provenance(),
        configs={s.fingerprint: stagerun_text(ablation, s) for s in used_stageruns(study.whole)},
        control=" ".join(str(value) for value in ablation.control.values()),
        rung=next((contrast.rung for contrast in ablation.contrasts if contrast.primary), None),
        pace=_pace(study),
        profile=Profile(where.profile, progress.say) if profile else None,
    )


def _make_population(launch: Launch, population: Population, evaluators: Evaluators) -> int:
    """Train and score one population; StageRuns that another launch holds are waited for, or taken over.

    Returns how many were made here.
    """
    where, members = launch.where, population.members
    waited = False
    while missing := unfinished(where, members, evaluators.fingerprint):
        if launch.stop.is_set():
            raise Stopped
        with acquire_all([where.ledger.folder(member.name) for member in members]) as leases:
            if not leases.refused:
                _train_and_score(launch, population, evaluators, leases)
                return len(missing)
        if not waited:
            who = next(iter(leases.refused.values()))
            launch.progress.say(f"another launch ({who}) is working on this population; waiting for it")
            waited = True
        # Not in step with the other launch, or each could for ever find what the other has just taken.
        launch.stop.wait(WAIT * random.uniform(0.5, 1.5))
    return 0


def _train_and_score(launch: Launch, population: Population, evaluators: Evaluators, leases: Leases) -> None:
    ledger = launch.where.ledger
    evaluator = evaluators.of(population.members[0])
    for member in population.members:
        if ledger.state(member.name) is State.COMPLETE and orphaned(launch.where, member):
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
            put_aside(ledger, damaged, launch.progress)
            discard(launch.where, population)
    if not complete:
        raise Stopped
    for folder in leases.held:
        leases.check(folder)
    score_missing(launch, evaluators, population.members, population.places)
    if launch.stop.is_set():
        raise Stopped
