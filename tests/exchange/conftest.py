"""A finished ablation that names a benchmark, for tests of what comes after."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sitting import NAMED, TINY, command, prepared


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, stored: Callable[[Path], None]) -> Path:
    """A folder in which the ablation ran once. Not to be changed."""
    pytest.importorskip("inspect_evals")
    import judging

    folder = tmp_path_factory.mktemp("sitting")
    stored(folder / "runs")
    text = re.sub(r"Ablation\.axes = \[.*?\n\]\n", "", TINY.read_text(), flags=re.DOTALL)
    (folder / "sitting.gin").write_text(text.replace("Ablation.name = 'tiny'\n", "") + NAMED)
    judging.write_anima(folder / "anima")
    with pytest.MonkeyPatch.context() as patch:
        prepared(patch, folder)
        done = command("run", "sitting.gin")
        assert done.exit_code == 0, done.output
        (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture
def here(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    prepared(monkeypatch, study)
    return study


@pytest.fixture
def own(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, to be changed."""
    folder = tmp_path / "own"
    shutil.copytree(study, folder)
    prepared(monkeypatch, folder)
    return folder
