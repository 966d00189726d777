"""What can be asked of an ablation without training: lock it, report it again, its power, its mirror."""

import math
from pathlib import Path

from caml.ablations import reporting
from caml.ablations.condition import statement_of, unfinished
from caml.ablations.grid import Cell, cells, used_stageruns
from caml.ablations.places import Places, make_writable, named_below, places
from caml.ablations.progress import Progress
from caml.ablations.runs import Ablation
from caml.analysis import lock as locks
from caml.analysis import tables as frozen
from caml.analysis.contrasts import FEWEST_SEEDS
from caml.analysis.power import POWER, power_table
from caml.analysis.results import analyse
from caml.config.errors import Failure, UserError
from caml.config.files import shown
from caml.config.resolve import Loaded
from caml.config.text import counted
from caml.evals.identity import evaluation_fingerprint
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
POWER_NUMBERS = (("level", 4), ("smallest_effect", 2), ("wanted", 2), ("seeds_needed", 0))
POWER_NOTE = (
    f"finds: the smallest effect that these seeds find with {POWER:.0%} power at the level. asked: --effect, or the "
    f"contrast's own margin. A claim takes {FEWEST_SEEDS} seeds at least."
)


def _known(loaded: Loaded) -> tuple[Ablation, list[Cell], Places, str, locks.Statement]:
    ablation: Ablation = loaded.tree
    grid = cells(loaded)
    evaluation = evaluation_fingerprint(grid[0].run.probes)
    return ablation, grid, places(ablation), evaluation, statement_of(ablation, grid, evaluation)


def _refuse_parts(loaded: Loaded) -> None:
    """Raise UserError where a setting leaves a part of the grid."""
    for name, value in loaded.restrictions.items():
        raise UserError(
            f"--set {name}={value}: {name} is an axis, and this command is of the whole grid; leave it out"
        )


def lock_statement(loaded: Loaded) -> str:
    """Lock the ablation's statement; a sentence on what was locked."""
    _refuse_parts(loaded)
    ablation, grid, where, evaluation, statement = _known(loaded)
    scored = [
        s.name
        for s in used_stageruns(grid)
        if where.ledger.state(s.name) is State.COMPLETE
        and where.ledger.evaluation_state(s.name, evaluation) is State.COMPLETE
    ]
    make_writable(where)
    lock = locks.write_lock(where.lock, statement, scored)
    return f"{ablation.name}: {counted(len(statement.contrasts), 'contrast')} locked at {lock.at} in {where.lock}"


def report_again(loaded: Loaded, progress: Progress, keep: Path | None = None) -> tuple[list[str], Path]:
    """Freeze, analyse and draw a finished ablation anew; `keep` is a folder for the result in short.

    Raises UserError where something is missing.
    """
    _refuse_parts(loaded)
    if keep and keep.exists() and not keep.is_dir():
        raise UserError(f"--keep {shown(keep)}: this is a file; name a folder")
    ablation, grid, where, evaluation, statement = _known(loaded)
    missing = unfinished(where, used_stageruns(grid), evaluation)
    for name in (s.name for s in missing):
        trained = where.ledger.state(name)
        scored = where.ledger.evaluation_state(name, evaluation) if trained is State.COMPLETE else trained
        if State.DAMAGED in (trained, scored):
            raise Failure(
                f"{where.ledger.folder(name)} is damaged: `caml run {loaded.path}` puts it aside and makes it again"
            )
    if missing:
        raise UserError(
            f"not trained and scored yet: {counted(len(missing), 'StageRun')} of {ablation.name}, such as "
            f"{missing[0].name}: `caml run {loaded.path}` first"
        )
    make_writable(where)
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
    short = (keep, f"caml report {shown(loaded.path)} --keep {shown(keep)}") if keep else None
    with named_below(where):
        return reporting.report(where, ablation, grid, statement, evaluation, progress, keep=short)


def power_lines(loaded: Loaded, effect: float | None) -> list[str]:
    """A table in lines: for each contrast what its seeds resolve, and how many an effect needs."""
    if effect is not None and not (math.isfinite(effect) and effect > 0):
        raise UserError(
            f"--effect {effect:g}: an effect in nats, above 0, on the side that the contrast claims"
        )
    ablation, _, where, _, statement = _known(loaded)
    if not (where.folder / "tables").exists():
        raise UserError(
            f"{where.folder} has no results to take a variance from: `caml run {loaded.path}` first"
        )
    tables = frozen.load(where.folder / "tables")
    results = analyse(tables, ablation.contrasts, ablation.control, gate=statement.gate)
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
    ablation, grid, where, _, _ = _known(loaded)
    names = [s.name for s in used_stageruns(grid)]
    if all(where.ledger.state(name) is State.MISSING for name in names):
        raise UserError(
            f"{where.output} holds nothing of {ablation.name} yet: `caml run {loaded.path}` first"
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
