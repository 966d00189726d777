"""What lm-evaluation-harness found of an exported model, read into its ledger; and the harness itself, where it is."""

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sitting import command

from caml.analysis.leaderboard.boards import gather
from caml.tracking.ledger import Ledger

TASK = "toy_care"
NAMES = ("ana", "ben", "cleo", "dan", "eve", "gus", "ida", "max")


def results(folder: Path, exported: Path, right: list[float], **more: Any) -> Path:
    """What `lm_eval run --log_samples --output_path` leaves, of one task."""
    place, at = folder / "exported__model", "2026-11-26T10-00-00.000000"
    place.mkdir(parents=True)
    told = {
        "results": {TASK: {"alias": TASK, "acc,none": float(np.mean(right)), "acc_stderr,none": 0.1,
                           "word_perplexity,none": 7.5}},
        "group_subtasks": {TASK: []},
        "configs": {TASK: {"task": TASK, "dataset_path": "json", "dataset_kwargs": {"data_files": "toy.jsonl"}}},
        "versions": {TASK: 1.0}, "n-shot": {TASK: 0},
        "config": {"model": "hf", "model_args": {"pretrained": str(exported)}, "limit": None, "gen_kwargs": {}},
        "lm_eval_version": "0.4.13", "transformers_version": "5.24.0", "chat_template_sha": None,
        **more,
    }  # fmt: skip
    (place / f"results_{at}.json").write_text(json.dumps(told))
    rows = [
        {"doc_id": i, "doc": {}, "target": 0, "filter": "none", "metrics": ["acc", "word_perplexity"], "acc": x,
         "word_perplexity": [-3.0, 4]}
        for i, x in enumerate(right)
    ]  # fmt: skip
    (place / f"samples_{TASK}_{at}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place / f"results_{at}.json"


@pytest.fixture
def trained(own: Path) -> Path:
    """The ledger's folder of a StageRun, which is exported beside it."""
    folder = sorted(own.glob("runs/ledger/pretrain-compassion-*"))[0]
    done = command("export", str(folder), "exported")
    assert done.exit_code == 0, done.output
    return folder


def test_scores_of_the_harness_stand_in_the_ledger_with_limits_over_items(own: Path, trained: Path):
    right = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    results(own / "results", own / "exported", right)
    done = command("eval", str(trained), "--harness", "results")
    assert done.exit_code == 0, done.output
    assert "lm_eval/toy_care (version 1.0)" in done.stdout and "8 of 8 samples scored" in done.stdout
    ledger = Ledger(own / "runs/ledger")
    (folder,) = [name for name in ledger.benchmarks(trained.name) if name.startswith(TASK)]
    summary, _ = ledger.read_benchmark(trained.name, folder)
    assert list(summary["dimensions"]) == ["acc"]  # a perplexity is no share
    half = stats.t.ppf(0.975, 7) * np.std(right, ddof=1) / np.sqrt(8)
    acc = summary["dimensions"]["acc"]
    assert (acc["mean"], acc["low"], acc["high"]) == pytest.approx((0.75, 0.75 - half, min(0.75 + half, 1)))
    assert summary["software"] == {"lm_eval": "0.4.13", "transformers": "5.24.0"}
    # Read again, nothing is there twice; the leaderboard and the files for submission have it.
    assert command("eval", str(trained), "--harness", "results").exit_code == 0
    assert sum(name.startswith(TASK) for name in ledger.benchmarks(trained.name)) == 1
    boards = gather(own / "runs", lambda *_: contextlib.nullcontext(lambda *_: None)).boards
    (board,) = [board for board in boards if board.tab == TASK]
    assert board.asked["graded by"] == "the task's own scorer" and len(board.rows) == 1
    assert command("leaderboard", "runs").exit_code == 0
    (record,) = [
        json.loads(x.read_text())
        for x in own.glob(f"runs/leaderboard/every_eval_ever/data/{TASK}/*/*/*.json")
    ]
    assert record["eval_library"] == {
        "name": "lm_eval", "version": "0.4.13", "additional_details": {"transformers": "5.24.0"},
    }  # fmt: skip
    assert record["model_info"]["inference_engine"] == {"name": "transformers", "version": "5.24.0"}


def test_what_is_no_result_of_this_model_is_named(own: Path, trained: Path):
    other = sorted(own.glob("runs/ledger/pretrain-neutral-*"))[0]
    file = results(own / "results", own / "exported", [1.0, 0.0])
    samples = next(file.parent.glob("samples_*"))
    told = json.loads(file.read_text())
    (own / "nothing").mkdir()
    (own / "plain.json").write_text("{}")
    (own / "text.json").write_text("well")

    def refused(model: Path, given: str, says: str) -> None:
        done = command("eval", str(model), "--harness", given)
        assert (done.exit_code, done.stdout) == (2, "") and says in done.stderr, done.output

    refused(trained, "nowhere", "there is no nowhere")
    refused(trained, "nothing", "has no results_*.json")
    refused(trained, "plain.json", "it has no results, configs, config")
    refused(trained, "text.json", "is no JSON")
    refused(other, "results", "and not of pretrain-neutral")
    file.write_text(
        json.dumps({**told, "config": {**told["config"], "model_args": "pretrained=gpt2,dtype=float"}})
    )
    refused(trained, "results", "'gpt2', which is no folder here")
    for change, says in (
        ({"versions": []}, "its versions is no dictionary"),
        ({"results": {}}, "has no task"),
        ({"results": {"a": 5}}, "does not say how a was asked"),
        ({"configs": {}}, "does not say how"),
        ({"config": {"model_args": 7}}, "None, which is no folder here"),
    ):
        file.write_text(json.dumps({**told, **change}))
        refused(trained, "results", says)
    file.write_text(json.dumps(told))
    kept = samples.read_text()
    samples.write_bytes(kept.encode() + b"\xff")
    refused(trained, "results", "is not UTF-8 (byte")
    samples.write_text(kept + "{}\n")
    refused(trained, "results", "jsonl:3 is no sample of lm_eval")
    samples.unlink()
    refused(trained, "results", "run lm_eval with --log_samples")
    samples.write_text(kept)
    shutil.rmtree(own / "exported")
    assert command("export", str(other), "exported").exit_code == 0
    refused(trained, "results", "is of the StageRun")


@pytest.mark.slow
def test_the_harness_itself_on_a_task_without_a_network(own: Path, trained: Path):
    pytest.importorskip("lm_eval")
    (own / "toy.jsonl").write_text(
        "".join(
            json.dumps({"context": f"{name} was", "answer": i % 2}) + "\n" for i, name in enumerate(NAMES)
        )
    )
    (own / "tasks").mkdir()
    (own / "tasks/toy.yaml").write_text(
        f"task: {TASK}\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {own / 'toy.jsonl'}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{context}}'\n"
        "doc_to_choice: ['kind', 'cruel']\ndoc_to_target: answer\n"
        "metric_list:\n  - metric: acc\n  - metric: acc_norm\nmetadata:\n  version: 1.0\n"
    )
    arguments = ["--model", "hf", "--model_args", "pretrained=exported", "--tasks", TASK, "--device", "cpu"]
    subprocess.run(
        [sys.executable, "-m", "lm_eval", "run", *arguments, "--include_path", "tasks", "--log_samples",
         "--output_path", "found"],
        check=True, cwd=own,
    )  # fmt: skip
    done = command("eval", str(trained), "--harness", "found")
    assert done.exit_code == 0 and "8 of 8 samples scored" in done.stdout, done.output
    told = json.loads(next(own.rglob("results_*.json")).read_text())["results"][TASK]
    assert f"{told['acc,none']:.3f}" in done.stdout and f"{told['acc_norm,none']:.3f}" in done.stdout
