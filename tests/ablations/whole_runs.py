"""Running the tiny ablation as a person does, and reading what is on the disk afterwards without caml's readers."""

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

HERE = Path(__file__).parent
TINY = HERE / "tiny.gin"
# What differs from run to run: who trained when and where.
CIRCUMSTANCES = ["commit", "dirty", "machine"]


def environment(cache: Path) -> dict[str, str]:
    """An environment whose compiled programs lie below `cache`."""
    others = (
        "PYTHONDONTWRITEBYTECODE", "JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    )  # fmt: skip
    own = {key: value for key, value in os.environ.items() if key not in others}
    return own | {"XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}


def command(*arguments: str) -> list[str]:
    """The public command."""
    return [sys.executable, "-m", "caml", *arguments]


def dying(when: str, signal: str, *arguments: str) -> list[str]:
    """The public command with a signal to itself at a chosen moment; see dying.py."""
    return [sys.executable, str(HERE / "dying.py"), when, signal, *arguments]


def run(arguments: list[str], folder: Path, cache: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command in `folder` to its end."""
    done = subprocess.run(
        arguments, cwd=folder, env=environment(cache), capture_output=True, text=True, timeout=600, **options
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def parameters(output: Path) -> dict[str, str]:
    """The digest of the final parameters of every StageRun that is complete."""
    return {
        marker.parent.name: digest(marker.parent / "checkpoints/final/params.safetensors")
        for marker in sorted(output.glob("ledger/*/complete.json"))
        if ".damaged-" not in marker.parent.name
    }


def tables(output: Path, name: str = "tiny") -> dict[str, pd.DataFrame]:
    """The frozen tables and those of the report, without the circumstances."""
    frozen, report = (output / name / folder for folder in ("tables", "report/tables"))
    found = {path.stem: pd.read_parquet(path) for path in sorted(frozen.glob("*.parquet"))}
    found |= {f"report {path.stem}": pd.read_parquet(path) for path in sorted(report.glob("*.parquet"))}
    found["stageruns"] = found["stageruns"].drop(columns=CIRCUMSTANCES)
    return found


def assert_same(output: Path, expected: Path, name: str = "tiny") -> None:
    """The same parameters, bit for bit, and the same tables; no step twice; nothing left behind."""
    assert parameters(output) == parameters(expected)
    ours, theirs = tables(output, name), tables(expected, name)
    assert ours.keys() == theirs.keys() and "effects" in " ".join(ours)
    for part, table in theirs.items():
        pd.testing.assert_frame_equal(ours[part], table, check_exact=True, obj=part)
    twice = ours["metrics"].groupby(["stagerun", "step"]).size()
    assert twice.max() == 1
    assert steps_in_mlflow(output) == steps_in_mlflow(expected)
    assert not list((output / "populations").iterdir())
    assert not list(output.glob("stores/.*"))


def steps_in_mlflow(output: Path) -> Counter[tuple[str, str, int]]:
    """How often (StageRun, metric, step) is in the tracking store, but for what tells of a launch alone."""
    store = sqlite3.connect(output / "mlflow.db")
    rows = store.execute(
        "select tags.value, metrics.key, metrics.step from metrics join tags using (run_uuid) "
        "where tags.key = 'caml.stagerun' and metrics.key not like 'instruments/%'"
    ).fetchall()
    store.close()
    found = Counter(rows)
    assert found and max(found.values()) == 1, found.most_common(3)
    return found


def processes_in(folder: Path) -> list[psutil.Process]:
    """Processes that work in `folder`."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def manifests(output: Path) -> dict[str, dict[str, Any]]:
    """The manifest of every StageRun."""
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted(output.glob("ledger/*/manifest.json"))
    }


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Time of the last change and size of every file below `folder`."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            stat = path.stat()
            found[str(path.relative_to(folder))] = (stat.st_mtime_ns, stat.st_size)
    return found


def flip(path: Path) -> None:
    """Alter one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Cut the file short."""
    path.write_bytes(path.read_bytes()[:-9])
