"""A toy to train: a model of 1,600 parameters, random text that can be learned, and a sink that remembers."""

import dataclasses
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from caml.models.sizes import Model
from caml.training import layouts
from caml.training.instruments import Reading
from caml.training.loop import Member, Trained, train
from caml.training.optimizer import Optimizer, Schedule
from caml.training.pacing import Pace
from caml.training.profiling import Profile
from caml.training.step import Batch

MODEL = Model("toy", width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=24, init_scale=0.1)
VOCAB, BATCH, LENGTH = 16, 2, 16
ADAMW = Optimizer("adamw", rate=0.01, embedding_rate=0.01)
MUON = Optimizer("muon", rate=0.02, embedding_rate=0.01, weight_decay=0.01)


@dataclasses.dataclass(frozen=True)
class Counting:
    """Sequences that count up from a random start.

    At step `broken` the loss is not finite, and at those of `spikes` its gradient is a thousand times as large.
    """

    seed: int
    steps: int
    broken: int = -1
    spikes: tuple[int, ...] = ()

    def batches(self, first_step: int, count: int) -> Batch:
        assert first_step + count <= self.steps
        return Batch(
            *map(np.stack, zip(*map(self.batch, range(first_step, first_step + count)), strict=True))
        )

    def batch(self, step: int) -> Batch:
        start = np.random.default_rng((self.seed, step)).integers(0, VOCAB, (BATCH, 1))
        tokens = ((start + np.arange(LENGTH)) % VOCAB).astype(np.int32)
        positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
        weights = np.ones(tokens.shape, np.float32)
        weights[:, -1] = 0
        if step == self.broken:
            weights[0, 0] = np.nan
        if step in self.spikes:
            # Their sum is 1: the loss is no mean any more, but a difference of large numbers.
            weights[:] = 0
            weights[0, :2] = 1000, -999
        return Batch(tokens, np.ones_like(tokens), positions, weights)


@dataclasses.dataclass(frozen=True)
class Preferring:
    """Preference pairs: after a prompt that counts up, the chosen answer goes on counting and the rejected one doesn't.

    A row holds one token of a pair that was cut, then a pair of halves of six tokens, and padding.
    """

    seed: int
    steps: int

    def batches(self, first_step: int, count: int) -> Batch:
        assert first_step + count <= self.steps
        return Batch(
            *map(np.stack, zip(*map(self.batch, range(first_step, first_step + count)), strict=True))
        )

    def batch(self, step: int) -> Batch:
        draw = np.random.default_rng((self.seed, step))
        chosen = (draw.integers(0, VOCAB, (BATCH, 1)) + np.arange(6)) % VOCAB
        rejected = chosen.copy()
        rejected[:, 4:] = (rejected[:, 4:] + draw.integers(1, VOCAB, (BATCH, 1))) % VOCAB
        rest = draw.integers(0, VOCAB, (BATCH, 1))
        padding = np.zeros((BATCH, LENGTH - 13), int)
        tokens = np.concatenate([rest, chosen, rejected, padding], axis=1).astype(np.int32)
        segments = np.array([1] + [3] * 6 + [4] * 6 + [0] * (LENGTH - 13), np.int32)
        positions = np.array([0, *range(6), *range(6), *[0] * (LENGTH - 13)], np.int32)
        weights = np.zeros(LENGTH, np.float32)
        weights[[4, 5]], weights[[10, 11]] = 1, -1
        several = [np.broadcast_to(x, tokens.shape) for x in (segments, positions, weights)]
        return Batch(tokens, *several)


def member(seed: int, steps: int, broken: int = -1, spikes: tuple[int, ...] = (), **changes: Any) -> Member:
    """A member on text of its own."""
    settings: dict[str, Any] = {"optimizer": MUON, "schedule": Schedule("cosine", warmup=0.1)}
    settings |= {"data": Counting(seed, steps, broken, spikes)} | changes
    return Member(f"member-{seed}-{steps}", seed, steps, **settings)


class Memory:
    """A sink that keeps what it is told, in order, and stops the training at step `stop_at`."""

    def __init__(self, stop_at: int = -1):
        self.events: list[tuple] = []
        self.metrics: list[tuple[int, dict[str, np.ndarray]]] = []
        self.observed: dict[int, dict[str, np.ndarray]] = {}
        self.final: dict[int, tuple[dict[str, np.ndarray], int]] = {}
        self.readings: list[Reading] = []
        self.stop, self._stop_at = threading.Event(), stop_at

    def resume(self, step: int, kept: dict[str, np.ndarray]) -> None:
        self.events.append(("resume", step))
        self.resumed = kept

    def record(self, first_step: int, arrays: dict[str, np.ndarray]) -> None:
        self.events.append(("record", first_step + arrays["loss"].shape[1]))
        self.metrics.append((first_step, arrays))

    def close(self, step: int) -> dict[str, np.ndarray]:
        self.events.append(("close", step))
        return {"of the sink": np.arange(step, dtype=np.float64)}

    def observe(self, step: int, params: dict[str, np.ndarray]) -> None:
        self.events.append(("observe", step))
        self.observed[step] = params

    def measured(self, reading: Reading) -> None:
        self.readings.append(reading)

    def progress(self, step: int, last_step: int, tokens: int, loss: np.ndarray) -> None:
        self.tokens = tokens
        if 0 <= self._stop_at <= step:
            self.stop.set()

    def finished(self, member: int, params: dict[str, np.ndarray], stopped: int) -> None:
        self.events.append(("finished", member))
        self.final[member] = (params, stopped)

    def column(self, name: str) -> np.ndarray:
        """A metric of all steps, `[members, steps]`."""
        return np.concatenate([arrays[name] for _, arrays in self.metrics], axis=1)


def run(
    members: list[Member],
    folder: Path,
    sink: Memory,
    profile: Profile | None = None,
    precision: str = "float32",
    **pace: Any,
) -> Trained:
    """Train toy members; the number of places is the same everywhere, so that tests of a precision share a program."""
    shape = MODEL, VOCAB, BATCH, LENGTH
    steps = Pace(**({"steps": 4, "places": 4} | pace))
    return train(members, *shape, folder, sink, steps, sink.stop, precision=precision, profile=profile)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two sets of parameters have the same bits."""
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


class Slowly(Memory):
    """A sink that says on standard output how far training is, and leaves time to be killed."""

    def progress(self, step: int, last_step: int, tokens: int, loss: np.ndarray) -> None:
        print(step, flush=True)
        time.sleep(0.02)


if __name__ == "__main__":
    layouts.MEMBERS_LIE[jax.default_backend()] = sys.argv[2]
    run([member(seed, 40) for seed in range(3)], Path(sys.argv[1]), Slowly(), checkpoint_steps=4)
