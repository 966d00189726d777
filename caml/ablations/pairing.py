"""Whether every contrast of an ablation finds its cells in the grid, each treatment with its control."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from caml.ablations.runs import Ablation, StageRun
from caml.analysis.contrasts import Contrast
from caml.config.errors import UserError
from caml.config.files import suggest
from caml.config.resolve import Loaded

SEED = "SEED"  # the axis by which treatment and control are paired
Point = tuple[dict[str, Any], StageRun]  # axis values, and the last StageRun


def refuse_unpaired(loaded: Loaded, ablation: Ablation, grid: Sequence[Point]) -> None:
    """Raise UserError where a contrast or the control asks for cells that `grid` doesn't hold."""
    items = ablation.run.probes.items(ablation.run.seed) if ablation.contrasts else []
    asked = {(item.family, item.rung) for item in items}
    for contrast in ablation.contrasts:
        _refuse_open_contrast(loaded, contrast, grid)
        _refuse_unknown_rung(loaded, contrast, asked)
    if not ablation.control:
        return

    for message in _unknown(ablation.control, grid):
        raise loaded.fault(message, (ablation, "control"))
    if SEED in ablation.control:
        raise loaded.fault("SEED is always paired and cannot be named here", (ablation, "control"))
    points = {_key(values): stagerun for values, stagerun in grid}
    for values, stagerun in grid:
        control = {**values, **ablation.control}
        found = points.get(_key(control))
        if found and _other_dose(stagerun, found):
            message = (
                f"the control of the cell {_text(values)} has the ratio {found.ratio:g}, and not its own"
            )
            raise loaded.fault(f"{message}; name the arm alone", (ablation, "control"))
        if stagerun.arm != "base" and not found:
            message = f"the cell {_text(values)} has no control; add {_text(control)} to the axes"
            raise loaded.fault(message, (ablation, "control"))


def _refuse_open_contrast(loaded: Loaded, contrast: Contrast, grid: Sequence[Point]) -> None:
    """Raise UserError unless the contrast takes one StageRun a seed, each with its control."""
    parts = {"treatment": contrast.treatment, "control": contrast.control or {}, "at": contrast.at}
    for field, named in parts.items():
        for message in _unknown(named, grid):
            raise _fault(loaded, contrast, field, message)
    if SEED not in grid[0][0]:
        raise _fault(
            loaded, contrast, "treatment", "the grid has no axis SEED, by which cells are paired; add it"
        )
    treated = list(_matching(grid, {**contrast.at, **contrast.treatment}))
    _refuse_none_or_several(loaded, contrast, "treatment", {**contrast.at, **contrast.treatment}, treated)
    if contrast.control is None:
        return
    free = contrast.treatment.keys() | contrast.control.keys()
    for values, stagerun in treated:
        asked = {name: value for name, value in values.items() if name not in free}
        asked |= {name: value for name, value in contrast.at.items() if name in free} | contrast.control
        controls = list(_matching(grid, asked))
        _refuse_none_or_several(loaded, contrast, "control", asked, controls)
        if _other_dose(stagerun, controls[0][1]):
            message = f"in the cell {_text(values)} the control has the ratio {controls[0][1].ratio:g}"
            raise _fault(loaded, contrast, "control", f"{message}; compare arms at the same ratio")
        if controls[0][1].fingerprint == stagerun.fingerprint:
            message = f"in the cell {_text(values)} treatment and control are the same StageRun"
            raise _fault(loaded, contrast, "control", f"{message}; compare cells that are trained otherwise")


def _other_dose(one: StageRun, other: StageRun) -> bool:
    """Whether two StageRuns are of two arms, each with its own dose: no effect of the arm could be told from it."""
    return one.arm != other.arm and one.ratio > 0 and other.ratio > 0 and one.ratio != other.ratio


def _refuse_none_or_several(
    loaded: Loaded, contrast: Contrast, field: str, asked: Mapping[str, Any], found: Sequence[Point]
) -> None:
    if not found:
        raise _fault(loaded, contrast, field, f"the grid has no cell {_text(asked)}; add it to the axes")
    one_a_seed: dict[Any, Point] = {}
    for values, stagerun in found:
        other, first = one_a_seed.setdefault(values[SEED], (values, stagerun))
        if first is not stagerun:
            names = [name for name in values if values[name] != other[name]]
            raise _fault(loaded, contrast, field, f"leaves {' and '.join(names)} open; name a value in `at`")


def _refuse_unknown_rung(loaded: Loaded, contrast: Contrast, asked: Set[tuple[str, str]]) -> None:
    families = {family for family, _ in asked}
    if contrast.family not in families:
        near = suggest(contrast.family, families) or f"; there are {', '.join(sorted(families))}"
        raise _fault(loaded, contrast, "family", f"no probe is of the family {contrast.family!r}{near}")
    rungs = {rung for family, rung in asked if family == contrast.family}
    if contrast.rung not in rungs:
        near = suggest(contrast.rung, rungs) or f"; there are {', '.join(sorted(rungs))}"
        raise _fault(
            loaded, contrast, "rung", f"no {contrast.family} probe is on the rung {contrast.rung!r}{near}"
        )


def _unknown(named: Mapping[str, Any], grid: Sequence[Point]) -> Iterator[str]:
    """What is wrong with axis values that no cell has."""
    for name, value in named.items():
        if name not in grid[0][0]:
            axes = suggest(name, grid[0][0]) or f"; the axes are {', '.join(grid[0][0]) or 'empty'}"
            yield f"{name} is no axis{axes}"
            continue
        held = list(dict.fromkeys(values[name] for values, _ in grid))
        if value not in held:
            words = [other for other in held if isinstance(other, str)]
            near = suggest(str(value), words) or f"; the grid has {', '.join(map(str, held))}"
            yield f"no cell has {name}={value}{near}"


def _matching(grid: Sequence[Point], asked: Mapping[str, Any]) -> Iterator[Point]:
    return (point for point in grid if all(point[0][name] == value for name, value in asked.items()))


def _fault(loaded: Loaded, contrast: Contrast, field: str, message: str) -> UserError:
    return loaded.fault(f"contrast {contrast.name!r}: {message}", (contrast, field))


def _key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(values.values())


def _text(values: Mapping[str, Any]) -> str:
    return ",".join(f"{name.lower()}={value}" for name, value in values.items())
