"""What can be asked of an ablation without training: lock it, report it again, its power, its mirror."""

import math
from pathlib import Path

from caml.ablations import reporting
from caml.ablations.condition import study_of, unfinished
from caml.ablations.grid import used_stageruns
from caml.ablations.places import named_below
from caml.ablations.progress import Progress
from caml.analysis import lock as locks
from caml.analysis import tables as frozen
from caml.analysis.contrasts import FEWEST_SEEDS
from caml.analysis.power import POWER, power_table
from caml.analysis.results import analyse
from caml.config.errors import Failure, UserError
from caml.config.files import shown
from caml.config.resolve import Loaded
from caml.config.text import counted
from caml.tracking.ledger import State
from caml.tracking.sync import sync

POWER_HEADINGS = (
    "contrast",
    "claim",
    "seeds",
    "sd [95%], nats",
    "level",
    "finds, nats",
    "asked, nats",
    "seeds needed",
)
POWER_NUMBERS = (("level", 4), ("smallest", 2), ("wanted", 2), ("seeds_needed", 0))
POWER_NOTE = (
    f"finds: the smallest effect that these seeds find with {POWER:.0%} power at the level; of a claim of "
    "equivalence the smallest margin. asked: --effect, or the contrast's own margin. "
    f"A claim takes {FEWEST_SEEDS} seeds at least."
)


def _refuse_parts(loaded: Loaded) -> None:
    """Raise UserError where a setting leaves a part of the grid."""
    for name, value in loaded.restrictions.items():
        raise UserError(
            f"--set {name}={value}: {name} is an axis, and this command is of the whole grid; leave it out"
        )


def lock_statement(loaded: Loaded) -> str:
    """Lock the ablation's statement; a sentence on what was locked."""
    _refuse_parts(loaded)
    study = study_of(loaded)
    ledger = study.where.ledger
    scored = [
        s.name
        for s in used_stageruns(study.grid)
        if ledger.state(s.name) is State.COMPLETE
        and ledger.evaluation_state(s.name, study.evaluation) is State.COMPLETE
    ]
    study.claim()
    lock = locks.write_lock(study.where.lock, study.statement, scored)
    contrasts = counted(len(study.statement.contrasts), "contrast")
    return f"{study.ablation.name}: {contrasts} locked at {lock.at} in {study.where.lock}"


def report_again(loaded: Loaded, progress: Progress, keep: Path | None = None) -> tuple[list[str], Path]:
    """Freeze, analyse and draw a finished ablation anew; `keep` is a folder for the result in short.

    Raises UserError where something is missing.
    """
    _refuse_parts(loaded)
    if keep and keep.exists() and not keep.is_dir():
        raise UserError(f"--keep {shown(keep)}: this is a file; name a folder")
    study = study_of(loaded)
    ledger = study.where.ledger
    missing = unfinished(study.where, used_stageruns(study.grid), study.evaluation)
    for name in (s.name for s in missing):
        trained = ledger.state(name)
        scored = ledger.evaluation_state(name, study.evaluation) if trained is State.COMPLETE else trained
        if State.DAMAGED in (trained, scored):
            raise Failure(
                f"{ledger.folder(name)} is damaged: `caml run {loaded.arguments}` puts it aside and makes it again"
            )
    if missing:
        raise UserError(
            f"not trained and scored yet: {counted(len(missing), 'StageRun')} of {study.ablation.name}, such as "
            f"{missing[0].name}: `caml run {loaded.arguments}` first"
        )
    study.claim()
    if keep:
        try:
            keep.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--keep {shown(keep)}: {error.strerror}; name a folder that can be written"
            ) from None
    short = (keep, f"caml report {loaded.arguments} --keep {shown(keep)}") if keep else None
    with named_below(study.where):
        return reporting.report(study, progress, keep=short)


def power_lines(loaded: Loaded, effect: float | None) -> list[str]:
    """A table in lines: for each contrast what its seeds resolve, and how many an effect needs."""
    if effect is not None and not (math.isfinite(effect) and effect > 0):
        raise UserError(
            f"--effect {effect:g}: an effect in nats, above 0, on the side that the contrast claims"
        )
    study = study_of(loaded)
    folder = study.where.folder
    if not (folder / "tables").exists():
        raise UserError(
            f"{folder} has no results to take a variance from: `caml run {loaded.arguments}` first"
        )
    tables = frozen.load(folder / "tables")
    results = analyse(tables, study.ablation.contrasts, study.ablation.control, gate=study.statement.gate)
    table = power_table(results.effects, effect)
    if table.empty:
        raise UserError(f"{loaded.path} states no contrast; power is told of contrasts")
    rows: list[tuple[str, ...]] = [POWER_HEADINGS]
    for row in table.to_dict("records"):
        low, high = _number(row["sd_low"], 2), _number(row["sd_high"], 2)
        spread = f"{_number(row['sd'], 2)} [{low}, {high}]" if row["seeds"] > 1 else "–"
        numbers = [_number(row[part], digits) for part, digits in POWER_NUMBERS]
        rows.append((str(row["contrast"]), str(row["claim"]), str(row["seeds"]), spread, *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) for row in rows]
    return [*(line.rstrip() for line in lines), "", POWER_NOTE]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def sync_ablation(loaded: Loaded, progress: Progress) -> str:
    """Bring to the tracking store what it lacks; a sentence on what was done."""
    study = study_of(loaded)
    ablation, where = study.ablation, study.where
    names = [s.name for s in used_stageruns(study.grid)]
    if all(where.ledger.state(name) is State.MISSING for name in names):
        raise UserError(
            f"{where.output} holds nothing of {ablation.name} yet: `caml run {loaded.arguments}` first"
        )
    with progress.task("tracking store", len(names)) as advance:
        done = sync(
            where.ledger,
            ablation.tracking or where.tracking,
            ablation.name,
            names,
            progress=lambda now, total: advance(now, f"{now} of {total} StageRuns"),
        )
    points = counted(done.points, "point")
    return f"{counted(done.brought, 'StageRun')} brought up to date with {points}, {done.there} there before"
