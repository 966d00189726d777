"""A grid of 12 cells of the quickstart's small size: one launch, against a launch for each, ours and the peer's.

Wall-clock from the start of a process to its end, compilation and all; every arrangement begins without compiled
programs on the disk, and later processes of the same engine find those of the first.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from benchmarks.lines import line
from benchmarks.training import Case, peer_of, require_torch, train_here

CELLS = 12
STRETCH = 200
# gin/models/toy.gin and gin/stages/small_world.gin.
SMALL = Case("29k", 32, 2, 4, 16, 64, 128, 64, 16, 16)


def seconds(processes: Sequence[list[str]], at_once: int = 1) -> float:
    """Wall-clock of `processes`, so many at a time, from an empty cache of compiled programs."""
    with tempfile.TemporaryDirectory() as cache, ThreadPoolExecutor(at_once) as pool:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}

        def run(arguments: list[str]) -> None:
            subprocess.run(
                [sys.executable, "-m", *arguments], check=True, env=environment, stdout=subprocess.DEVNULL
            )

        begun = time.perf_counter()
        list(pool.map(run, processes))
        return time.perf_counter() - begun


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600, help="of each cell; a multiple of 200")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ours", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.ours:
        train_here(SMALL, asked.ours, asked.steps, asked.ours)
        return
    require_torch()
    ours = ["benchmarks.grid", f"--steps={asked.steps}", "--ours"]
    steps = {f.name: getattr(SMALL, f.name) for f in SMALL.__dataclass_fields__.values()} | {"steps": STRETCH}
    peer = peer_of(Case(**steps), asked.steps // STRETCH - 1)
    arrangements = {
        "one launch": ([[*ours, str(CELLS)]], 1, 0.0),
        "a launch for each cell, one after the other": ([[*ours, "1"]] * CELLS, 1, 1.5),
        "PyTorch, one after the other": ([peer] * CELLS, 1, 1.8),
        "PyTorch, two at a time with a thread each": ([[*peer, "--threads=1"]] * CELLS, 2, 1.3),
    }
    found: dict[str, list[float]] = {name: [] for name in arrangements}
    for _ in range(asked.rounds):
        for name, (processes, at_once, _) in arrangements.items():
            found[name].append(seconds(processes, at_once))
    mine = found["one launch"]
    for name, (_, _, goal) in list(arrangements.items())[1:]:
        one, theirs = float(np.median(mine)), float(np.median(found[name]))
        case = f"{CELLS} cells of {SMALL.name}, {asked.steps} steps of {SMALL.batch} x {SMALL.length} tokens; {name}"
        line("grid", case, one, theirs, "s", theirs / one, goal, {"ours": mine, "peer": found[name]})


if __name__ == "__main__":
    main()
