"""A profiler's trace of a few dispatches, for whoever asks where the time of training goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# Dispatches of a population: the first are slower than those that follow, and a few tell what all do.
PASSED, TRACED = 2, 2


class Profile:
    """A trace into `folder`, of the first population that makes more than PASSED dispatches, and of no other.

    `say` is told where it lies. Training computes the same with it, and waits twice for the devices.
    """

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self._folder, self._say = folder, say
        self._left = TRACED
        self.begun = False

    def before(self, dispatch: int, state: Any) -> None:
        """Called before the dispatch with that number (from 0) is sent; `state` is there when the one before ends."""
        if dispatch == PASSED and not self.begun:
            jax.block_until_ready(state)
            self.begun = True
            options = jax.profiler.ProfileOptions()
            # Each call of a Python function would be half of all events, and slow the host down.
            options.python_tracer_level = 0
            # The plain trace does not open in Perfetto.
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)

    def after(self, state: Any) -> bool:
        """Called when a dispatch was sent, and `state` is there when it ends; whether the trace has ended with it."""
        if not (self.begun and self._left):
            return False
        self._left -= 1
        if self._left:
            return False
        jax.block_until_ready(state)
        self._end(TRACED)
        return True

    def close(self) -> None:
        """Called when the population has ended, in whatever way: the trace ends with it."""
        if self.begun and self._left:
            traced, self._left = TRACED - self._left, 0
            self._end(traced)

    def _end(self, traced: int) -> None:
        jax.profiler.stop_trace()
        file = max(
            self._folder.glob("plugins/profile/*/perfetto_trace.json.gz"),
            key=lambda path: path.stat().st_mtime,
        )
        self._say(
            f"a profile of {traced} dispatch{'es' if traced > 1 else ''} is written: open {file} at "
            f"https://ui.perfetto.dev, or `tensorboard --logdir {self._folder}` (it needs "
            "tensorboard-plugin-profile)"
        )
