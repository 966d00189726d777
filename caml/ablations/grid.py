"""From an ablation's axes to its cells, and from these to the StageRuns that they share."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caml.ablations import pairing
from caml.ablations.feasible import Feasible
from caml.ablations.runs import Ablation, Run, Stage, StageRun, stageruns
from caml.config import checks
from caml.config.errors import UserError
from caml.config.files import show, suggest
from caml.config.resolve import Loaded
from caml.config.write import write
from caml.data.files import write_text

AXES = "axes"  # the field of Ablation that varies macros; `caml.config.resolve.load` is told its name


@dataclasses.dataclass(frozen=True)
class Cell:
    """One point of the grid: a value for each axis macro, the run that they give, and its StageRuns."""

    id: str
    macros: dict[str, Any]
    run: Run
    stageruns: tuple[StageRun, ...]

    @property
    def values(self) -> dict[str, Any]:
        """The axis values as tables hold them: an object by its name."""
        return {name: plain(value) for name, value in self.macros.items()}

    def text(self, ablation: Ablation) -> str:
        """Gin text of this cell as an ablation of its own, without axes and contrasts: it runs alone."""
        return write(_alone(ablation, self.run, self.stageruns[-1]))

    @property
    def file(self) -> str:
        """The name of the gin file that `text` is written to: the id, in characters that every disk takes."""
        plain_id = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", self.id)[:200]
        mark = "" if plain_id == self.id else f"-{self.stageruns[-1].fingerprint[:12]}"
        return f"{plain_id}{mark}.gin"


def _alone(ablation: Ablation, run: Run, last: StageRun) -> Ablation:
    """An ablation of one run, with a name and so a report of its own."""
    name = f"{ablation.name[:100]}-{last.fingerprint[:12]}"
    return dataclasses.replace(ablation, name=name, run=run, axes={}, contrasts=(), control={})


def stagerun_text(ablation: Ablation, stagerun: StageRun) -> str:
    """Gin text of an ablation that trains this StageRun and its parents, and nothing else."""
    stages: list[Stage] = []
    ancestor: StageRun | None = stagerun
    while ancestor:
        stages.insert(0, ancestor.stage)
        ancestor = ancestor.parent
    probes = ablation.run.probes
    initial = stagerun.root.initial
    run = Run(stagerun.model, stagerun.tokenizer, tuple(stages), probes, stagerun.seed, initial)
    return write(dataclasses.replace(_alone(ablation, run, stagerun), benchmarks=()))


def cells(loaded: Loaded) -> list[Cell]:
    """The cells of a loaded ablation, as of `whole_grid`; a setting of an axis keeps only those of that value."""
    return restricted(loaded, whole_grid(loaded))


def whole_grid(loaded: Loaded) -> list[Cell]:
    """The cells of a loaded ablation, in the order of its axes, without duplicates.

    StageRuns of the same fingerprint are one object. Settings of axis macros are left aside. Raises UserError,
    with file, line and value, for whatever makes a cell, an axis or a contrast impossible, and for a line that no
    cell reads.
    """
    ablation: Ablation = loaded.tree
    products = _products(loaded, ablation)
    names = list(dict.fromkeys(name for product in products for name in product))
    defaults = {name: loaded.macro(name) for name in names}
    loaded.forget()  # From here on it counts what the cells read, and not what the file's own values did.
    shared: dict[str, StageRun] = {}
    found: dict[tuple[Any, ...], Cell] = {}
    feasible = Feasible(loaded)
    for product in products:
        for values in itertools.product(*product.values()):
            bound = dict(zip(product, values, strict=True))
            macros = {name: bound.get(name, defaults[name]) for name in names}
            key = tuple(plain(value) for value in macros.values())
            if key not in found:
                run = loaded.at(bound, "run") if found else loaded.at(bound).run
                feasible.require(run)
                chain = _shared_chain(run, shared)
                name = ",".join(f"{n.lower()}={v}" for n, v in zip(names, key, strict=True)) or ablation.name
                found[key] = Cell(name, macros, run, chain)
    whole = list(found.values())
    pairing.refuse_unpaired(loaded, ablation, [(cell.values, cell.stageruns[-1]) for cell in whole])
    _refuse_unread(loaded)
    _refuse_idle(loaded, whole)
    return whole


def plain(value: Any) -> Any:
    """An axis value as tables and cell ids hold it: an object by its name."""
    named = _named(value)
    return named if isinstance(named, (str, int, float)) else str(named)


def _named(value: Any) -> Any:
    """`value`, or the name of an object."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return getattr(value, "name", None) or type(value).__name__
    return value


def write_cells(folder: Path, ablation: Ablation, grid: Sequence[Cell]) -> list[Path]:
    """Write every cell below `folder`, an ablation's, as a gin file that runs alone; those that were other before."""
    altered = []
    for cell in grid:
        path, text = folder / "cells" / cell.file, cell.text(ablation)
        if path.exists() and path.read_bytes() == text.encode():
            continue
        if path.exists():
            altered.append(path)
        write_text(path, text)
    return altered


def recipes(cells: Sequence[Cell]) -> list[str]:
    """Fingerprints of all that `cells` train, as it were in seed block 0: a seed is no part of a statement."""
    runs = dict.fromkeys(dataclasses.replace(cell.run, seed=0) for cell in cells)
    return sorted({stagerun.fingerprint for run in runs for stagerun in stageruns(run)})


def used_stageruns(cells: Sequence[Cell]) -> list[StageRun]:
    """Every StageRun on the way of a cell, each once, parents first."""
    return list(dict.fromkeys(s for cell in cells for s in cell.stageruns))


def _shared_chain(run: Run, shared: dict[str, StageRun]) -> tuple[StageRun, ...]:
    """The StageRuns of a run, each the one that is in `shared` already where there is one."""
    chain: list[StageRun] = []
    for stagerun in stageruns(run):
        own = dataclasses.replace(stagerun, parent=chain[-1] if chain else None)
        chain.append(shared.setdefault(own.fingerprint, own))
    return tuple(chain)


def _products(loaded: Loaded, ablation: Ablation) -> list[dict[str, list[Any]]]:
    """The axes as products whose macros, values and types are right."""
    axes = ablation.axes if isinstance(ablation.axes, list) else [ablation.axes]
    return [{name: _axis(loaded, name, values) for name, values in product.items()} for product in axes] or [
        {}
    ]


def _axis(loaded: Loaded, name: str, values: list[Any]) -> list[Any]:
    """The values of one axis, whole numbers made decimal where the macro's own value is."""
    place = loaded.axis_place(name, values)

    def wrong(message: str) -> UserError:
        return UserError(f"{place}: {name} = {show([_named(value) for value in values])}: {message}")

    if name not in loaded.macros:
        raise wrong(
            f"there is no macro {name}{suggest(name, loaded.macros)}; an axis varies a macro of the file"
        )
    if not values:
        raise wrong("an axis needs at least one value")
    default = loaded.macro(name)
    if isinstance(default, float):
        values = [float(v) if type(v) is int else v for v in values]
    for i, value in enumerate(values):
        if not _alike(value, default):
            raise wrong(
                f"{show(_named(value))} is of another type than {name} = {show(loaded.macros[name].value)} "
                f"in {loaded.where(name)}; make them alike"
            )
        if plain(value) in [plain(v) for v in values[:i]]:
            raise wrong(f"{show(_named(value))} stands there twice; keep one")
    return values


def _alike(value: Any, default: Any) -> bool:
    """Whether an axis value is of the type of the macro's own value; None and an open value are like all."""
    if default is None or default is checks.REQUIRED or value is None:
        return True
    numbers = [type(v) in (int, float) for v in (value, default)]
    objects = [dataclasses.is_dataclass(v) for v in (value, default)]
    return all(numbers) or all(objects) or type(value) is type(default)


def restricted(loaded: Loaded, whole: list[Cell]) -> list[Cell]:
    """The cells of the `whole` grid that the settings of axis macros leave. Raises UserError where none is left."""
    kept = whole
    for name, asked in loaded.restrictions.items():
        held = list(dict.fromkeys(cell.values[name] for cell in whole))
        wanted = [plain(value) for value in (asked if isinstance(asked, (list, tuple)) else [asked])]
        for value in wanted or [asked]:
            if not any(_same(value, other) for other in held):
                raise UserError(
                    f"--set {name}={show(asked)}: {name} is an axis; choose among its values "
                    f"{', '.join(str(v) for v in held)}"
                )
        kept = [cell for cell in kept if cell.values[name] in wanted]
    if not kept:
        named = " ".join(f"--set {name}={show(value)}" for name, value in loaded.restrictions.items())
        raise UserError(f"{named}: no cell has these values together; leave one out")
    return kept


def _same(asked: Any, held: Any) -> bool:
    """Whether a value that a person named is one of an axis: True is no 1, and 0.0 no seed."""
    return asked == held and (type(asked) is type(held) or (type(held) is float and type(asked) is int))


def _refuse_idle(loaded: Loaded, whole: Sequence[Cell]) -> None:
    """Raise UserError for an axis of which no value changes any run: cells that differ in it alone are all the same."""
    for name in whole[0].macros:
        alike: dict[tuple[Any, ...], list[Run]] = {}
        for cell in whole:
            others = tuple(value for other, value in cell.values.items() if other != name)
            alike.setdefault(others, []).append(cell.run)
        compared = [runs for runs in alike.values() if len(runs) > 1]
        if compared and all(run == runs[0] for runs in compared for run in runs):
            values = list(dict.fromkeys(cell.values[name] for cell in whole))
            raise UserError(
                f"{loaded.axis_place(name, values)}: {name} = {show(values)}: whatever it is, the runs are the same; "
                f"let a line of the file that runs are made of read %{name}, or take the axis out"
            )


def _refuse_unread(loaded: Loaded) -> None:
    """Raise UserError for a line that no cell reads: a setting, or a line of the file as it is written."""
    for binding, problem in loaded.unread():
        if not loaded.text.settings or binding in loaded.text.settings:
            raise problem
        cells(loaded.as_written())  # A setting may have cut off what the file alone would read.
        return
