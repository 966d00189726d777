"""The commit and what differs from it, whatever the state of the checkout."""

import subprocess
from importlib.metadata import version
from pathlib import Path

from caml.tracking.provenance import DIFF_CHARACTERS, provenance


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    return subprocess.run(
        ["git", "-C", str(folder), *names, *arguments], check=True, capture_output=True, text=True
    ).stdout


def checkout(folder: Path) -> Path:
    code = folder / "code"
    code.mkdir()
    (code / "a.py").write_text("x = 1\n")
    (folder / ".gitignore").write_text("runs/\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return code


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    found = provenance(tmp_path)
    assert (found["commit"], found["dirty"], found["diff"]) == ("unknown", False, "")
    assert found["packages"]["numpy"] == version("numpy")
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gib"] > 0.1
    assert found == provenance(tmp_path)


def test_a_clean_checkout_is_its_commit(tmp_path: Path) -> None:
    code = checkout(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "output").write_text("ignored")
    (tmp_path / "mine.gin").write_text("WIDTH = 3\n")  # kept with each StageRun that it trains
    found = provenance(code)
    assert found["commit"] == git(tmp_path, "rev-parse", "HEAD").strip()
    assert (found["dirty"], found["diff"]) == (False, "")


def test_a_dirty_checkout_is_told_apart_with_new_files_and_is_left_as_it_is(tmp_path: Path) -> None:
    code = checkout(tmp_path)
    (code / "a.py").write_text("x = 2\n")
    (code / "new.py").write_text("WIDTH = 3\n")
    (tmp_path / "notes.txt").write_text("nothing that runs")
    before = git(tmp_path, "status", "--porcelain")
    found = provenance(code)
    assert found["dirty"]
    assert "+x = 2" in found["diff"]
    assert "+WIDTH = 3" in found["diff"] and "nothing that runs" not in found["diff"]
    assert git(tmp_path, "status", "--porcelain") == before
    (code / "a.py").write_text("y = 1\n" * DIFF_CHARACTERS)
    assert len(provenance(code)["diff"]) < DIFF_CHARACTERS + 100


def test_code_that_a_checkout_does_not_hold_is_not_of_its_commit(tmp_path: Path) -> None:
    checkout(tmp_path)
    installed = tmp_path / "runs" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "b.py").touch()
    assert provenance(installed)["commit"] == "unknown"
