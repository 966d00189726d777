"""The shipped studies: every gin file resolves, and the small ones run from end to end."""

import gzip
import json
import random
import shutil
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


def texts_of_a_person(folder: Path) -> dict[str, Path]:
    """Files as real-text asks for them, of made-up words: paragraphs, documents, conversations."""
    rng = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.choice((1, 2, 3)))) for _ in range(4000)]

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(least, most)))

    def conversation() -> list[dict[str, str]]:
        return [{"role": role, "content": text(20, 60)} for role in ("user", "assistant")]

    documents = [{"content": text(100, 400), "language": rng.choice(("en", "fr"))} for _ in range(120)]
    chats = [{"messages": conversation()} for _ in range(400)]
    content = {
        "BASE": "\n".join(text(60, 120) for _ in range(900)),
        "HELD_OUT": "\n".join(text(60, 120) for _ in range(60)),
        "DOCUMENTS": "\n".join(map(json.dumps, documents)),
        "POOL": "\n".join(text(60, 120) for _ in range(1500)),
        "CHATS": "\n".join(map(json.dumps, chats)),
    }
    found = {}
    for macro, written in content.items():
        packed = macro in ("DOCUMENTS", "CHATS")
        suffix = ".jsonl.gz" if packed else ".txt"
        found[macro] = folder / f"{macro.lower()}{suffix}"
        found[macro].write_bytes(gzip.compress(written.encode()) if packed else written.encode())
    return found


FEWER = """
include 'experiments/real-text/real_text.gin'
TOKENS = 65536
Ablation.axes = [
    {'ARM': [@compassion/Files(), @matched/Matched()], 'RATIO': [0.2], 'SEED': [0, 1], 'SFT_TOKENS': [0, 262144]},
    {'ARM': [@matched/Matched()], 'RATIO': [0.0], 'SEED': [0, 1], 'SFT_TOKENS': [0, 262144]},
]
"""


@pytest.mark.slow
def test_real_text_goes_from_a_persons_files_to_a_report(tmp_path):
    for part in ("gin", "experiments/real-text"):
        shutil.copytree(ROOT / part, tmp_path / part)
    settings = [f"{macro}='{path.name}'" for macro, path in texts_of_a_person(tmp_path).items()]
    (tmp_path / "own.gin").write_text(FEWER)
    command = [sys.executable, "-m", "caml", "run", "own.gin"]
    command += [part for setting in settings for part in ("--set", setting)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").glob("real-text*")
    assert (folder / "report" / "index.html").exists()
    tables = caml.load(folder)
    assert set(tables.cells["arm"]) == {"compassion", "matched", "base"}
    # The control is as long as what it is matched to, document by document, and so packs alike.
    doses = tables.cells[tables.cells["ratio"] > 0].groupby(["seed", "S"])["dose_tokens"]
    assert (doses.nunique() == 1).all()
    assert set(tables.items["rung"]) == {"attitude", "care", "facts"}
