"""What of an ablation is there already: what is unfinished, what was damaged, and whether its report is current."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caml.ablations.grid import Cell, recipes, restricted, used_stageruns, whole_grid
from caml.ablations.places import Places, claim, places, taken
from caml.ablations.populations import depth
from caml.ablations.progress import Progress
from caml.ablations.runs import Ablation, StageRun
from caml.analysis.files import verify
from caml.analysis.lock import Lock, Statement, read_lock, state
from caml.config.errors import Failure
from caml.config.files import shown
from caml.config.fingerprint import fingerprint
from caml.config.resolve import Loaded
from caml.evals.identity import evaluation_fingerprint
from caml.tracking.lease import acquire_all
from caml.tracking.ledger import Ledger, State
from caml.tracking.markers import Damaged

# Below an ablation's folder: the report, its headline, and what it is of, which is written last.
PAGE, HEADLINE, STAMP = "report/index.html", "headline.txt", "reported.txt"


def unfinished(where: Places, stageruns: Sequence[StageRun], evaluation: str) -> list[StageRun]:
    """Those of `stageruns` that are not trained, not scored, or from other parameters than their parent's."""
    ledger = where.ledger
    return [
        s
        for s in stageruns
        if ledger.state(s.name) is not State.COMPLETE
        or ledger.evaluation_state(s.name, evaluation) is not State.COMPLETE
        or orphaned(where, s)
    ]


def orphaned(where: Places, stagerun: StageRun) -> bool:
    """Whether a complete StageRun started from other parameters than its complete parent has now."""
    ledger, parent = where.ledger, stagerun.parent
    if parent is None or ledger.state(parent.name) is not State.COMPLETE:
        return False
    return ledger.manifest(stagerun.name)["started_from"] != ledger.params_digest(parent.name)


def move_damaged_aside(
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
                        put_aside(ledger, damaged, progress)


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


def put_aside(ledger: Ledger, damaged: Damaged, progress: Progress) -> None:
    """Move what was damaged out of the way, and say so."""
    aside = ledger.repair(damaged.name, damaged.evaluation)
    progress.say(f"{damaged.file} {damaged.wrong}; moved to {aside}, and it is made again")


@dataclass(frozen=True)
class Study:
    """An ablation as a gin file gives it: its cells, its places, and what it states before results exist.

    `grid` are the cells that are asked for, of `whole`, to which the statement belongs.
    """

    loaded: Loaded
    ablation: Ablation
    whole: list[Cell]
    grid: list[Cell]
    where: Places
    evaluation: str
    statement: Statement

    @property
    def identity(self) -> str:
        """What it trains and what it states: a line for each StageRun, and one for the statement."""
        stageruns = sorted(stagerun.fingerprint for stagerun in used_stageruns(self.whole))
        return "\n".join([*stageruns, repr(self.statement)])

    def claim(self) -> list[Path]:
        """Make the ablation's folder, and note that it has the results of this file; returns what was not there before.

        Raises UserError where it cannot be written, Failure where the disk is full.
        """
        return claim(self.where, self.loaded.path, fingerprint(self.identity))


def study_of(loaded: Loaded) -> Study:
    """The study of a loaded ablation, wholly checked.

    Raises UserError for what is wrong with its grid, and where its folder has the results of another file.
    """
    ablation: Ablation = loaded.tree
    whole, where = whole_grid(loaded), places(ablation)
    probes = whole[0].run.probes
    evaluation = evaluation_fingerprint(probes)
    statement = state(
        ablation.contrasts, ablation.axes, ablation.control, recipes(whole), evaluation, probes.gate
    )
    study = Study(loaded, ablation, whole, restricted(loaded, whole), where, evaluation, statement)
    other = taken(where, loaded.path, fingerprint(study.identity))
    if other:
        message = f"{shown(where.folder)} has the results of {shown(other)}, another grid or statement"
        raise loaded.fault(f"{message}; take another name, or remove that folder", (ablation, "name"))
    return study


def kept_report(study: Study, progress: Progress) -> tuple[list[str], Path] | None:
    """Headline and page of the report that is there, every file of it as it was written.

    None where there is none of this grid and statement; what was altered is named. Raises Failure for a lock
    that was altered.
    """
    where = study.where
    lock = read_lock(where.lock)
    page, headline, written = (where.folder / name for name in (PAGE, HEADLINE, STAMP))
    if not written.exists():
        return None
    for lost in (page, headline):
        if not lost.exists():  # it was there when the stamp was written
            progress.say(f"{lost} is missing; tables and report are written anew")
            return None
    try:
        if written.read_text() != stamp(study, lock):
            return None
        for folder in (where.folder / "tables", page.parent / "tables", page.parent):
            verify(folder)
        return headline.read_text().splitlines(), page
    except Failure as failure:
        progress.say(f"{str(failure).split(': ')[0]}; tables and report are written anew")
    except UnicodeDecodeError:
        progress.say(f"what is noted of the report in {where.folder} was altered; it is written anew")
    return None


def stamp(study: Study, lock: Lock | None) -> str:
    """What a report is of: its StageRuns, its statement, what was locked when, and the benchmarks that were sat."""
    asked = [fingerprint(benchmark) for benchmark in study.ablation.benchmarks]
    return "\n".join([study.identity, repr((lock.at, lock.statement) if lock else None), *asked])
