"""The pace of training: how many steps go to the devices at once, and when a checkpoint or a probe is due."""

from collections.abc import Iterator
from dataclasses import dataclass

from caml.training.execution import AS_SUITS, Execution

# About how long a dispatch may take: between two of them alone a launch can be stopped, and write a checkpoint. One
# costs some 10 ms of a processor beside the devices' work.
SECONDS = 5.0
# Floating-point operations a second that a device is taken to make in training, where there is no peak of which to take
# a SHARE. A guess, for it changes no bit: a core of the Xeon in experiments/LOG.md makes 50 to 100 thousand million.
GUESSED = {"cpu": 50e9}
ELSEWHERE = 50e12
SHARE = 0.3


@dataclass(frozen=True)
class Pace:
    """How a population is trained: nothing here changes a member's bits but `asked`, and `places` on some machines.

    At most `steps` are made in one dispatch (see `steps_at_once`). `places` is for how many members a program is
    compiled (0: as many as there are); populations with equal places share it. Where members come in turn an empty
    place costs nothing, and their bits depend on it only where they leave devices free; side by side it costs what a
    member costs. A checkpoint is written when `checkpoint_seconds` have passed or `checkpoint_steps` were made (0: not
    by steps), the newest `keep` are kept. `observe_steps` is the cadence of `Sink.observe` (0: never), `asked` what is
    asked of the layout.
    """

    steps: int = 16
    places: int = 0
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int = 0
    keep: int = 2
    observe_steps: int = 0
    asked: Execution = AS_SUITS


def steps_at_once(most: int, flops: float, platform: str, peak: float | None) -> int:
    """How many steps a dispatch has: at most `most`, at least 1, and no more than take about SECONDS.

    `flops` are those of a step on one device, `peak` how many a second it makes at most, where that is known.
    """
    rate = SHARE * peak if peak else GUESSED.get(platform, ELSEWHERE)
    return max(1, min(most, int(SECONDS * rate / flops)))


def dispatches(first: int, last: int, steps: int, observe_steps: int = 0) -> Iterator[tuple[int, int]]:
    """First step and number of steps, at most `steps`, of each dispatch from step `first` to `last`."""
    while first < last:
        count = min(steps, last - first)
        if observe_steps:
            count = min(count, observe_steps - first % observe_steps)
        yield first, count
        first += count
