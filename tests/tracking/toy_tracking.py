"""StageRuns that need no training, and damage to files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from caml.tracking.ledger import Ledger

EVALUATION = "e" * 64


class Trainer:
    """Writes into a ledger what a training with known numbers would, in segments of 10 steps."""

    def __init__(self, ledger: Ledger):
        self.ledger = ledger

    def start(self, name: str, step: int = 0) -> None:
        manifest = {
            "fingerprint": f"{name:0>64}",
            "identity": {"is": "Run", "model": {"is": "Model", "width": 32}, "ratios": [0.1, 0.2]},
            "datasets": [{"name": "world", "digest": "d1", "source": "caml/worlds", "context": "pretrain"}],
            "stage": "pretrain",
            "arm": "compassion",
            "ratio": 0.1,
            "seed": 3,
        }
        self.ledger.start(name, "WIDTH = 32\n", manifest, {"commit": "c0ffee", "dirty": False})
        self.ledger.truncate(name, step)

    def segment(self, name: str, begin: int) -> None:
        steps = np.arange(begin + 1, begin + 11)
        loss = self.loss(steps)
        self.ledger.write_segment(
            name,
            "metrics",
            begin,
            begin + 10,
            {
                "step": steps,
                "tokens": steps * 64,
                "loss": loss,
                "gradient_norm": loss / 2,
                "rate": loss * 0 + 0.1,
            },
        )
        probe = {"step": [begin + 10], "tokens": [64], "outcome": ["mechanism"], "value": [begin / 10]}
        self.ledger.write_segment(name, "trajectory", begin, begin + 10, probe)

    def finish(self, name: str, step: int) -> None:
        path = self.ledger.params_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.arange(100, dtype=np.float32).tobytes())
        self.ledger.complete(name, step, {"final_loss": 0.5, "learned_at": float("nan")})

    def evaluate(self, name: str, evaluation: str = EVALUATION) -> None:
        numbers = np.array([0.5, -0.25])
        margins = {
            "item": ["disposition/new_frame/a", "disposition/new_frame/b"],
            "margin": numbers,
            "tokens_aligned": numbers * 0 + 1,
            "tokens_opposed": numbers * 0 + 2,
            "margin_token": numbers / 2,
            "margin_character": numbers / 10,
            "margin_unconditional": numbers - 1,
        }
        outcomes = {"tax_bits_per_byte": 1.25, "sft_loss_drop": float("nan")}
        self.ledger.write_evaluation(name, evaluation, margins, outcomes)

    def whole(self, name: str, steps: int = 30) -> None:
        self.start(name)
        for begin in range(0, steps, 10):
            self.segment(name, begin)
        self.finish(name, steps)
        self.evaluate(name)

    @staticmethod
    def loss(steps: Sequence[int] | np.ndarray) -> np.ndarray:
        return 1 / np.asarray(steps, dtype=float)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose(path: Path) -> None:
    path.unlink()
