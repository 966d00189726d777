"""Garbage collection, kept out of the steps of training."""

import contextlib
import gc
import threading
from collections.abc import Iterator

_lock = threading.Lock()
_inside = 0
_before = True


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """While inside, Python collects garbage only where it is asked to, and nothing of what was there before.

    However this is left, the collector then runs again if it did before. It is one for the whole process: of several
    threads inside, the last one to leave sets it going.
    """
    global _inside, _before
    with _lock:
        if not _inside:
            _before = gc.isenabled()
            # Modules and compiled programs are most of what there is, and no garbage.
            gc.freeze()
            gc.disable()
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.unfreeze()
                if _before:
                    gc.enable()


def collect_young() -> None:
    """Collect what was made lately: a short work, for while the devices are busy."""
    gc.collect(1)


def collect() -> None:
    """Collect all that was made while the collector was kept out."""
    gc.collect()
