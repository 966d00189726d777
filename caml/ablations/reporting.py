"""Freezing an ablation's tables, analysing them, and writing its report."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from caml.ablations import freezing
from caml.ablations.condition import HEADLINE, PAGE, STAMP, Study, stamp
from caml.ablations.grid import Cell, write_cells
from caml.ablations.places import Places
from caml.ablations.prepare import Stores
from caml.ablations.progress import Progress
from caml.analysis import benchmarks
from caml.analysis import lock as locks
from caml.analysis import tables as frozen
from caml.analysis.report.methods import looks_sentence, machines_sentence, methods, resolution, tuned_on
from caml.analysis.report.page import Extras, headline, write_report
from caml.analysis.report.summary import write_summary
from caml.analysis.results import Results, analyse
from caml.analysis.tables import Tables
from caml.config.files import shown
from caml.config.fingerprint import NUMERICS_VERSION
from caml.data.corpora.corpus import Corpus
from caml.data.files import write_text
from caml.data.matching import Matched
from caml.models.compute import FLOAT32
from caml.models.sizes import Model
from caml.tracking.provenance import provenance

DOCUMENTS_SHOWN = 6
TOKENS_SHOWN = 600


def report(study: Study, progress: Progress, keep: tuple[Path, str] | None = None) -> tuple[list[str], Path]:
    """Freeze, analyse and draw; the headline and the page's path.

    `keep` is a folder for the result in short, and the command that asked for it.
    """
    ablation, where, statement = study.ablation, study.where, study.statement
    with progress.task("report", 3) as advance:
        advance(0, "frozen tables")
        write_cells(where.folder, ablation, study.grid)
        # Until the new report is whole there is none.
        (where.folder / STAMP).unlink(missing_ok=True)
        tables = freezing.gather(
            where.ledger, study.grid, study.evaluation, statement.gate, ablation.benchmarks
        )
        frozen.freeze(tables, where.folder / "tables")
        advance(1, "effects and intervals")
        lock = locks.take_look(where.lock, statement, sorted(set(tables.cells["seed"])))
        locked = locks.locked(lock, statement)
        results = analyse(tables, ablation.contrasts, ablation.control, gate=statement.gate, locked=locked)
        advance(2, "figures and page")
        extras = _extras(study, tables, results, lock, locked)
        of_benchmarks = benchmarks.estimated(tables, ablation.control, statement.gate)
        lost = benchmarks.unestimated(tables, of_benchmarks)
        extras = dataclasses.replace(extras, caveats=[*extras.caveats, *lost])
        path = write_report((where.folder / PAGE).parent, tables, results, extras, of_benchmarks)
        lines = [*headline(results), *extras.caveats]
        write_text(where.folder / HEADLINE, "\n".join(lines) + "\n")
        write_text(where.folder / STAMP, stamp(study, locks.read_lock(where.lock)))
        if keep is not None:
            write_summary(keep[0], results, path.parent, extras, keep[1])
        advance(3, str(path))
    return lines, path


def _commit(origin: Mapping[str, Any]) -> str:
    """The commit of a launch, and whether the working tree differed from it."""
    return f"{origin['commit']}{' (dirty)' if origin['dirty'] else ''}"


def _extras(
    study: Study, tables: Tables, results: Results, lock: locks.Lock | None, locked: dict[str, bool]
) -> Extras:
    ablation, grid, statement, ledger = study.ablation, study.grid, study.statement, study.where.ledger
    manifests = [ledger.manifest(name) for name in sorted(set(tables.stageruns["name"]))]
    launches = [manifest["launches"][-1] for manifest in manifests]
    here = provenance()
    return Extras(
        title=ablation.name,
        methods=methods(tables, ablation.control, statement.gate, _facts(grid, manifests)),
        resolution=resolution(results.effects, results.retention),
        documents=_documents(
            study.where, grid, dict(zip(tables.cells["cell"], tables.cells["variant"], strict=True))
        ),
        looks=[looks_sentence(lock.looks if lock else (), locked)],
        provenance={
            "ablation": ablation.name,
            "gin file": shown(study.loaded.path),
            "settings": [f"{b.parameter} = {b.value}" for b in study.loaded.text.altering()] or "none",
            "StageRuns": f"{len(tables.stageruns)}, by fingerprint in the frozen table stageruns",
            "probes and scorer": statement.probes,
            "grid": statement.grid,
            "commit": sorted({_commit(launch) for launch in launches}),
            "report drawn at commit": _commit(here),
            "machine": sorted(set(tables.stageruns["machine"])),
            "python": sorted({launch["python"] for launch in launches}),
            "versions": launches[-1]["packages"],
            "numerics": str(NUMERICS_VERSION),
        },
        caveats=[
            *tuned_on(sorted(set(tables.cells["seed"]) & set(ablation.development))),
            *machines_sentence(sorted(set(tables.stageruns["machine"]))),
        ],
        gate=statement.gate,
        frozen="../tables",
    )


def _facts(grid: Sequence[Cell], manifests: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What no table holds, a sentence a subject."""
    run = grid[0].run
    # By stage, each way in which the grid trains it.
    schedules: dict[str, dict[str, None]] = {}
    for stage in (stage for cell in grid for stage in cell.run.stages if stage.steps):
        optimizer, schedule = stage.optimizer, stage.schedule
        unused = "decay" if schedule.shape == "cosine" else ""
        told = (
            f"{optimizer.name} at a peak rate of {optimizer.rate:g} ({_fields(optimizer, 'rate')}), "
            f"{schedule.shape} ({_fields(schedule, unused)}), "
            f"{stage.batch} sequences of {stage.length} tokens a step"
        )
        if stage.preference:
            told += f", the preference loss of DPO with beta {stage.beta:g}, its reference the model it begins from"
        if stage.precision != FLOAT32.precision:
            told += f", products in {stage.precision}"
        if stage.target_tokens:
            told += (
                f", as a proxy of {stage.target_tokens:,} tokens that sees {stage.share:.3g} of each source, and each "
                "as many times over as that would"
            )
        schedules.setdefault(stage.name, {})[told] = None
    packages = manifests[-1]["launches"][-1]["packages"]
    tokens = sum(manifest["tokens"] for manifest in manifests)
    padding = sum(count["padding"] for manifest in manifests for count in manifest["sources"].values())
    base = run.stages[0].mixture.base
    return {
        "models": "; ".join(dict.fromkeys(_model(cell.run.model) for cell in grid)),
        "base text": f"{base.origin}, version {base.revision}, {base.licence} ({_fields(base, 'repetition')})",
        "tokenizer": f"{run.tokenizer.kind}, {run.tokenizer.vocabulary} entries, no unknown word in any text",
        "training": "; ".join(f"{name} {' or '.join(ways)}" for name, ways in schedules.items()),
        "cost": f"{tokens:,} tokens processed, {padding / tokens:.0%} of them padding, in "
        f"{training_time(manifests) / 60:.1f} minutes of training",
        "software": ", ".join(f"{name} {version}" for name, version in packages.items()),
    }


def _model(model: Model) -> str:
    tied = ", tied embeddings" if model.tied_embeddings else ""
    return f"{model.name}: {_fields(model)}{tied}"


def _fields(value: Any, *known: str) -> str:
    """The numbers of a configured dataclass in words, without those `known` already."""
    told = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in known}
    return ", ".join(
        f"{name.replace('_', ' ')} {given:g}"
        for name, given in told.items()
        if isinstance(given, (int, float)) and not isinstance(given, bool)
    )


def training_time(manifests: Sequence[dict[str, Any]]) -> float:
    """Seconds in which at least one of the StageRuns was in training, on however many machines."""
    total, reached = 0.0, 0.0
    for started, finished in sorted((m["started"], m["finished"]) for m in manifests):
        total += max(0.0, finished - max(started, reached))
        reached = max(reached, finished)
    return total / 1000


def _first_texts(where: Places, cell: Cell, source: Any) -> tuple[str, ...]:
    """The first documents of an arm; of a corpus those of its store, which a matched control is in step with."""
    if not isinstance(source, (Corpus, Matched)):
        return tuple(map(str, islice(source.documents(cell.run.seed), DOCUMENTS_SHOWN)))
    stores, recipe = Stores(where), cell.run.tokenizer
    template = cell.stageruns[0].stage.mixture.template
    store, tokenizer = stores.open(source, cell.run.seed, recipe, template), stores.tokenizer(recipe)
    bounds = store.bounds[: DOCUMENTS_SHOWN + 1]
    ends = [min(int(end), int(begin) + TOKENS_SHOWN) for begin, end in itertools.pairwise(bounds)]
    return tuple(
        tokenizer.decode(store.tokens(np.arange(begin, end)).tolist())
        for begin, end in zip(bounds, ends, strict=False)
    )


def _documents(where: Places, grid: Sequence[Cell], variants: Mapping[str, str]) -> dict[str, list[str]]:
    """The first documents of every arm in the first seed block, side by side.

    An arm whose documents differ between `variants` (cell -> variant) has an entry for each kind of them, under
    what the variants of its cells have in common.
    """
    seed = min(cell.run.seed for cell in grid)
    users: dict[Any, list[str]] = {}
    of: dict[Any, Cell] = {}
    for cell in grid:
        mixture = cell.stageruns[0].stage.mixture
        if cell.run.seed == seed and mixture.ratio > 0 and mixture.intervention is not None:
            users.setdefault(mixture.intervention, []).append(variants[cell.id])
            of[mixture.intervention] = cell
    found: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for source, told in users.items():
        texts = _first_texts(where, of[source], source)
        found.setdefault(source.name, {}).setdefault(texts, []).extend(told)
    shown: dict[str, list[str]] = {}
    for arm, kinds in found.items():
        for texts, told in kinds.items():
            common = [
                part for part in told[0].split(", ") if part and all(part in t.split(", ") for t in told)
            ]
            name = ", ".join([arm, *common]) if len(kinds) > 1 else arm
            again = sum(other == name or other.startswith(f"{name} (") for other in shown)
            shown[f"{name} ({again + 1})" if again else name] = list(texts)
    return shown
