"""One model on the CPU: tokens a second of our loop, and of the same architecture in PyTorch, eager and compiled.

Each runs in a process of its own, in turn, several rounds; medians over stretches of steps, and the spread beside them.
The peer needs PyTorch: `.venv/bin/python -m pip install torch==2.13.0`.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lines import Clock, line, printed

STRETCHES = 4


@dataclass(frozen=True)
class Case:
    """A model, its batches, and the steps of a stretch that is timed."""

    name: str
    width: int
    layers: int
    heads: int
    head: int
    mlp: int
    vocabulary: int
    length: int
    batch: int
    steps: int

    @property
    def told(self) -> str:
        """In words."""
        shape = f"{self.width} wide, {self.layers} layers, {self.vocabulary} words"
        return f"{self.name} ({shape}, {self.batch} x {self.length} tokens)"


CASES = {
    case.name: case
    for case in (
        Case("0.2M", 64, 4, 4, 16, 192, 512, 128, 32, 8),
        Case("1M", 128, 4, 4, 32, 384, 2048, 128, 32, 4),
        Case("6M", 256, 6, 8, 32, 768, 4096, 256, 16, 2),
    )
}


class Chance:
    """Batches of tokens by chance, a document in each row."""

    def __init__(self, case: Case):
        self._case = case

    def batches(self, first: int, count: int) -> Any:
        """As `StageData.batches`."""
        from caml.training.step import Batch

        case = self._case
        axes = (count, case.batch, case.length)
        tokens = np.random.default_rng(first).integers(0, case.vocabulary, axes).astype(np.int32)
        weights = np.ones(axes, np.float32)
        weights[..., -1] = 0
        positions = np.broadcast_to(np.arange(case.length, dtype=np.int32), axes)
        return Batch(tokens, np.ones_like(tokens), positions, weights)


def train_here(
    case: Case,
    members: int,
    steps: int,
    places: int,
    rows: int = 0,
    precision: str = "float32",
    fused: bool = False,
) -> list[float]:
    """Train so many members in this process by `train`; tokens a second of each dispatch but the first.

    `rows` and `fused` as in Execution, `precision` as in Stage.
    """
    from caml.training.devices import prepare_devices

    prepare_devices()
    from caml.models.sizes import Model
    from caml.training.execution import Execution
    from caml.training.loop import Member, train
    from caml.training.optimizer import Optimizer, Schedule
    from caml.training.pacing import Pace

    model = Model(case.name, case.width, case.layers, case.heads, case.heads, case.head, case.mlp)
    optimizer = Optimizer("adamw", 1e-3, 1e-3)
    grid = [Member(str(seed), seed, steps, optimizer, Schedule(), Chance(case)) for seed in range(members)]
    clock, pace = Clock(), Pace(steps=case.steps, places=places, asked=Execution(rows=rows, fused=fused))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Path(folder)
        train(
            grid,
            model,
            case.vocabulary,
            case.batch,
            case.length,
            checkpoints,
            clock,
            pace,
            threading.Event(),
            precision=precision,
        )
    return [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(clock.at)]


def peer_of(case: Case, stretches: int) -> list[str]:
    """The arguments with which `python -m` trains the peer."""
    sizes = ("width", "layers", "heads", "head", "mlp", "vocabulary", "length", "batch", "steps")
    return [
        "benchmarks.peer",
        *(f"--{name}={getattr(case, name)}" for name in sizes),
        f"--stretches={stretches}",
    ]


def require_torch() -> None:
    """End here where the peer cannot run."""
    if importlib.util.find_spec("torch") is None:
        sys.exit("the peer needs PyTorch: .venv/bin/python -m pip install torch==2.13.0")


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", choices=CASES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ours:
        case = CASES[asked.ours]
        print(json.dumps(train_here(case, 1, case.steps * (STRETCHES + 1), 1)))
        return
    require_torch()
    for case in (CASES[name] for name in asked.cases):
        peer = peer_of(case, STRETCHES)
        found: dict[str, list[float]] = {"ours": [], "eager": [], "compiled": []}
        for _ in range(asked.rounds):
            found["ours"] += printed(["benchmarks.training", "--ours", case.name])
            found["eager"] += printed(peer)
            found["compiled"] += printed([*peer, "--compile"])
        mine = float(np.median(found["ours"]))
        for kind, goal in (("eager", 1.0), ("compiled", 0.0)):
            theirs = float(np.median(found[kind]))
            spread = {"ours": found["ours"], "peer": found[kind]}
            line(
                "training",
                f"{case.told}, PyTorch {kind}",
                mine,
                theirs,
                "tokens/s",
                mine / theirs,
                goal,
                spread,
            )


if __name__ == "__main__":
    main()
