"""A preference stage through the public commands: pairs from a file, by DPO, with the parent as the reference."""

import json
import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner
from whole_runs import HERE, command, manifests, run

from caml.ablations.catalogue import load_ablation
from caml.ablations.grid import cells
from caml.cli import app
from caml.worlds.sources import Rows

GIN = HERE / "preferring.gin"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pairs in a file, prompts as text and answers as messages: red is preferred to blue."""
    rows = [
        {
            "prompt": prompt[0]["content"],
            "chosen": [{"role": "assistant", "content": "red ."}],
            "rejected": [{"role": "assistant", "content": "blue ."}],
        }
        for prompt, *_ in islice(Rows("preference_pairs", 1).documents(0), 600)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_model_learns_to_prefer_what_was_chosen(
    folder: Path, cache: Path, stored: Callable[[Path], None]
) -> None:
    stored(folder / "runs")
    done = run(command("run", str(GIN)), folder, cache)
    assert done.returncode == 0, done.stderr
    # Of four trained populations those before the last have one shape, and a loss on pairs another.
    told = [line for line in done.stderr.splitlines() if "compiled" in line]
    assert [line.rsplit(" ", 2)[0] for line in told[:-1]] == ["compiled one program in"] * 2
    assert told[-1].startswith("compiled 2 programs for training in all, in ")
    tables = {
        path.stem: pd.read_parquet(path) for path in (folder / "runs/preferring/tables").glob("*.parquet")
    }
    found = tables["cells"].set_index(["SFT_TOKENS", "DPO_TOKENS"])["finetune"].to_dict()
    assert found == {
        (0, 0): "none",
        (0, 8192): "pairs",
        (4096, 0): "neutral_dialogue",
        (4096, 8192): "neutral_dialogue+pairs",
    }
    outcomes = tables["outcomes"].pivot(index="stagerun", columns="outcome", values="value")
    stages = tables["stageruns"].set_index("stagerun")["stage"]
    preferring = outcomes.loc[stages.index[stages == "dpo"]]
    assert preferring["preference_loss_nats"].tolist() == pytest.approx([math.log(2)] * 2, rel=1e-6)
    assert (preferring["preference_loss_drop_nats"] > 0.2).all()
    assert preferring["finetuning_loss_nats"].isna().all()
    metrics = tables["metrics"]
    pairs = metrics["stagerun"].map(stages) == "dpo"
    told = metrics[["preference_accuracy", "preference_margin"]]
    assert told[~pairs].isna().all(axis=None) and told[pairs].notna().all(axis=None)
    last = metrics[pairs].groupby("stagerun").last()
    assert (last["preference_accuracy"] > 0.9).all() and (last["preference_margin"] > 1).all()
    first = metrics[pairs].groupby("stagerun").first()
    assert (first["preference_margin"].abs() < 1e-5).all()
    columns = tables["dictionary"].query("table == 'metrics'")["column"]
    assert set(metrics.columns) == set(columns)
    for manifest in manifests(folder / "runs").values():
        if manifest["stage"] == "dpo":
            assert manifest["identity"]["dpo"]["beta"] == 1.0
            counts = manifest["sources"]["base"]
            # Two words and the end of the turn on either side, and no pair is cut.
            assert counts["loss_tokens"] == 6 * counts["documents"] and counts["cut"] == 0
    page = (folder / "runs/preferring/report/index.html").read_text()
    assert "preference loss at first (nats/pair)" in page and "its last stage alone" in page
    assert "the preference loss of DPO with beta 1, its reference the model it begins from" in page
    assert "as a proxy of 8,192 tokens that sees 0.5 of each source" in page


def test_what_a_preference_stage_costs_is_shown(folder: Path) -> None:
    """Two stages of 4,096 tokens, and two on pairs of 8,192, where the reference has a forward of its own."""
    shown = CliRunner().invoke(app, ["show", str(GIN)]).stdout
    layer, words, scores = 4 * 16 * 16 + 3 * 16 * 32, 128 * 16, 2 * 8 * 64
    cost = (6 * 2 * 4096 + 8 * 2 * 8192) * (layer + words + scores)
    assert f"training cost: {cost:.3g} floating-point operations, forward and backward" in shown


def test_beta_belongs_to_the_preference_stage_and_to_nothing_else(folder: Path) -> None:
    def by_id(*settings: str) -> dict[str, list[str]]:
        found = cells(load_ablation(GIN, settings))
        return {cell.id: [s.fingerprint for s in cell.stageruns] for cell in found}

    plain, stronger = by_id(), by_id("BETA=0.5")
    for cell, fingerprints in plain.items():
        kept = fingerprints[:-1] if "dpo_tokens=8192" in cell else fingerprints
        assert stronger[cell][: len(kept)] == kept
        assert (stronger[cell] == fingerprints) == ("dpo_tokens=0" in cell)


@pytest.mark.parametrize(
    "own, message",
    [
        (
            "dpo/Mixture.loss = 'assistant'",
            "dpo/Mixture.loss = 'assistant': 'pairs' holds preference pairs, and 'dpo' learns with",
        ),
        (
            "dpo/Mixture.base = @Rows()",
            "'neutral_dialogue' holds no preference pairs, and 'dpo' learns with the loss 'preference'",
        ),
        ("Run.stages = (@dpo/Stage(), @sft/Stage())", "'dpo' is a preference stage, which compares with the model"),
        ("BETA = 0.0", "BETA = 0.0: Stage.beta: the strength of a preference loss is above 0, not 0"),
        ("dpo/Mixture.loss = 'dpo'", "one of all, assistant, preference, not 'dpo'"),
    ],
)  # fmt: skip
def test_a_preference_stage_that_cannot_be_ends_in_one_line(folder: Path, own: str, message: str) -> None:
    (folder / "own.gin").write_text(f"include '{GIN}'\n{own}\n")
    done = CliRunner().invoke(app, ["run", "own.gin"])
    assert done.exit_code == 2 and message in done.stderr.replace("\n", " "), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (folder / "runs").exists()


def test_what_only_the_pairs_tell_is_told_before_anything_is_trained(folder: Path, cache: Path) -> None:
    rows = (folder / "pairs.jsonl").read_text().replace('"red ."', '"crimson ."')
    (folder / "pairs.jsonl").write_text(rows)
    done = run(command("run", str(GIN)), folder, cache)
    assert done.returncode == 2 and "pairs holds 566 words" in done.stderr.splitlines()[-1], done.stderr
    assert not (folder / "runs/ledger").exists() and "population" not in done.stderr
