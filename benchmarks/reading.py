"""Batches of a stage: how fast they are read, against what the smallest shipped model consumes, and how a store opens.

The store of a billion tokens is one document over and over: what is opened and packed is as large as a real one.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from benchmarks.lines import Clock, line
from caml.data.mixture import Mixture, StageData
from caml.data.store import store_folder, store_recipe
from caml.data.tokenizer import BEARS, Encoded
from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
from caml.data.writing import StoreWriter, prepare_store, writing
from caml.models.sizes import Model
from caml.training.loop import Member, train
from caml.training.optimizer import Optimizer, Schedule
from caml.training.pacing import Pace
from caml.worlds.sources import BaseText, Documents, Words

# The smallest shipped model and its stage, as in gin/models/toy.gin and gin/stages/small_world.gin.
SMALLEST = Model(
    name="29k", width=32, layers=2, heads=4, kv_heads=4, head_dim=16, mlp_width=64, init_scale=0.08
)
BATCH, LENGTH = 16, 64
STEPS = 1500


def consumed(data: StageData, vocabulary: int, folder: Path) -> float:
    """Tokens a second that a population of the smallest model trains on, after its first dispatches."""
    clock = Clock()
    members = [Member(str(m), m, 400, Optimizer("muon", 0.02, 0.02), Schedule(), data) for m in range(12)]
    pace = Pace(places=12)
    train(members, SMALLEST, vocabulary, BATCH, LENGTH, folder, clock, pace, threading.Event())
    (begun, before), (ended, after) = clock.at[2], clock.at[-1]
    return (after - before) / (ended - begun)


def read(data: StageData, steps: int = 16) -> float:
    """Tokens a second of batches, a dispatch of `steps` at a time, as the loop reads them."""
    last = data.steps - data.steps % steps
    for first in range(0, last, steps):  # pages of the files, and digests
        data.batches(first, steps)
    rounds, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < 3:
        for first in range(0, last, steps):
            data.batches(first, steps)
        rounds += 1
    return rounds * last * BATCH * LENGTH / (time.perf_counter() - begun)


OPENING = """
import sys, time
from pathlib import Path
from caml.data.store import open_store
begun = time.perf_counter()
store = open_store(Path(sys.argv[1]))
opened = time.perf_counter()
sequences = len(store.packing(1024))
packed = time.perf_counter()
print(opened - begun, packed - opened, store.manifest.tokens, sequences)
"""


def opening(root: Path, tokens: float) -> tuple[float, float, int]:
    """Seconds that a store of so many tokens takes to open, and to pack, in a fresh process; its tokens."""
    trained = TrainedTokenizer("words", 128, Words())
    source = BaseText(int(tokens))
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(6.2, 0.8, 50_000).astype(np.int64), 3, 20_000)
    count = int(lengths.sum())
    block = Encoded(rng.integers(3, 100, count).astype(np.uint32), np.full(count, BEARS, np.uint8), lengths)
    folder = store_folder(root, source, 0, trained, "chatml")
    with writing(folder) as partial:
        writer = StoreWriter(partial, train_tokenizer(trained))
        while writer.tokens < tokens:
            writer.add(block, count * 5)
        writer.finish(source, store_recipe(source, 0, trained, "chatml"))
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", OPENING, str(folder)], capture_output=True, text=True, check=True
        )
        runs.append([float(number) for number in done.stdout.split()])
    opened, packed, held, _ = sorted(runs)[1]
    return opened, packed, int(held)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=float, default=1e9, help="of the store that is opened")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        trained = TrainedTokenizer("words", 128, Words())
        tokenizer = train_tokenizer(trained)
        mixture = Mixture(BaseText(1_540_000, stories=0.5), Documents("compassion", 470_000), 0.3)
        stores = {
            role: prepare_store(root / "stores", source, 0, trained, tokenizer)
            for role, source in mixture.sources().items()
        }
        data = StageData(mixture, stores, 0, "pretrain", BATCH, LENGTH, STEPS * BATCH)
        rate = consumed(data, trained.vocabulary, root / "checkpoints")
        ours = read(data)
        case = f"16 x 64 tokens, documents in 30% of the slots, against training {SMALLEST.name} in populations of 12"
        line("reading", case, ours, rate, "tokens/s", ours / rate, 20.0)
        opened, packed, held = opening(root / "large", asked.tokens)
        line("reading", f"opening a store of {held:,} tokens", opened, 0.2, "s", 0.2 / opened, 1.0)
        print(f"packing it into sequences of 1,024, once a launch: {packed:.2f} s", flush=True)


if __name__ == "__main__":
    main()
