"""The MLflow mirror of a running ablation: a background thread that training never waits for."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable

from caml.config.errors import Failure
from caml.config.text import counted
from caml.data import files
from caml.tracking.ledger import Ledger, State
from caml.tracking.store import Store, database_of, holds_runs
from caml.tracking.sync import EXPERIMENT, Uploader, unreachable

ATTEMPTS = 4  # failures in a row after which the store counts as gone
PAUSE = 1.0  # seconds after the first failure, twice as many after each that follows
NICE = 10  # the scheduling priority of the thread, below that of training


class Mirror:
    """Brings the StageRuns that are submitted into the tracking store at `uri`, as used by `ablation`.

    mlflow is imported, and the store opened, by the thread and only when something is missing there. When
    the store does not answer, `say` is told once and the mirror ends; the ledger has everything.
    """

    def __init__(
        self,
        ledger: Ledger,
        uri: str,
        ablation: str,
        say: Callable[[str], None],
        experiment: str = EXPERIMENT,
        interval: float = 10.0,
    ):
        """`interval`: seconds before each round, in which what was submitted goes in few large batches.

        Before the first one too: a launch that compiles its program would wait for mlflow's import.
        """
        self._ledger = ledger
        self._uri = uri
        self._ablation = ablation
        self._say = say
        self._experiment = experiment
        self._interval = interval
        self._notes = Notes(ledger, uri, f"{experiment}/{ablation}")
        self._pending: dict[str, None] = {}  # in the order of submission
        self._change = threading.Condition()
        self._stopping = threading.Event()
        self._ended = False
        self._uploader: Uploader | None = None
        self._thread: threading.Thread | None = None

    def submit(self, name: str) -> None:
        """Say that the StageRun `name` has something new: a segment, its end, scores. Returns at once."""
        if self._notes.has(name):
            return
        with self._change:
            if self._ended:
                return
            self._pending[name] = None
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="caml-mirror", daemon=True)
                self._thread.start()
            self._change.notify()

    def stop(self, timeout: float, progress: Callable[[int], None] | None = None) -> int:
        """Bring what is left, for at most `timeout` seconds; how many StageRuns are not in the store.

        `progress` is told a few times a second how many StageRuns are left.
        """
        self._stopping.set()
        with self._change:
            self._change.notify()
        deadline = time.monotonic() + timeout
        while self._thread and self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.2)
            if progress:
                progress(len(self._pending))
        left = len(self._pending)
        if left and not self._ended:
            self._say(
                f"{counted(left, 'StageRun')} not in the tracking store yet; `caml sync` brings what is missing"
            )
        return left

    def _work(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            nice = max(NICE, os.getpriority(os.PRIO_PROCESS, 0))
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        while True:
            with self._change:
                self._change.wait_for(lambda: self._pending or self._stopping.is_set())
            self._stopping.wait(self._interval)
            with self._change:
                names = list(self._pending)
            error = self._round(names)
            self._notes.save()
            if error is not None:
                with self._change:
                    self._ended = True
                self._say(str(unreachable(self._uri, error)))
                return
            if self._stopping.is_set() and not self._pending:
                return

    def _round(self, names: list[str]) -> Exception | None:
        """Bring `names`; the store's last error, if it failed ATTEMPTS times in a row."""
        failed = 0
        while True:
            # mlflow, its database and its transport raise what they like, and training must not die of it.
            try:
                if self._uploader is None and names:
                    self._uploader = Uploader(
                        self._ledger, Store(self._uri, self._experiment), self._ablation
                    )
                while names:
                    self._bring(names[0])
                    del names[0]
                    failed = 0
                if self._uploader and self._stopping.is_set():
                    self._uploader.finish()
                return None
            except Exception as error:
                self._uploader = None  # a new one asks the store what it has
                failed += 1
                if failed == ATTEMPTS:
                    return error
                time.sleep(PAUSE * 2 ** (failed - 1))

    def _bring(self, name: str) -> None:
        assert self._uploader
        # Not pending from here on: what is submitted while it is read is brought in the next round.
        with self._change:
            self._pending.pop(name, None)
        try:
            self._uploader.bring(name)
            self._notes.add(name)
        except Failure as failure:  # of the ledger: this StageRun is damaged, the others go on
            self._say(str(failure))
        except Exception:
            with self._change:
                self._pending[name] = None
            raise


class Notes:
    """What was brought to one store, noted beside the ledger: an idle launch need not import mlflow to know.

    Only complete StageRuns count. `caml sync` does not trust these notes and asks the store.
    """

    def __init__(self, ledger: Ledger, uri: str, used_by: str):
        self._ledger = ledger
        self._path = (
            ledger.root / ".mirrored" / f"{files.digest_bytes(f'{uri} {used_by}'.encode())[:16]}.json"
        )
        database = database_of(uri)
        # Without its database, nothing is there whatever the notes say.
        there = self._path.exists() and (database is None or holds_runs(database.absolute()))
        self._brought: dict[str, list[str]] = {}
        # What a power cut left of them is no note.
        with contextlib.suppress(ValueError):
            self._brought = json.loads(self._path.read_text()) if there else {}
        self._changed = False

    def has(self, name: str) -> bool:
        """Whether the store has all of the complete StageRun `name`."""
        return name in self._brought and self._brought[name] == self._complete(name)

    def add(self, name: str) -> None:
        """Note that the store has what the ledger has of `name` now."""
        evaluations = self._complete(name)
        if evaluations is not None:
            self._brought[name] = evaluations
            self._changed = True

    def save(self) -> None:
        """Write the notes, where there are new ones."""
        if self._changed:
            files.write_json(self._path, self._brought, durable=False)
            self._changed = False

    def _complete(self, name: str) -> list[str] | None:
        complete = self._ledger.state(name) is State.COMPLETE
        return self._ledger.evaluations(name) if complete else None
