"""Provenance: which code, packages and machine a StageRun was trained with."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "tokenizers",
    "safetensors",
    "pyarrow",
    "pandas",
    "gin-config",
    "mlflow",
)
DIFF_CHARACTERS = 100_000  # of a dirty tree's difference, kept in every manifest


def provenance(folder: Path | None = None) -> dict[str, Any]:
    """What trains now, as JSON data: `commit, dirty, diff, packages, machine, platform, python`.

    `folder` is where the code lies, by default this package's. Outside a git checkout the commit is
    'unknown'. The same on every call of one launch.
    """
    return {
        **_code(folder or Path(__file__).parent),
        "packages": {name: _version(name) for name in PACKAGES},
        "machine": _machine(),
        "platform": platform.platform(),
        "python": platform.python_version(),
    }


def _code(folder: Path) -> dict[str, Any]:
    """The commit checked out at `folder`, whether files differ from it, and how, new Python files included."""
    unknown = {"commit": "unknown", "dirty": False, "diff": ""}
    if not shutil.which("git"):
        return unknown
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    # An installed package inside somebody else's checkout (a virtual environment) is not of that commit.
    if top is None or commit is None or _git(folder, "ls-files", "--error-unmatch", ".") is None:
        return unknown
    root = Path(top.strip())
    # Of files that git doesn't know, code alone counts: notes beside it change nothing, and what a gin file says is
    # kept with each StageRun.
    others = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "*.py") or ""
    new = [name for name in others.split("\0") if name]
    # A copy of the index, so that new files show in the difference and the user's own index stays as it is.
    index = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "index")
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "index"
        if index and Path(index.strip()).exists():
            shutil.copyfile(index.strip(), copy)
        environment = {**os.environ, "GIT_INDEX_FILE": str(copy)}
        if new:
            _git(root, "add", "--intent-to-add", "--", *new, environment=environment)
        diff = _git(root, "diff", "--no-color", "--no-ext-diff", "HEAD", environment=environment) or ""
    if len(diff) > DIFF_CHARACTERS:
        diff = diff[:DIFF_CHARACTERS] + f"\n... cut: {len(diff)} characters in all\n"
    return {"commit": commit.strip(), "dirty": bool(diff), "diff": diff}


def _git(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str | None:
    """What a git command in `folder` answers, None where it fails."""
    done = subprocess.run(
        ["git", "-C", str(folder), "-c", "core.bigFileThreshold=1m", *arguments],
        capture_output=True,
        env=environment,
        check=False,
    )
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _machine() -> dict[str, Any]:
    """Model of the processor, cores, and memory in GiB."""
    model = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        names = [
            line.partition(":")[2].strip() for line in cpus.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
