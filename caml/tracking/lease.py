"""Leases: which process works on which folder, kept alive by a heartbeat and taken over when it stops.

A folder's lease is a chain of numbered files in `.leases/` beside it. The highest number counts; only one
process can create the next one, and nobody but its creator ever changes or removes the highest. So two
processes that find the same dead lease cannot both have its successor.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from caml.config.errors import Failure

HEARTBEAT = 10.0  # seconds between heartbeats
PATIENCE = 90.0  # seconds without a heartbeat after which another machine's lease is dead
SIMULTANEOUS = "another launch that began at the same time"

_NAME = re.compile(r"(.+)\.(\d{6,})")


class Leases:
    """The leases that this process obtained, refreshed by a background thread until they are released.

    `held` are the folders obtained; `refused` says, for each of the others, who has it. To be used as a
    context manager.
    """

    def __init__(self, heartbeat: float = HEARTBEAT):
        self.refused: dict[Path, str] = {}
        self._files: dict[Path, Path] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._heartbeat = heartbeat
        self._thread = threading.Thread(target=self._beat, name="caml-leases", daemon=True)
        self._thread.start()

    @property
    def held(self) -> list[Path]:
        """The folders whose lease this process has, in the order in which they were asked for."""
        with self._lock:
            return list(self._files)

    def check(self, folder: Path) -> None:
        """Raise Failure unless this process still has the lease of `folder`: call before writing a result.

        A lease is lost when this process slept for longer than another machine's patience.
        """
        with self._lock:
            file = self._files[folder]
        if _numbers(file.parent).get(folder.name, [0])[-1] != _number(file):
            raise Failure(f"{folder} was taken over by another launch while this one slept; start it again")

    def release(self, folder: Path) -> None:
        """Give the lease of `folder` back."""
        with self._lock:
            file = self._files.pop(folder)
            # An empty file is a free lease. The file stays: a number that was once the highest is not
            # used again, or a slow contender could create it a second time.
            with contextlib.suppress(FileNotFoundError):  # taken over
                os.truncate(file, 0)

    def close(self) -> None:
        """Give all leases back and stop the heartbeat."""
        self._stop.set()
        self._thread.join()
        for folder in self.held:
            self.release(folder)

    def __enter__(self) -> "Leases":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._stop.wait(self._heartbeat):
            with self._lock:
                for file in self._files.values():
                    # One heartbeat that fails is made good by the next; that a lease is lost, `check` says.
                    with contextlib.suppress(OSError):
                        os.utime(file)


def acquire_all(folders: Iterable[Path], patience: float = PATIENCE, heartbeat: float = HEARTBEAT) -> Leases:
    """Try once for the lease of each of `folders`; never waits.

    A lease is free when it was given back, when its process on this machine is gone, or when another
    machine's has had no heartbeat for `patience` seconds. On this machine a living process keeps its
    leases even when it is suspended, since it would go on writing when it wakes.
    """
    leases = Leases(heartbeat)
    try:
        numbers: dict[Path, dict[str, list[int]]] = {}
        for folder in folders:
            place = folder.parent / ".leases"
            if place not in numbers:
                place.mkdir(parents=True, exist_ok=True)
                numbers[place] = _numbers(place)
            top = numbers[place].get(folder.name, [0])[-1]
            holder = _holder(_file(place, folder.name, top), patience) if top else None
            if holder is not None:
                leases.refused[folder] = holder
            elif _create(_file(place, folder.name, top + 1)):
                with leases._lock:
                    leases._files[folder] = _file(place, folder.name, top + 1)
            else:
                leases.refused[folder] = SIMULTANEOUS
        with leases._lock:
            _withdraw_overtaken(leases)
    except BaseException:
        leases.close()
        raise
    return leases


def _withdraw_overtaken(leases: Leases) -> None:
    """Give up each lease that is not the highest of its folder, and remove the numbers below the others.

    A slow contender may create a number that was used and removed while it looked: then a higher one is
    there, which is not removed by anybody but by a successor that is higher still.
    """
    numbers = {place: _numbers(place) for place in {file.parent for file in leases._files.values()}}
    for folder, file in list(leases._files.items()):
        for number in numbers[file.parent][folder.name]:
            other = _file(file.parent, folder.name, number)
            if number > _number(file):
                leases._files.pop(folder, None)
                file.unlink(missing_ok=True)
                leases.refused[folder] = SIMULTANEOUS
            elif number < _number(file):
                other.unlink(missing_ok=True)


def _numbers(place: Path) -> dict[str, list[int]]:
    """The lease numbers of each folder name in the `.leases` folder `place`, the highest last."""
    numbers: dict[str, list[int]] = {}
    for entry in os.listdir(place):
        match = _NAME.fullmatch(entry)
        if match:
            numbers.setdefault(match[1], []).append(int(match[2]))
    return {name: sorted(found) for name, found in numbers.items()}


def _file(place: Path, name: str, number: int) -> Path:
    return place / f"{name}.{number:06d}"


def _number(file: Path) -> int:
    return int(file.name.rpartition(".")[2])


def _create(file: Path) -> bool:
    """Create the lease `file` with all of its content at once; False where it exists already."""
    partial = file.with_name(f".{uuid.uuid4().hex}.part")
    partial.write_text(json.dumps(_myself()))
    try:
        os.link(partial, file)
    except FileExistsError:
        return False
    finally:
        partial.unlink()
    return True


def _holder(file: Path, patience: float) -> str | None:
    """Who has the lease `file`, in words; None where it is free."""
    try:
        text = file.read_text()
        age = _now(file.parent) - file.stat().st_mtime
    except FileNotFoundError:  # a successor was created and removed its predecessors
        return SIMULTANEOUS
    if not text:
        return None
    try:
        holder = json.loads(text)
    except ValueError:  # what a power cut leaves
        return None if age > patience else "a process whose lease cannot be read"
    words = f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    me = _myself()
    if holder["machine"] == me["machine"]:
        return words if _started(holder["pid"]) == holder["started"] else None
    return words if age <= patience else None


def _now(place: Path) -> float:
    """The time by the clock that stamps the files in `place`, which is the server's on a network disk."""
    probe = place / f".{uuid.uuid4().hex}.part"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _started(pid: int) -> str | None:
    """When the process `pid` was started, in a form to compare; None where it is gone or a zombie."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists():
            return str(int(process.create_time()))
        # In ticks since boot: psutil's seconds since 1970 move when the clock is set.
        return stat.read_text().rpartition(")")[2].split()[19]
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def _myself() -> dict[str, Any]:
    """What a lease says of its holder. `machine` is where its pid means something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    host = socket.gethostname()
    return {
        "host": host,
        "machine": [
            host,
            boot.read_text().strip() if boot.exists() else "",
            os.readlink(space) if space.exists() else "",
        ],
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
