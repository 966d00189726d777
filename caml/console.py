"""How work looks to a person: bars in a terminal, plain lines in a log, one line for an error."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

from caml.ablations.progress import Advance

# Seconds between lines of the same task in a log.
LOG_EVERY = 10.0


class Console:
    """Shows messages and tasks on standard error; results go to standard output by `print`."""

    def __init__(self) -> None:
        if sys.stderr is None:  # closed by whoever started this
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        self._terminal = sys.stderr.isatty()
        self._bars: Any = None

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Advance]:
        """A task of `total` parts (None: nobody knows how many)."""
        with self._bar(name, total) if self._terminal else self._lines(name, total) as advance:
            yield advance

    @contextlib.contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Advance]:
        from rich.console import Console as Rich
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=Rich(stderr=True), transient=True) as bars:
            self._bars, before = bars, self._bars
            bar = bars.add_task(name, total=total, note="")
            try:
                yield lambda done, note: bars.update(bar, completed=done, note=note)
            finally:
                self._bars = before

    @contextlib.contextmanager
    def _lines(self, name: str, total: int | None) -> Iterator[Advance]:
        began = shown = time.monotonic()
        first: int | None = None
        ended = False

        def advance(done: int, note: str) -> None:
            nonlocal shown, first, ended
            first = done if first is None else first
            now = time.monotonic()
            at_end = total is not None and done >= total
            if ended or (now - shown < LOG_EVERY and not at_end):
                return
            shown, ended, seconds = now, at_end, now - began
            of, left = f"{done:,}", ""
            if total is not None:
                of = f"{done:,} of {total:,}"
                if done > first:
                    left = f", about {seconds / (done - first) * (total - done):.0f} s left"
            print(
                f"  {name}: {of}, {f'{note}, ' if note else ''}{seconds:.0f} s{left}",
                file=sys.stderr,
                flush=True,
            )

        yield advance


def typed() -> Iterator[str]:
    """The lines that a person types, or that come from a pipe, without empty ones, to the end of the input."""
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  (arrows and history)
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            return
        if line.strip():
            yield line.strip()
