"""The shipped studies: every gin file resolves, and the small ones run from end to end."""

import subprocess
import sys
from pathlib import Path

import pytest

import caml
from caml.ablations.catalogue import load_ablation
from caml.ablations.grid import cells

ROOT = Path(__file__).parent.parent
STUDIES = sorted((ROOT / "experiments").rglob("*.gin"))


# The texts that a study asks whoever runs it to name.
NAMED = {"real_text": ("BASE", "HELD_OUT", "DOCUMENTS", "POOL", "CHATS")}


@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_shipped_study_resolves(study, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "text.jsonl").write_text("{}")
    settings = [f"{macro}='{tmp_path / 'text.jsonl'}'" for macro in NAMED.get(study.stem, ())]
    grid = cells(load_ablation(study, settings))
    assert len({cell.id for cell in grid}) == len(grid) > 0


def run(study: str, folder: Path) -> str:
    command = [sys.executable, "-m", "caml", "run", str(ROOT / "experiments" / study)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_placement_crosses_placement_with_the_token_budget(tmp_path):
    run("placement/placement.gin", tmp_path)
    tables = caml.load(tmp_path / "runs" / "placement")
    first = tables.cells[tables.cells["S"] == 0]
    assert set(first["placement"]) == {"uniform", "early", "middle", "late"}
    assert set(first["pretrain_tokens"]) == {131_072, 262_144}
    # A dose is the same number of slots wherever it lies, so its tokens differ by padding at most.
    for _, doses in first.groupby(["pretrain_tokens", "seed"])["dose_tokens"]:
        assert doses.nunique() == 1
    assert tables.cells.groupby(["ARM", "PLACEMENT", "TOKENS"]).size().eq(4).all()


@pytest.mark.slow
def test_smoke_goes_from_nothing_to_a_report(tmp_path):
    shown = run("smoke/smoke.gin", tmp_path)
    assert (tmp_path / "runs" / "smoke" / "report" / "index.html").exists()
    assert "too few seeds" in shown
