"""Optimizer and schedule as configured, and the numbers that a member brings into the compiled program.

No jax here: a configuration is read, checked and shown without starting it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from caml.config.errors import require

NAMES = ("adamw", "muon")
SHAPES = ("wsd", "cosine")
# About the largest number of a float32, in which a step computes.
LARGEST = 3.4e38


@dataclass(frozen=True)
class Optimizer:
    """`adamw`, or `muon` (matrices by Muon; embedding, norms and head by AdamW at `embedding_rate`).

    A step whose gradient norm is above `spike` times the mean of those before is skipped (0: never): see `spikes`.
    """

    name: str
    rate: float
    embedding_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0
    spike: float = 10.0

    def __post_init__(self) -> None:
        require(self.name in NAMES, "name", f"'{self.name}' is not one of {', '.join(NAMES)}")
        for field in ("rate", "embedding_rate", "epsilon"):
            value = getattr(self, field)
            require(0 < value < LARGEST, field, f"{value} is not a positive number that a float32 holds")
        for field in ("beta1", "beta2", "momentum"):
            value = getattr(self, field)
            require(0 <= value < 1, field, f"{value} is not at least 0 and below 1")
        for field in ("weight_decay", "clip"):
            value = getattr(self, field)
            require(
                0 <= value < LARGEST, field, f"{value} is not 0 or a positive number that a float32 holds"
            )
        require(
            self.spike == 0 or 1 < self.spike < LARGEST,
            "spike",
            f"{self.spike} is not 0 (no step is skipped) or a number above 1 that a float32 holds",
        )


@dataclass(frozen=True)
class Schedule:
    """Linear warmup, then `wsd` (constant, linear decay at the end) or `cosine`, down to `floor`.

    `warmup` and `decay` are shares of the stage's steps, `floor` a share of the peak rate.
    """

    shape: str = "wsd"
    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        require(self.shape in SHAPES, "shape", f"'{self.shape}' is not one of {', '.join(SHAPES)}")
        for field in ("warmup", "decay", "floor"):
            value = getattr(self, field)
            require(0 <= value <= 1, field, f"{value} is not a share between 0 and 1")
        require(
            self.shape != "wsd" or self.warmup + self.decay <= 1,
            "decay",
            f"warmup {self.warmup} and decay {self.decay} together pass 1",
            "warmup",
            "shape",
        )


class Hyper(NamedTuple):
    """Numbers of one member as arrays (float32, `steps` and `cosine` int32); stacked in a population."""

    steps: Any
    rate: Any
    embedding_rate: Any
    beta1: Any
    beta2: Any
    epsilon: Any
    momentum: Any
    weight_decay: Any
    clip: Any
    spike: Any
    cosine: Any
    warmup: Any
    decay: Any
    floor: Any
    beta: Any
    matrix_share: Any
    output_share: Any


def hyper(
    optimizer: Optimizer, schedule: Schedule, steps: int, beta: float = 0.0, transfer: float = 1.0
) -> Hyper:
    """The member's numbers for a stage of `steps` steps.

    `beta` is that of its preference loss, where it has one; `transfer` the model's (see `Model`).
    """
    numbers = {
        field: getattr(optimizer, field)
        for field in ("rate", "beta1", "beta2", "epsilon", "momentum", "weight_decay", "clip", "spike")
    }
    adamw_rate = optimizer.embedding_rate if optimizer.name == "muon" else optimizer.rate
    numbers |= {"embedding_rate": adamw_rate, "floor": schedule.floor, "beta": beta}
    numbers |= {"matrix_share": transfer if optimizer.name == "adamw" else 1.0, "output_share": transfer}
    numbers |= {"warmup": schedule.warmup * steps, "decay": schedule.decay * steps}
    return Hyper(
        steps=np.int32(steps),
        cosine=np.int32(schedule.shape == "cosine"),
        **{name: np.float32(value) for name, value in numbers.items()},
    )
