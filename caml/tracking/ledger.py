"""The ledger: one folder per StageRun, the truth about what was trained, with digests of every file."""

import enum
import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from caml.config.errors import Failure
from caml.data import files
from caml.tracking import markers, segments, shelves
from caml.tracking.markers import MARKER, Damaged
from caml.tracking.shelves import BENCHMARKS

PARAMS = "checkpoints/final/params.safetensors"
Kind = Literal["metrics", "trajectory"]
COLUMNS: dict[Kind, tuple[str, ...]] = {
    "metrics": ("step", "tokens", "loss", "gradient_norm", "rate"),
    "trajectory": ("step", "tokens", "outcome", "value"),
}
Columns = Mapping[str, Sequence | np.ndarray]


class State(enum.StrEnum):
    """How far a StageRun, or an evaluation of it, has come."""

    MISSING = "missing"
    STARTED = "started"
    COMPLETE = "complete"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Evaluation:
    """Scores of one StageRun: a margin per item, outcomes by name, and when (milliseconds since 1970)."""

    margins: pa.Table
    outcomes: dict[str, float]
    written: int


@dataclass(frozen=True)
class Ledger:
    """The StageRuns below `root`, each in a folder of its own name.

    A StageRun goes: `start`; `truncate(step)` to where training goes on, 0 for a new one; `write_segment`
    again and again; the parameters into `params_path(name)`; `complete`; `write_evaluation` for each set
    of probes. Each file is written in one step, the markers last, and none waits for the disk: what a
    power cut loses, the digests find, and it is trained again.
    """

    root: Path

    # ---------------------------------------------------------------- what is there

    def folder(self, name: str) -> Path:
        """Where the StageRun `name` lives."""
        return self.root / _plain_name(name)

    def params_path(self, name: str) -> Path:
        """Where the trainer puts the final parameters, before `complete`. To read them: `params`."""
        return self.folder(name) / PARAMS

    def names(self) -> list[str]:
        """The names of all StageRuns of which something is there, moved-aside ones excepted."""
        if not self.root.is_dir():
            return []
        return sorted(
            entry.name
            for entry in os.scandir(self.root)
            if entry.is_dir() and not entry.name.startswith(".") and ".damaged-" not in entry.name
        )

    def state(self, name: str, content: bool = False) -> State:
        """How far `name` has come: marker and sizes of its files, with `content` their digests too."""
        folder = self.folder(name)
        if not folder.is_dir():
            return State.MISSING
        if not (folder / MARKER).exists():
            # An empty folder is what `start` leaves when it is killed before its first file.
            return State.STARTED if (folder / "manifest.json").exists() else State.MISSING
        return State.DAMAGED if self.damage(name, content) else State.COMPLETE

    def damage(self, name: str, content: bool = False, evaluation: str | None = None) -> Damaged | None:
        """The first file of the complete StageRun `name`, or of one evaluation, that its marker denies, or None."""
        try:
            if evaluation:
                return self._evaluation_marker(name, evaluation).damage(content)
            return markers.read(self.folder(name), name).damage(content)
        except Damaged as damaged:
            return damaged

    def repair(self, name: str, evaluation: str | None = None) -> Path:
        """Move the StageRun, or one evaluation of it, aside to `...damaged-N`, and return that path."""
        folder = self._evaluation(name, evaluation) if evaluation else self.folder(name)
        for number in range(1, 1_000_000):
            aside = folder.with_name(f"{folder.name}.damaged-{number}")
            if not aside.exists():
                folder.rename(aside)
                return aside
        raise Failure(f"{folder} was damaged a million times; clear {folder.parent}")

    # ---------------------------------------------------------------- writing a StageRun

    def start(
        self, name: str, config: str, manifest: Mapping[str, Any], provenance: Mapping[str, Any]
    ) -> None:
        """Write `config.gin` and `manifest.json` of a StageRun that is about to train, or to go on.

        `manifest` says what it is (at least `fingerprint`); `provenance` what code and machine train it.
        Each launch that worked on it is kept, under `launches`; `started` (milliseconds since 1970) is
        added. Raises Failure where another StageRun, or a finished one, has the name.
        """
        folder = self.folder(name)
        state = self.state(name)
        launches: list[Any] = []
        started = _milliseconds()
        if state is State.STARTED:
            before = self.manifest(name)
            if before["fingerprint"] != manifest["fingerprint"]:
                raise Failure(
                    f"{folder} holds the StageRun {before['fingerprint'][:12]}, not "
                    f"{manifest['fingerprint'][:12]}; move it away"
                )
            launches, started = before["launches"], before["started"]
        elif state is not State.MISSING:
            raise Failure(f"{folder} is {state} and cannot be started; move it away to train it again")
        files.write_text(folder / "config.gin", config, durable=False)
        # A relaunch of the same code on the same machine says nothing new.
        if not launches or launches[-1] != provenance:
            launches = [*launches, dict(provenance)]
        kept = {**manifest, "started": started, "launches": launches}
        files.write_json(folder / "manifest.json", kept, durable=False)

    def write_segment(self, name: str, kind: Kind, begin: int, end: int, columns: Columns) -> None:
        """Close one segment: the rows measured from step `begin` (updates done before) to step `end`.

        `metrics` need `step, tokens, loss, gradient_norm, rate` and may have more numbers; `trajectory`
        is `step, tokens, outcome, value`. Metrics segments follow each other without a gap; a trajectory
        segment is written only where something was scored. The same bounds replace the segment.
        """
        missing = [column for column in COLUMNS[kind] if column not in columns]
        if missing:
            raise ValueError(f"{kind} of {name} lack the columns {', '.join(missing)}")
        segments.write(self.folder(name) / kind, begin, end, columns)

    def truncate(self, name: str, step: int) -> None:
        """Delete the segments beyond `step`, from which the StageRun goes on.

        Raises Damaged where what is left does not hold the metrics of every step up to there.
        """
        if self.state(name) is not State.STARTED:
            raise Failure(f"{self.folder(name)} is not in training and cannot go on from step {step}")
        for kind in COLUMNS:
            for segment in segments.find(self.folder(name) / kind):
                if segment.end > step:
                    segment.path.unlink()
        self._verify_segments(name, step)

    def complete(self, name: str, step: int, facts: Mapping[str, Any]) -> None:
        """Finish the StageRun at `step`: add `facts` to its manifest, write the marker with all digests.

        Needs the parameters at `params_path(name)`, and metrics from step 0 to `step`, no further. `steps`
        and `finished` (milliseconds since 1970) are added; a number that is not finite is kept as null.
        Raises Damaged where a segment is not what was written.
        """
        folder = self.folder(name)
        self._verify_segments(name, step)
        facts = {key: None if _unbounded(value) else value for key, value in facts.items()}
        facts |= {"steps": step, "finished": _milliseconds()}
        files.write_json(folder / "manifest.json", {**self.manifest(name), **facts}, durable=False)
        listed = []
        for parent, folders, names in os.walk(folder):
            here = Path(parent)
            if here == folder:
                folders[:] = [entry for entry in folders if entry not in ("evals", BENCHMARKS)]
            for entry in sorted(names):
                if entry.startswith("."):  # left half-written by a launch that was killed
                    (here / entry).unlink()
                else:
                    listed.append(str((here / entry).relative_to(folder)))
        if PARAMS not in listed:
            raise Failure(f"{folder / PARAMS} is missing, so the StageRun is not complete")
        markers.write(folder, listed, {})

    # ---------------------------------------------------------------- writing an evaluation

    def write_evaluation(
        self, name: str, evaluation: str, margins: Columns, outcomes: Mapping[str, float]
    ) -> None:
        """Write the scores of a complete StageRun by the probes and scorer with fingerprint `evaluation`.

        `margins`: columns `item, tokens_aligned, tokens_opposed, margin, margin_token, margin_character,
        margin_unconditional`. `outcomes`: one number each (nats, bits per byte); NaN where it is not defined.
        """
        folder = self._evaluation(name, evaluation)
        params = markers.read(self.folder(name), name).files[PARAMS].sha256
        table = pa.table({key: pa.array(np.asarray(values)) for key, values in margins.items()})
        files.write_bytes(folder / "margins.parquet", segments.parquet(table), durable=False)
        plain = {key: None if np.isnan(value) else float(value) for key, value in outcomes.items()}
        files.write_json(folder / "outcomes.json", plain, durable=False)
        markers.write(folder, ("margins.parquet", "outcomes.json"), {"params": params})

    def evaluations(self, name: str) -> list[str]:
        """Fingerprints of the evaluations of `name` that have their marker, in order."""
        folder = self.folder(name) / "evals"
        if not folder.is_dir():
            return []
        found = [entry.name for entry in folder.iterdir() if (entry / MARKER).exists()]
        return sorted(entry for entry in found if ".damaged-" not in entry)

    def evaluation_state(self, name: str, evaluation: str, content: bool = False) -> State:
        """How far the evaluation `evaluation` of `name` has come; scores of other parameters are DAMAGED."""
        folder = self._evaluation(name, evaluation)
        if not folder.is_dir():
            return State.MISSING
        if not (folder / MARKER).exists():
            return State.STARTED
        return State.DAMAGED if self.damage(name, content, evaluation) else State.COMPLETE

    # ---------------------------------------------------------------- reading, verified

    def manifest(self, name: str) -> dict[str, Any]:
        """The manifest of a started or complete StageRun."""
        folder = self.folder(name)
        if (folder / MARKER).exists():
            return json.loads(markers.read(folder, name).read("manifest.json"))
        path = folder / "manifest.json"
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            raise Failure(f"{folder} holds no StageRun; start `caml run` first") from None
        except ValueError:
            raise Damaged(path, "was cut short or altered", name) from None

    def config(self, name: str) -> str:
        """The gin text of a complete StageRun."""
        return self._complete(name).read("config.gin").decode()

    def params(self, name: str) -> bytes:
        """The final parameters of a complete StageRun as safetensors bytes, their digest checked."""
        return self._complete(name).read(PARAMS)

    def params_digest(self, name: str) -> str:
        """SHA-256 of the final parameters of a complete StageRun, by its marker."""
        return self._complete(name).files[PARAMS].sha256

    def read_segments(self, name: str, kind: Kind) -> list[segments.Content]:
        """The segments of `name` with their rows, in order.

        Of a complete StageRun, those that its marker lists; of one in training, those that are closed.
        Raises Damaged for one that is not what was written.
        """
        folder = self.folder(name)
        if (folder / MARKER).exists():
            marker = markers.read(folder, name)
            return [
                self._segment(name, segments.parse(folder / entry), marker.read(entry))
                for entry in sorted(marker.files)
                if entry.startswith(f"{kind}/")
            ]
        return [
            self._segment(name, segment, segment.path.read_bytes())
            for segment in segments.find(folder / kind)
        ]

    def read_evaluation(self, name: str, evaluation: str) -> Evaluation:
        """The scores of an evaluation that is complete.

        Raises Damaged for a file that is not what was written, Failure where there is no such evaluation.
        """
        folder = self._evaluation(name, evaluation)
        if not (folder / MARKER).exists():
            raise Failure(f"{folder} is not complete; start `caml run` and the StageRun is scored")
        marker = self._evaluation_marker(name, evaluation)
        margins = segments.read_parquet(marker.read("margins.parquet"))
        outcomes = json.loads(marker.read("outcomes.json"))
        plain = {key: float("nan") if value is None else value for key, value in outcomes.items()}
        return Evaluation(margins, plain, marker.written)

    # ---------------------------------------------------------------- benchmarks

    def shelf(self, name: str) -> Path:
        """The folder below which the benchmarks that `name` sat are kept, each in a folder with a marker of its own."""
        return self.folder(name) / BENCHMARKS

    def benchmarks(self, name: str) -> list[str]:
        """The folders of the benchmarks of `name` that have their marker, in order."""
        return shelves.benchmarks(self.shelf(name))

    def read_benchmark(self, name: str, benchmark: str) -> tuple[dict[str, Any], int]:
        """The summary of a benchmark, and when it was written (milliseconds since 1970).

        Raises Damaged for a file that is not what was written, or of other parameters than are there now.
        """
        return shelves.read(self.shelf(name), benchmark, name, self.params_digest(name))

    # ---------------------------------------------------------------- inside

    def _evaluation(self, name: str, evaluation: str) -> Path:
        return self.folder(name) / "evals" / _plain_name(evaluation)

    def _complete(self, name: str) -> markers.Marker:
        folder = self.folder(name)
        if not (folder / MARKER).exists():
            raise Failure(f"{folder} is not complete; start `caml run` first")
        return markers.read(folder, name)

    def _evaluation_marker(self, name: str, evaluation: str) -> markers.Marker:
        """The marker of an evaluation; raises Damaged where it scored other parameters than are there now."""
        folder = self._evaluation(name, evaluation)
        marker = markers.read(folder, name, evaluation)
        if marker.notes["params"] != self._complete(name).files[PARAMS].sha256:
            raise Damaged(folder / MARKER, "belongs to other parameters", name, evaluation)
        return marker

    def _segment(self, name: str, segment: segments.Segment, data: bytes) -> segments.Content:
        content = segments.decode(segment, data)
        if content is None:
            raise Damaged(segment.path, "was cut short or altered", name)
        return content

    def _verify_segments(self, name: str, step: int) -> None:
        """Raise Damaged unless all segments are whole and the metrics go from 0 to `step` without a gap."""
        folder = self.folder(name)
        for kind in COLUMNS:
            for segment in segments.find(folder / kind):
                self._segment(name, segment, segment.path.read_bytes())
        lost = segments.gap(segments.find(folder / "metrics"), step)
        if lost:
            raise Damaged(folder / "metrics" / lost, "is missing", name)


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _unbounded(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _plain_name(name: str) -> str:
    """`name`, which must be one part of a path that stays in the ledger."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._+=,-]*", name):
        raise Failure(f"{name!r} cannot name a folder of the ledger; use letters, digits and . _ + = , -")
    return name
