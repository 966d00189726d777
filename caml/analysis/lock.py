"""What was stated before results existed: a lock on contrasts, grid, probes and statistics; and the looks."""

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caml.analysis.contrasts import Contrast
from caml.analysis.files import replace_file
from caml.config.errors import Failure, UserError
from caml.config.fingerprint import fingerprint, identity
from caml.config.text import counted

# Raised when estimates, tests or verdicts of this package change: what was locked before is then not locked.
STATISTICS_VERSION = 2
COMMON = ("grid", "recipes", "control", "probes", "gate", "statistics")


@dataclasses.dataclass(frozen=True)
class Statement:
    """What an ablation states before results exist.

    `contrasts`: name -> digest. `grid`: digest of the axes without SEED. `recipes`: digest of all that is
    trained (model, data, stages, optimizers, versions of world and numerics), without the seed. `control`:
    digest. `probes`: digest of the probe items' recipe. `gate`: nats that the mechanism must reach.
    `statistics`: STATISTICS_VERSION.
    """

    contrasts: dict[str, str]
    grid: str
    recipes: str
    control: str
    probes: str
    gate: float
    statistics: int


@dataclasses.dataclass(frozen=True)
class Look:
    """One analysis with the seed blocks `seeds`, first taken `at` (UTC, ISO 8601)."""

    seeds: tuple[int, ...]
    at: str


@dataclasses.dataclass(frozen=True)
class Lock:
    """A statement, when it was locked (UTC, ISO 8601), and the looks since, one for each set of seeds."""

    statement: Statement
    at: str
    looks: tuple[Look, ...] = ()


def state(
    contrasts: Sequence[Contrast],
    axes: dict[str, list[Any]] | Sequence[dict[str, list[Any]]],
    control: dict[str, Any],
    recipes: Sequence[str],
    probes: str,
    gate: float,
) -> Statement:
    """The statement of an ablation. Seeds are no part of it: adding seeds is a look, not another study.

    `recipes`: fingerprints of what is trained, with the seed left out of all of them.
    """
    products = [axes] if isinstance(axes, dict) else list(axes)
    grid = [
        {axis: list(values) for axis, values in product.items() if axis != "SEED"} for product in products
    ]
    named = {contrast.name: fingerprint(contrast) for contrast in contrasts}
    return Statement(
        named,
        fingerprint(grid),
        fingerprint(sorted(recipes)),
        fingerprint(control),
        probes,
        float(gate),
        STATISTICS_VERSION,
    )


def write_lock(path: Path, statement: Statement, scored: Sequence[str]) -> Lock:
    """Lock `statement` in the file `path`; `scored` are the StageRuns of the grid that have results already.

    Locking the same again changes nothing. Raises UserError where results exist and this was not locked
    before them.
    """
    before = read_lock(path)
    if before is not None and before.statement == statement:
        return before
    if scored:
        changed = (
            ""
            if before is None
            else f" (changed since it was locked: {', '.join(_changes(before, statement))})"
        )
        raise UserError(
            f"{path}: already scored: {counted(len(scored), 'StageRun')} of this grid{changed}; lock before results"
        )
    lock = Lock(statement, _now())
    _write(path, lock)
    return lock


def read_lock(path: Path) -> Lock | None:
    """The lock in the file `path`, None where there is none. Raises Failure where the file was altered."""
    if not path.exists():
        return None
    try:
        data = json.loads(path.read_text())
        lock = Lock(
            Statement(**data["statement"]),
            data["at"],
            tuple(Look(tuple(look["seeds"]), look["at"]) for look in data["looks"]),
        )
        whole = data["digest"] == fingerprint(lock)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise Failure(
            f"{path} is not as it was written: its digest does not fit its content; bring it back, or remove it, "
            "and nothing counts as locked"
        )
    return lock


def take_look(path: Path, statement: Statement, seeds: Sequence[int]) -> Lock | None:
    """Record that results of `statement` with `seeds` were looked at, once for each set of seeds.

    None without a lock of this grid: what else was run under the same name is no look at it.
    """
    lock = read_lock(path)
    chosen = tuple(sorted(set(seeds)))
    if lock is None or _of_another_grid(lock, statement):
        return None
    if any(look.seeds == chosen for look in lock.looks):
        return lock
    lock = dataclasses.replace(lock, looks=(*lock.looks, Look(chosen, _now())))
    _write(path, lock)
    return lock


def locked(lock: Lock | None, statement: Statement) -> dict[str, bool]:
    """Contrast name -> whether it and all that it rests on stand in the lock as they stand in `statement`."""
    if lock is None or _of_another_grid(lock, statement):
        return dict.fromkeys(statement.contrasts, False)
    return {
        name: lock.statement.contrasts.get(name) == digest for name, digest in statement.contrasts.items()
    }


def _of_another_grid(lock: Lock, statement: Statement) -> bool:
    return any(getattr(lock.statement, part) != getattr(statement, part) for part in COMMON)


def _changes(before: Lock, now: Statement) -> list[str]:
    common = [part for part in COMMON if getattr(before.statement, part) != getattr(now, part)]
    old, new = before.statement.contrasts, now.contrasts
    return common + [f"contrast {name}" for name in sorted(old | new) if old.get(name) != new.get(name)]


def _write(path: Path, lock: Lock) -> None:
    data = dataclasses.asdict(lock) | {"digest": fingerprint(lock)}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(identity(data), indent=1) + "\n").encode())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
