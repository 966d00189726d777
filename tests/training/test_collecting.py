"""The garbage collector: out of the steps, and back however training ends."""

import collections
import gc
import threading
import weakref
from pathlib import Path

import pytest
from toy_training import Memory, member, run

from caml.training.collecting import uncollected


class Watching(Memory):
    """A sink that remembers whether the collector runs, and does `then` at step 8."""

    def __init__(self, then=lambda: None):
        super().__init__()
        self.running, self._then = [], then

    def record(self, first_step: int, arrays: dict) -> None:
        super().record(first_step, arrays)
        self.running.append(gc.isenabled())
        if first_step == 8:
            self._then()


def test_the_collector_is_kept_out_of_training_and_back_after_it(tmp_path: Path):
    sink = Watching()
    run([member(0, 24)], tmp_path, sink)
    # The last dispatch is read when all have been made.
    assert sink.running == [False] * 5 + [True]
    assert gc.isenabled() and not gc.get_freeze_count()


def test_the_collector_is_back_after_an_exception(tmp_path: Path):
    def fail() -> None:
        raise RuntimeError("the sink failed")

    with pytest.raises(RuntimeError, match="the sink failed"):
        run([member(0, 24)], tmp_path, Watching(fail))
    assert gc.isenabled() and not gc.get_freeze_count()


def test_a_collector_that_was_off_stays_off(tmp_path: Path):
    gc.disable()
    try:
        run([member(0, 24)], tmp_path, Watching())
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_a_callback_does_to_the_collector_does_not_outlast_training(tmp_path: Path):
    def on_a_thread() -> None:
        thread = threading.Thread(target=gc.disable)
        thread.start()
        thread.join()

    run([member(0, 24)], tmp_path, Watching(on_a_thread))
    assert gc.isenabled()


def test_of_trainings_on_several_threads_the_last_one_brings_the_collector_back(tmp_path: Path):
    may_leave = threading.Event()
    inside = threading.Event()

    def another() -> None:
        with uncollected():
            inside.set()
            may_leave.wait(60)

    thread = threading.Thread(target=another)

    def begin() -> None:
        thread.start()
        assert inside.wait(60)

    # It enters while the collector is off, and leaves after the one that has turned it off.
    run([member(0, 24)], tmp_path, Watching(begin))
    assert not gc.isenabled()
    may_leave.set()
    thread.join()
    assert gc.isenabled() and not gc.get_freeze_count()


class Littering(Memory):
    """A sink that leaves a ring of references at each record, `held` for so many records; `left` counts those there."""

    def __init__(self, held: int):
        super().__init__()
        self.left: list[int] = []
        self._held, self._rings = collections.deque(maxlen=held), []

    def record(self, first_step: int, arrays: dict) -> None:
        super().record(first_step, arrays)
        self.left.append(sum(ring() is not None for ring in self._rings))
        ring = Ring()
        ring.itself = ring
        self._rings.append(weakref.ref(ring))
        self._held.append(ring)


class Ring:
    itself: "Ring"


def test_garbage_is_collected_between_the_steps(tmp_path: Path):
    sink = Littering(held=0)
    run([member(0, 40)], tmp_path, sink)
    # The last is read when no dispatch follows.
    assert sink.left == [0] * 9 + [1]


def test_older_garbage_is_collected_where_a_checkpoint_is_written(tmp_path: Path):
    sink = Littering(held=3)
    run([member(0, 96)], tmp_path, sink, checkpoint_steps=16)
    # Those that are held, and of those that were those since the checkpoint before.
    assert len(sink.left) == 24 and 3 < max(sink.left) <= 6
