"""From `caml run` to the first training step that was made, without and with compiled programs on the disk.

The stage has one step, so the line of progress that ends it tells of the first: `caml run` prints it when the step was
made, its loss was read and the StageRun completed in the ledger. Then the process is killed. Token stores are there
before; ledger and tracking store are not. Python's own compiled files are.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.lines import line
from benchmarks.one_model import write_ablation
from benchmarks.training import CASES, Case

# Seconds: the limits that were set for a launch without and with programs on the disk.
LIMITS = {"cold": 10.0, "warm": 6.0}
KEPT = ("stores", "tokenizers")


def seconds_to_first_step(file: Path, case: Case, cache: Path) -> float:
    """Seconds from the start of a process to its line of the first step; its output folder holds stores alone."""
    output = file.parent / "runs"
    for path in output.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "caml", "run", str(file)], stderr=subprocess.PIPE, text=True, env=environment
    ) as launch:
        assert launch.stderr
        told = []
        for text in launch.stderr:
            told.append(text)
            if text.startswith(f"  pretrain {case.name}: 1 of 1"):
                passed = time.perf_counter() - begun
                launch.kill()
                return passed
    sys.exit(f"no step was made:\n{''.join(told)}")


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    case = CASES["0.2M"]
    found: dict[str, list[float]] = {kind: [] for kind in LIMITS}
    with tempfile.TemporaryDirectory() as folder:
        file = write_ablation(Path(folder), case, steps=1)
        subprocess.run(
            [sys.executable, "-m", "caml", "data", "prepare", str(file)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        for number in range(asked.rounds):
            cache = Path(folder) / f"cache-{number}"
            for kind in found:  # the first leaves its programs there for the second
                found[kind].append(seconds_to_first_step(file, case, cache))
    for kind, limit in LIMITS.items():
        mine = float(np.median(found[kind]))
        line("startup", f"{case.told}, {kind}", mine, limit, "s", limit / mine, 1.0, {"ours": found[kind]})


if __name__ == "__main__":
    main()
