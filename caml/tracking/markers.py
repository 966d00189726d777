"""Completion markers: the file written last, with the size and SHA-256 of every file it vouches for."""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caml.config.errors import Failure
from caml.config.fingerprint import fingerprint
from caml.data import files

MARKER = "complete.json"


class Damaged(Failure):
    """A ledger file was cut short, altered or lost; `Ledger.repair(name, evaluation)` moves it aside."""

    def __init__(self, file: Path, wrong: str, name: str, evaluation: str | None = None):
        what = "the evaluation is done again" if evaluation else "the StageRun is trained again"
        super().__init__(f"{file} {wrong}; start `caml run` again and {what}")
        self.file = file
        self.wrong = wrong
        self.name = name
        self.evaluation = evaluation


@dataclass(frozen=True)
class Stamp:
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Marker:
    """The marker of a folder: its files by path, when it was written (milliseconds since 1970), and notes."""

    folder: Path
    files: Mapping[str, Stamp]
    written: int
    notes: Mapping[str, Any]
    digest: str
    name: str
    evaluation: str | None

    def damage(self, content: bool) -> Damaged | None:
        """The first file that does not have its size or, with `content`, its digest; None if all do."""
        for entry, stamp in self.files.items():
            path = self.folder / entry
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                return Damaged(path, "is missing", self.name, self.evaluation)
            if size != stamp.size:
                wrong = f"has {size} bytes instead of {stamp.size}"
                return Damaged(path, wrong, self.name, self.evaluation)
            if content and files.digest_file(path) != stamp.sha256:
                return Damaged(path, "was altered", self.name, self.evaluation)
        return None

    def read(self, entry: str) -> bytes:
        """The content of the file `entry`; raises Damaged where it is not what the marker says."""
        path = self.folder / entry
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise Damaged(path, "is missing", self.name, self.evaluation) from None
        stamp = self.files[entry]
        if len(data) != stamp.size:
            wrong = f"has {len(data)} bytes instead of {stamp.size}"
            raise Damaged(path, wrong, self.name, self.evaluation)
        if files.digest_bytes(data) != stamp.sha256:
            raise Damaged(path, "was altered", self.name, self.evaluation)
        return data


def write(folder: Path, entries: Iterable[str], notes: Mapping[str, Any]) -> None:
    """Write the marker of `folder` over the files `entries` as they are now."""
    stamps = {}
    for entry in sorted(entries):
        path = folder / entry
        stamps[entry] = {"size": path.stat().st_size, "sha256": files.digest_file(path)}
    body = {"written": int(time.time() * 1000), "notes": dict(notes), "files": stamps}
    files.write_json(folder / MARKER, {"digest": fingerprint(body), **body}, durable=False)


def read(folder: Path, name: str, evaluation: str | None = None) -> Marker:
    """The marker of `folder`; raises Damaged where it is not what was written."""
    path = folder / MARKER
    try:
        body = json.loads(path.read_bytes())
        digest = body.pop("digest")
        if digest != fingerprint(body):
            raise ValueError
        stamps = {entry: Stamp(**stamp) for entry, stamp in body["files"].items()}
        return Marker(folder, stamps, body["written"], body["notes"], digest, name, evaluation)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Damaged(path, "was cut short or altered", name, evaluation) from None
