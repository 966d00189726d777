"""Bringing StageRuns from the ledger into the MLflow store: what is missing there, and nothing twice."""

import json
import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from caml.config.errors import Failure
from caml.tracking.ledger import Ledger, State
from caml.tracking.store import Point, Store, locked, shorten, where

EXPERIMENT = "caml"
# What SQLite says of a file that is none of its databases any more.
DAMAGED = ("disk image is malformed", "file is not a database")
# Tags of a run, and the facts of the manifest, or of its last launch, that they tell.
FACTS = {
    "fingerprint": "fingerprint",
    "stage": "stage",
    "arm": "arm",
    "control": "control",
    "ratio": "ratio",
    "dose": "dose_tokens",
    "seed": "seed",
    "size": "size",
    "rung": "rung",
    "parent": "parent",
    "commit": "commit",
    "dirty": "dirty",
}

STAGERUN = "caml.stagerun"  # fingerprint: how a run is found again
ABLATION = "caml.ablation"  # name: how the parent run of an ablation is found again
ABLATIONS = "caml.ablations"  # every ablation that uses the StageRun
COMPLETE = "caml.complete"  # 'yes' once everything of the finished training is there
EVALUATIONS = "caml.evaluations"  # fingerprints of the evaluations that are there
BENCHMARKS = "caml.benchmarks"  # folders of the benchmarks that are there


@dataclass
class Known:
    """What a store is known to have of one StageRun: its run, its tags, and the steps of each metric.

    A run that was `created` here has nothing yet; of one that was found the store is asked, key by key.
    """

    run: str
    tags: dict[str, str]
    created: bool = False
    described: bool = False  # its params were sent
    steps: dict[str, set[int]] = field(default_factory=dict)

    def listed(self, tag: str) -> list[str]:
        """The entries of a tag that is a comma list."""
        return [entry for entry in self.tags.get(tag, "").split(",") if entry]


@dataclass(frozen=True)
class Synced:
    """What a sync did: StageRuns brought or brought up to date, those that were there, metric points sent."""

    brought: int
    there: int
    points: int


class Uploader:
    """Brings StageRuns of `ledger` into an open `store`, as used by `ablation`.

    It remembers what it brought; after an error, use a new one, which asks the store again.
    """

    def __init__(self, ledger: Ledger, store: Store, ablation: str):
        self._ledger = ledger
        self._store = store
        self._ablation = ablation
        with self._alone():
            self._parent = self._find_parent()
            self._known = {
                tags[STAGERUN]: Known(run, tags)
                for run, tags in store.find(ABLATIONS, ablation, within=True)
                if STAGERUN in tags
            }

    def bring(self, name: str) -> int | None:
        """Bring what the store lacks of the StageRun `name`; metric points sent, None if it lacked nothing.

        Raises Failure where the ledger cannot be read, and whatever the store raises.
        """
        complete = self._ledger.state(name) is State.COMPLETE
        evaluations = self._ledger.evaluations(name) if complete else []
        benchmarks = self._ledger.benchmarks(name) if complete else []
        manifest = self._ledger.manifest(name)
        fingerprint = manifest["fingerprint"]
        with self._alone():
            known = self._known.get(fingerprint) or self._find(fingerprint)
            if known is None:
                known = self._create(name, manifest)
            self._known[fingerprint] = known
            tags: dict[str, str] = {}
            if self._ablation not in known.listed(ABLATIONS):
                tags[ABLATIONS] = ",".join([*known.listed(ABLATIONS), self._ablation])
            new = [entry for entry in evaluations if entry not in known.listed(EVALUATIONS)]
            points = [point for entry in new for point in self._scores(name, manifest, entry)]
            if new:
                tags[EVALUATIONS] = ",".join([*known.listed(EVALUATIONS), *new])
            sat = [entry for entry in benchmarks if entry not in known.listed(BENCHMARKS)]
            points += [point for entry in sat for point in self._benchmark(name, manifest, entry)]
            if sat:
                tags[BENCHMARKS] = ",".join([*known.listed(BENCHMARKS), *sat])
            if known.tags.get(COMPLETE) != "yes":
                points += self._missing(name, known)
                if complete:
                    points += _instruments(manifest)
                    self._finish(name, known.run, manifest)
                    tags[COMPLETE] = "yes"
            if not points and not tags:
                return None
            describe = not known.described and (known.created or COMPLETE in tags)
            told = {**manifest.get("identity", {}), "taken": manifest.get("sources", {})}
            params = _flat(told) if describe else {}
            # The tags go last, so that what they say is there when they are.
            self._store.write(known.run, points, params, tags)
            known.tags.update(tags)
            known.described |= describe
            for key, _, _, step in points:
                known.steps.setdefault(key, set()).add(step)
            return len(points)

    def finish(self) -> None:
        """Mark the ablation's own run as finished."""
        self._store.finish(self._parent, failed=False, finished=None)

    def _alone(self) -> Any:
        # Another launch, or a `caml sync`, may look for the same run: one of them creates it.
        return locked(self._ledger.root / ".mirror.lock")

    def _find_parent(self) -> str:
        found = self._store.find(ABLATION, self._ablation)
        if found:
            return found[0][0]
        return self._store.create(self._ablation, None, {ABLATION: self._ablation})

    def _find(self, fingerprint: str) -> Known | None:
        found = self._store.find(STAGERUN, fingerprint)
        return Known(*found[0]) if found else None

    def _create(self, name: str, manifest: Mapping[str, Any]) -> Known:
        launch = manifest["launches"][-1]
        facts = {**launch, **manifest}
        tags = {
            STAGERUN: manifest["fingerprint"],
            ABLATIONS: self._ablation,
            "mlflow.parentRunId": self._parent,
            **{tag: _text(facts[fact]) for tag, fact in FACTS.items() if facts.get(fact) is not None},
        }
        return Known(self._store.create(name, manifest["started"], tags), tags, created=True)

    def _missing(self, name: str, known: Known) -> list[Point]:
        """The points of the closed segments of `name` that the store does not have."""
        points = []
        for key, value, time, step in self._closed(name):
            if key not in known.steps:
                known.steps[key] = set() if known.created else self._store.steps(known.run, key)
            if step not in known.steps[key]:
                points.append((key, value, time, step))
        return points

    def _closed(self, name: str) -> Iterator[Point]:
        """All points of the closed segments: each stamped with the time at which its segment was closed.

        The time being fixed, a point that is sent twice after all is one point in the store.
        """
        for content in self._ledger.read_segments(name, "metrics"):
            columns = content.table.to_pydict()
            steps = columns.pop("step")
            for key, values in columns.items():
                for step, value in zip(steps, values, strict=True):
                    yield key, float(value), content.written, step
        for content in self._ledger.read_segments(name, "trajectory"):
            for row in content.table.to_pylist():
                yield f"trajectory/{row['outcome']}", float(row["value"]), content.written, row["step"]

    def _scores(self, name: str, manifest: Mapping[str, Any], evaluation: str) -> Iterator[Point]:
        """The outcomes of an evaluation and the mean margins of its families and rungs, at the last step.

        Those not defined are left out.
        """
        scores = self._ledger.read_evaluation(name, evaluation)
        found = dict(scores.outcomes)
        for group, margins in _groups(scores.margins).items():
            found[f"margin/{group}"] = statistics.fmean(margins)
        for outcome, value in found.items():
            if not math.isnan(value):
                yield f"eval/{outcome}", value, scores.written, manifest["steps"]

    def _benchmark(self, name: str, manifest: Mapping[str, Any], benchmark: str) -> Iterator[Point]:
        """The mean of each dimension of a benchmark, and how many samples were asked and scored, at the last step."""
        scores, written = self._ledger.read_benchmark(name, benchmark)
        found = {"samples": scores["samples"], "scored": scores["scored"]}
        found |= {dimension: told["mean"] for dimension, told in scores["dimensions"].items()}
        task = benchmark.rsplit("-", 1)[0]
        for key, value in found.items():
            plain = re.sub(r"[^A-Za-z0-9_. -]", "_", key)
            yield f"benchmark/{task}/{plain}", float(value), written, manifest["steps"]

    def _finish(self, name: str, run: str, manifest: Mapping[str, Any]) -> None:
        """Log what a StageRun has once it is complete: datasets, artifacts, how it ended."""
        if manifest.get("datasets"):
            self._store.inputs(run, manifest["datasets"])
        self._ledger.config(name)  # raises where the file about to be sent is not what was written
        for file in ("config.gin", "manifest.json"):
            self._store.artifact(run, self._ledger.folder(name) / file)
        self._store.finish(run, bool(manifest.get("diverged")), manifest["finished"])


def sync(
    ledger: Ledger,
    uri: str,
    ablation: str,
    names: Sequence[str],
    experiment: str = EXPERIMENT,
    progress: Callable[[int, int], None] | None = None,
) -> Synced:
    """Bring what the store at `uri` lacks of the StageRuns `names`, as used by `ablation`.

    As often as you like: the store is asked first, and nothing is there twice. `progress` is told how many
    of how many are done. Raises Failure where the store does not answer or a StageRun is damaged; the
    others are brought all the same.
    """
    begun = [name for name in names if ledger.state(name) is not State.MISSING]
    damaged: list[Failure] = []
    brought = points = 0
    try:
        uploader = Uploader(ledger, Store(uri, experiment), ablation)
        for done, name in enumerate(begun):
            if progress:
                progress(done, len(begun))
            try:
                sent = uploader.bring(name)
            except Failure as failure:
                damaged.append(failure)
                continue
            if sent is not None:
                brought, points = brought + 1, points + sent
        uploader.finish()
    except Exception as error:
        raise unreachable(uri, error) from error
    if progress:
        progress(len(begun), len(begun))
    if damaged:
        raise damaged[0]
    return Synced(brought, len(begun) - brought, points)


def unreachable(uri: str, error: Exception) -> Failure:
    """In one line, that the store at `uri` failed with `error`, and what to do."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    if any(sign in str(error) for sign in DAMAGED):
        return Failure(
            f"the tracking store {where(uri)} is damaged ({shorten(lines[0], 200)}): move it out of the way, and "
            "`caml sync` makes it anew from the ledger, which has everything"
        )
    return Failure(
        f"the tracking store {where(uri)} failed ({shorten(lines[0], 200)}); the ledger has everything, "
        "and `caml sync` brings it once the store is back"
    )


def _instruments(manifest: Mapping[str, Any]) -> list[Point]:
    """What the instruments of training showed of a complete StageRun, each number at its last step."""
    numbers = {"skipped_steps": manifest.get("skipped"), **(manifest.get("instruments") or {})}
    return [
        (f"instruments/{key}", float(value), manifest["finished"], manifest["steps"])
        for key, value in numbers.items()
        if isinstance(value, (int, float))
    ]


def _groups(table: pa.Table) -> dict[str, list[float]]:
    """Margins (nats) by family and rung, which an item's name begins with: `family/rung/...`."""
    groups: dict[str, list[float]] = {}
    for item, margin in zip(table["item"].to_pylist(), table["margin"].to_pylist(), strict=True):
        family, *rest = item.split("/")
        if len(rest) > 1:
            groups.setdefault(f"{family}/{rest[0]}".rstrip("/"), []).append(margin)
    return groups


def _flat(value: Any, key: str = "") -> dict[str, str]:
    """Nested JSON data as `{'model.width': '32', ...}`; a class name stands at its own key."""
    if isinstance(value, Mapping):
        flat: dict[str, str] = {}
        for name, inner in value.items():
            flat |= _flat(inner, key if name == "is" else f"{key}.{name}" if key else name)
        return flat
    if isinstance(value, list) and any(isinstance(inner, (Mapping, list)) for inner in value):
        flat = {}
        for number, inner in enumerate(value):
            flat |= _flat(inner, f"{key}.{number}")
        return flat
    return {key: _text(value)} if key else {}


def _text(value: Any) -> str:
    """`value` as a person writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
