"""What benchmarks share: lines of JSON, text to work on, memory of processes, and a clock of training."""

import datetime
import importlib.metadata
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "or")]
VERSIONS = (
    "caml",
    "numpy",
    "tokenizers",
    "datasets",
    "datasketch",
    "jax",
    "jax-cuda13-plugin",
    "torch",
    "transformers",
)


def line(
    benchmark: str,
    case: str,
    ours: float,
    peer: float,
    unit: str,
    ratio: float,
    goal: float,
    runs: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Print what was measured. `ratio` is how many times better ours is, and `goal` the least that it is to be.

    Of `runs`, such as ours and the peer's, the least and the most is told.
    The line is also added to the file that the environment's `KEEP` names, if any, for `benchmarks.table`.
    """
    found = {"benchmark": benchmark, "case": case, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio}
    figures = {key: float(f"{x:.4g}") if isinstance(x, float) else x for key, x in found.items()}
    there = {found.name.lower() for found in importlib.metadata.distributions() if found.name}
    versions = {name: importlib.metadata.version(name) for name in VERSIONS if name in there}
    versions["python"] = platform.python_version()
    spread = {of: [float(f"{x:.4g}") for x in (min(some), max(some))] for of, some in (runs or {}).items()}
    about = {"spread": spread} if spread else {}
    where = {"machine": machine(), "versions": versions, "code": code(), "date": f"{datetime.date.today()}"}
    text = json.dumps({**figures, "goal": goal, **about, **where})
    print(text, flush=True)
    if kept := os.environ.get("KEEP"):
        with open(kept, "a", encoding="utf-8") as file:
            file.write(text + "\n")


def printed(arguments: Sequence[str]) -> Any:
    """What `python -m` prints last, as JSON, in a process of its own: seconds or rates of stretches."""
    done = subprocess.run([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def code() -> str:
    """The commit of this checkout, `-dirty` where something was changed since; outside one, what `CODE` names."""
    if named := os.environ.get("CODE"):
        return named
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def machine() -> str:
    """Processor, cores, memory and GPUs."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = next(row.split(":")[1].strip() for row in text.splitlines() if row.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        told += "; " + "; ".join(subprocess.run(query, capture_output=True, text=True).stdout.splitlines())
    return told


def documents(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Documents of about 4 kB of made-up words, as frequent as words are (Zipf), `megabytes` in all."""
    rng = random.Random(seed)
    words = ["".join(rng.choices(SYLLABLES, k=rng.choice((1, 2, 2, 3, 4)))) for _ in range(50_000)]
    weights = [1 / rank for rank in range(2, len(words) + 2)]
    # Drawing is slow: documents are cut from one long draw at chance places.
    drawn = rng.choices(words, weights, k=2_000_000)
    left = int(megabytes * 1e6)
    while left > 0:
        length = min(int(rng.lognormvariate(6.2, 0.8)) + 5, 20_000)
        start = rng.randrange(len(drawn) - length)
        text = f"{rng.choice(words).capitalize()} {' '.join(drawn[start : start + length])}."
        left -= len(text)
        yield text


def write_jsonl(path: Path, megabytes: float, seed: int = 0) -> int:
    """A file of such documents, a row each in the column `text`; its bytes."""
    with open(path, "w", encoding="utf-8") as file:
        for text in documents(megabytes, seed):
            file.write(json.dumps({"text": text}) + "\n")
    return path.stat().st_size


class Memory:
    """Watches this process and its children: `most` is the largest sum of their memory in bytes.

    Proportional set size where the system tells it (pages that several share are counted once), else resident.
    """

    def __init__(self, every: float = 0.2):
        self.most = 0
        self._every, self._over = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil  # where there is none, the other benchmarks run all the same

        own = psutil.Process()
        while not self._over.is_set():
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    full = process.memory_full_info()
                    total += getattr(full, "pss", 0) or full.rss
                except psutil.Error:
                    continue  # it has ended
            self.most = max(self.most, total)
            time.sleep(self._every)


class Clock:
    """A sink that knows when each dispatch was recorded."""

    def __init__(self) -> None:
        self.at: list[tuple[float, int]] = []

    def progress(self, step: int, last_step: int, tokens: int, loss: Any) -> None:
        """Note tokens and time."""
        self.at.append((time.perf_counter(), tokens))

    def close(self, step: int) -> dict:
        """Nothing is kept."""
        return {}

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None
