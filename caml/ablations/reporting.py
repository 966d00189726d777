"""Freezing an ablation's tables, analysing them, and writing its report."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from caml.ablations import freezing
from caml.ablations.grid import Cell
from caml.ablations.places import Places
from caml.ablations.progress import Progress
from caml.ablations.runs import Ablation
from caml.analysis import lock as locks
from caml.analysis import tables as frozen
from caml.analysis.methods import looks_sentence, methods, resolution
from caml.analysis.report import Extras, headline, write_report
from caml.analysis.results import Results, analyse
from caml.analysis.summary import write_summary
from caml.analysis.tables import Tables
from caml.config.fingerprint import NUMERICS_VERSION
from caml.data.files import write_text
from caml.tracking.ledger import Ledger

DOCUMENTS_SHOWN = 6


def report(
    where: Places,
    ablation: Ablation,
    grid: Sequence[Cell],
    statement: locks.Statement,
    evaluation: str,
    progress: Progress,
    changed: bool = True,
    keep: Path | None = None,
) -> tuple[list[str], Path]:
    """Freeze, analyse and draw; the headline and the page's path.

    Where nothing `changed` since a whole report was written, that one is used. `keep` is a folder for the
    result in short.
    """
    page = where.folder / "report" / "index.html"
    kept = where.folder / "headline.txt"
    if not changed and page.exists() and kept.exists() and _current(where, grid, statement):
        return kept.read_text().splitlines(), page
    stamp = where.folder / "reported.txt"
    with progress.task("report", 3) as advance:
        advance(0, "frozen tables")
        # Until the new report is whole there is none.
        stamp.unlink(missing_ok=True)
        tables = freezing.gather(where.ledger, grid, evaluation, statement.gate)
        frozen.freeze(tables, where.folder / "tables")
        advance(1, "effects and intervals")
        lock = locks.take_look(where.lock, sorted(set(tables.cells["seed"])))
        locked = locks.locked(lock, statement)
        results = analyse(tables, ablation.contrasts, ablation.control, gate=statement.gate, locked=locked)
        advance(2, "figures and page")
        extras = _extras(where.ledger, ablation, grid, tables, results, statement, lock, locked)
        path = write_report(where.folder / "report", tables, results, extras)
        lines = headline(results)
        write_text(kept, "\n".join(lines) + "\n")
        write_text(stamp, _stamp(grid, statement))
        if keep is not None:
            drawn_by = f"caml report {where.name}.gin --keep {keep}"
            write_summary(keep, results, path.parent, extras.methods, drawn_by)
        advance(3, str(path))
    return lines, path


def _stamp(grid: Sequence[Cell], statement: locks.Statement) -> str:
    """What a report is of: its StageRuns and its statement."""
    return "\n".join([*sorted({s.fingerprint for c in grid for s in c.stageruns}), repr(statement)])


def _current(where: Places, grid: Sequence[Cell], statement: locks.Statement) -> bool:
    stamp = where.folder / "reported.txt"
    return stamp.exists() and stamp.read_text() == _stamp(grid, statement)


def _extras(
    ledger: Ledger,
    ablation: Ablation,
    grid: Sequence[Cell],
    tables: Tables,
    results: Results,
    statement: locks.Statement,
    lock: locks.Lock | None,
    locked: dict[str, bool],
) -> Extras:
    launches = [ledger.manifest(name)["launches"][-1] for name in sorted(set(tables.stageruns["name"]))]
    return Extras(
        title=ablation.name,
        methods=methods(tables, ablation.control, statement.gate, _facts(grid, launches)),
        resolution=resolution(results.effects),
        documents=_documents(grid),
        looks=[looks_sentence(lock.looks if lock else (), locked)],
        provenance={
            "ablation": ablation.name,
            "StageRuns": f"{len(tables.stageruns)}, by fingerprint in the frozen table stageruns",
            "probes and scorer": statement.probes,
            "grid": statement.grid,
            "commit": sorted(
                {f"{launch['commit']}{' (dirty)' if launch['dirty'] else ''}" for launch in launches}
            ),
            "machine": sorted(set(tables.stageruns["machine"])),
            "python": sorted({launch["python"] for launch in launches}),
            "versions": launches[-1]["packages"],
            "numerics": str(NUMERICS_VERSION),
        },
        frozen="../tables",
    )


def _facts(grid: Sequence[Cell], launches: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What no table holds, a sentence a subject."""
    run = grid[0].run
    stages = {stage.name: stage for cell in grid for stage in cell.run.stages if stage.steps}
    schedules = [
        f"{name} {stage.optimizer.name} at a peak rate of {stage.optimizer.rate:g}, {stage.schedule.shape}, "
        f"{stage.batch} sequences of {stage.length} tokens a step"
        for name, stage in stages.items()
    ]
    packages = launches[-1]["packages"]
    base = run.stages[0].mixture.base
    return {
        "base text": f"{base.origin}, version {base.revision}, {base.licence}",
        "tokenizer": f"{run.tokenizer.kind}, {run.tokenizer.vocabulary} entries, no unknown word in any text",
        "training": "; ".join(schedules),
        "software": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }


def _documents(grid: Sequence[Cell]) -> dict[str, list[str]]:
    """The first documents of every arm in the first seed block, side by side."""
    shown: dict[str, list[str]] = {}
    seed = min(cell.run.seed for cell in grid)
    for cell in grid:
        mixture = cell.stageruns[0].stage.mixture
        source = mixture.intervention
        if cell.run.seed == seed and mixture.ratio > 0 and source is not None and source.name not in shown:
            texts = islice(source.documents(seed), DOCUMENTS_SHOWN)
            shown[source.name] = [t if isinstance(t, str) else str(t) for t in texts]
    return shown
