"""Processes that work for this one: fresh ones, that leave Ctrl-C to it and end when it does."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil


def running(pid: int) -> bool:
    """Whether a process of this machine is at work: one that ended and that nobody has asked after is not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def pool(
    workers: int, begin: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Up to `workers` processes, in each of which `begin(*arguments)` is called first.

    They are spawned: jax has threads of its own, which a fork would not survive. At the end, what they have not
    begun is dropped.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _begin, (begin, arguments)) as executor:
        try:
            yield executor
        finally:
            executor.shutdown(cancel_futures=True)


def submit(executor: ProcessPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:
    """Submit a call. Ctrl-C goes to all of a terminal: a process that this starts inherits that it is not for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        return executor.submit(function, *arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))


def _begin(begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    def follow(parent: Any) -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, args=(multiprocessing.parent_process(),), daemon=True).start()
    if begin:
        begin(*arguments)
