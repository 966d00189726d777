"""One finished run of the tiny ablation, shared by all tests that only read it."""

import fcntl
import socket
import subprocess
from pathlib import Path

import pytest
from whole_runs import TINY, command, run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all processes that test."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def cache(shared: Path) -> Path:
    """Where compiled programs lie for the time of the tests."""
    return shared / "cache"


def left_by_the_dead(stores: Path) -> None:
    """An unfinished store of a writer that is gone."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    (stores / f".abandoned.{socket.gethostname()}.{gone.pid}.0.part").mkdir(parents=True)


@pytest.fixture(scope="session")
def finished(shared: Path, cache: Path) -> Path:
    """The folder in which the tiny ablation was run once from nothing, with what it printed. Not to be changed."""
    folder = shared / "finished"
    with open(shared / "finished.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            folder.mkdir()
            left_by_the_dead(folder / "runs" / "stores")
            done = run(command("run", str(TINY)), folder, cache)
            (folder / "stdout").write_text(done.stdout)
            (folder / "stderr").write_text(done.stderr)
            (folder / "status").write_text(str(done.returncode))
    return folder
