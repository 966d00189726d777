"""An ablation that names a benchmark: every StageRun sits it, its report estimates it, the leaderboard shows it."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

pytest.importorskip("inspect_evals")

import judging
from sitting import NAMED, command

import caml
from caml.analysis.tables import load


def test_every_stagerun_sits_the_benchmark_after_its_stage(here: Path):
    assert "8 sittings of benchmarks asked and graded" in (here / "stdout").read_text()
    tables = load(here / "runs/sitting/tables")
    assert len(tables.stageruns) == 8 == len(tables.sittings)
    assert set(tables.benchmarks["stagerun"]) == set(tables.stageruns["stagerun"])
    assert set(tables.sittings["unit"]) == {"share of 1"}
    assert set(tables.sittings["graders"]) == {"toygrader/rule"} and set(tables.sittings["scored"]) == {5}
    one = tables.benchmarks[tables.benchmarks["dimension"] == "overall"]
    assert one.groupby("stagerun")["value"].count().tolist() == [5] * 8
    # From Python, too.
    assert len(caml.load("runs/sitting").sittings) == 8


def test_it_is_shown_what_will_be_asked_and_what_is_there(here: Path):
    assert (
        "benchmark anima: 8 sittings, 8 there, graded by toygrader/rule"
        in command("show", "sitting.gin").stdout
    )
    other = command("show", "sitting.gin", "--set", "GRADER='toygrader/other'").stdout
    assert "benchmark anima: 8 sittings, 0 there, graded by toygrader/other" in other


def test_effects_are_paired_by_seed_block_over_the_questions_that_all_were_scored_on(here: Path):
    tables = load(here / "runs/sitting/tables")
    effects = pd.read_parquet(here / "runs/sitting/report/tables/benchmark_effects.parquet")
    row = effects[
        (effects["dimension"] == "overall") & (effects["control"] == "neutral") & (effects["S"] == 0)
    ]
    assert len(row) == 1 and row["benchmark"].item() == "anima" and row["seeds"].item() == 2
    means = tables.benchmarks.query("dimension == 'overall'").groupby("stagerun")["value"].mean()
    cells = tables.cells[tables.cells["S"] == 0].assign(score=tables.cells["stagerun"].map(means))
    by_arm = cells.pivot(index="seed", columns="arm", values="score")
    assert row["estimate"].item() == pytest.approx((by_arm["compassion"] - by_arm["neutral"]).mean())
    assert row["estimate"].item() == pytest.approx(0)  # the rule looks at the question, not at the answer
    dictionary = pd.read_parquet(here / "runs/sitting/report/tables/dictionary.parquet")
    for name in ("benchmark_effects", "benchmark_retention"):
        columns = set(pd.read_parquet(here / f"runs/sitting/report/tables/{name}.parquet"))
        assert set(dictionary.loc[dictionary["table"] == name, "column"]) == columns


def test_the_report_draws_its_wash_out_beside_that_of_the_probes(here: Path):
    page = (here / "runs/sitting/report/index.html").read_text()
    assert '<h2 id="benchmarks">' in page and "graded by toygrader/rule" in page
    assert (
        page.index('id="figure-washout"')
        < page.index('id="figure-washout_anima"')
        < page.index('id="counter"')
    )
    assert "40 of 40 samples of all members were scored" in page
    assert "score (overall; share of 1) of the treated member" in " ".join(page.split())


def test_a_second_launch_asks_nobody_and_pays_for_nothing(here: Path, monkeypatch: pytest.MonkeyPatch):
    done = command("run", "sitting.gin")
    assert done.exit_code == 0 and "nothing to do" in done.stdout and "to be asked" not in done.stderr
    assert judging.Grader.asked == []


def test_a_judge_that_fails_keeps_what_was_trained_and_graded(own: Path, monkeypatch: pytest.MonkeyPatch):
    for shelf in own.glob("runs/ledger/*/benchmarks"):
        shutil.rmtree(shelf)
    monkeypatch.setattr(judging.Grader, "left", 9 * 3 + 4)
    stopped = command("run", "sitting.gin")
    told = stopped.stderr.splitlines()[-1]
    assert (
        stopped.exit_code == 1 and "gone home" in told and told.startswith(("caml: pretrain-", "caml: sft-"))
    ), told
    assert "a report without anima is written when Ablation.benchmarks does not name it" in told
    assert len(list(own.glob("runs/ledger/*/benchmarks/*/complete.json"))) == 3
    monkeypatch.setattr(judging.Grader, "left", None)
    before = len(judging.Grader.asked)
    done = command("run", "sitting.gin")
    assert done.exit_code == 0 and "5 sittings" in done.stdout
    assert len(judging.Grader.asked) - before < 9 * 5
    tables = load(own / "runs/sitting/tables")
    assert len(tables.sittings) == 8


def test_another_grader_is_another_report_and_one_that_cannot_be_had_is_named_first(
    own: Path, monkeypatch: pytest.MonkeyPatch
):
    refused = command("run", "sitting.gin", "--set", "GRADER='nosuch/model'")
    assert refused.exit_code == 2 and "nosuch/model cannot be had" in refused.stderr.splitlines()[-1]
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    refused = command("run", "sitting.gin", "--set", "GRADER='openai/judge'")
    assert refused.exit_code == 2 and "OPENAI_API_KEY" in refused.stderr.splitlines()[-1]
    twice = NAMED.replace("(@Benchmark(),)", "(@Benchmark(), @Benchmark())")
    (own / "twice.gin").write_text((own / "sitting.gin").read_text().replace(NAMED, twice))
    refused = command("show", "twice.gin")
    assert refused.exit_code == 2 and "the same benchmark twice: anima, anima" in refused.stderr


def test_a_task_that_cannot_be_made_is_named_before_anything_is_trained(own: Path):
    text = (
        (own / "sitting.gin")
        .read_text()
        .replace("'dataset_repo_id': 'anima'", "")
        .replace("'SEED': [0, 1]", "'SEED': [7]")
    )
    (own / "mine.py").write_text(
        "from inspect_ai import task\n\n@task\ndef mine():\n    raise FileNotFoundError('no scenarios here')\n"
    )
    before = set((own / "runs/ledger").iterdir())
    for named, says in (
        ("mine.py", "Benchmark.task = 'mine.py': it cannot be asked: FileNotFoundError: no scenarios here"),
        ("lost.py", "lost"),
        ("inspect_evals/nothing_such", "nothing_such"),
    ):
        (own / "made.gin").write_text(text.replace("'anima'", repr(named)).replace("'sitting'", "'made'"))
        refused = command("run", "made.gin")
        assert refused.exit_code == 2 and says in refused.stderr.splitlines()[-1], refused.stderr
    assert set((own / "runs/ledger").iterdir()) == before and not (own / "runs/made").exists()


def test_who_is_to_be_trained_again_waits_for_a_benchmark_that_can_be_asked(own: Path):
    """Though all was sat: what was altered is made again, and may come out otherwise."""
    params = next(own.glob("runs/ledger/sft-*/checkpoints/**/*.safetensors"))
    content = params.read_bytes()
    params.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shutil.rmtree(own / "anima")
    (own / "anima").mkdir()
    refused = command("run", "sitting.gin")
    told = refused.stderr.splitlines()[-1]
    assert refused.exit_code == 2 and "Benchmark.task = 'anima': it cannot be asked" in told, refused.stderr
    assert "to be trained or scored" not in refused.stderr


@pytest.mark.slow
def test_lost_data_are_named_before_anything_is_trained(own: Path):
    text = (
        (own / "sitting.gin")
        .read_text()
        .replace("'anima'}", "'lost'}")
        .replace("'SEED': [0, 1]", "'SEED': [8]")
    )
    (own / "lost.gin").write_text(text.replace("'sitting'", "'lost'"))
    before = set((own / "runs/ledger").iterdir())
    refused = command("run", "lost.gin")
    assert refused.exit_code == 2 and "it cannot be asked" in refused.stderr.splitlines()[-1], refused.stderr
    assert set((own / "runs/ledger").iterdir()) == before


def test_the_leaderboard_has_probes_and_benchmark(own: Path):
    done = command("leaderboard", "runs", "--organization", "Toy Lab")
    assert done.exit_code == 0, done.output
    assert "anima: 4 rows, 3 dimensions" in done.stdout
    page = (own / "runs/leaderboard/index.html").read_text()
    assert (
        page.count('class="first">') == 2 + 4 + 4
    )  # two heads; arms before and after fine-tuning, on each board
    assert 'data-name="anima"' in page and 'data-name="own probes"' in page
    assert "../sitting/report/index.html" in page
    records = [
        json.loads(path.read_text()) for path in own.glob("runs/leaderboard/every_eval_ever/data/**/*.json")
    ]
    assert len(records) == 16
    for record in records:
        if record["eval_library"]["name"] == "inspect_ai":
            overall = record["evaluation_results"][-1]
            assert (
                overall["metric_config"]["llm_scoring"]["judges"][0]["model_info"]["id"] == "toygrader/rule"
            )
    altered = next(own.glob("runs/ledger/*/benchmarks/*/scores.json"))
    altered.write_text(altered.read_text().replace('"scored": 5', '"scored": 6'))
    done = command("leaderboard", "runs")
    assert done.exit_code == 0 and "left out" in done.stdout and altered.parent.name in done.stdout
    assert len(list(own.glob("runs/leaderboard/every_eval_ever/data/**/*.json"))) == 15
