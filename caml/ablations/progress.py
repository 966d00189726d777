"""What an ablation tells while it works; how that looks is the command line's affair."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

Advance = Callable[[int, str], None]


class Stopped(Exception):
    """The launch was told to stop, and left everything so that the same command goes on."""


class Progress(Protocol):
    """Something that shows messages, and tasks that advance."""

    def say(self, text: str) -> None:
        """Show one line that stays."""
        ...

    def task(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """A task of `total` parts, None where nobody knows; the context gives a function of (parts done, a note)."""
        ...
