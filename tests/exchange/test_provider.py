"""Models of caml in Inspect: asked by a plain shell, in company and alone, with log-probabilities."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toy_exchange as toy

from caml.evals.generation import Sampling
from caml.evals.prompting import ask
from caml.exchange.models import write_folder

pytest.importorskip("inspect_ai")
HERE = Path(__file__).parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(toy.checkpoint(), tmp_path / "toy", "# toy\n", {})
    shutil.copy(HERE / "inspected.py", tmp_path)
    return tmp_path / "toy"


def evaluate(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`inspect eval` as a person calls it."""
    environment = os.environ | {"INSPECT_LOG_DIR": str(folder.parent / "logs")}
    return subprocess.run(
        [sys.executable, "-m", "inspect_ai", "eval", "inspected.py@toy", "--model", f"caml/{folder}",
         "--display", "plain", *arguments],
        capture_output=True, text=True, cwd=folder.parent, env=environment,
    )  # fmt: skip


def log_of(folder: Path):
    from inspect_ai.log import read_eval_log

    (path,) = (folder.parent / "logs").glob("*.eval")
    return read_eval_log(str(path))


def test_a_plain_shell_asks_many_samples_and_each_gets_its_own_answer(folder: Path):
    done = evaluate(folder, "--temperature", "0", "--max-tokens", "7", "--logprobs", "--top-logprobs", "2")
    assert done.returncode == 0, done.stderr
    log = log_of(folder)
    assert log.status == "success" and len(log.samples) == 48
    texts = sorted({sample.input for sample in log.samples})
    asked = [[{"role": "user", "content": text}] for text in texts]
    expected = dict(zip(texts, ask(toy.checkpoint(), asked, Sampling(max_tokens=7)), strict=True))
    for sample in log.samples:
        answer = expected[sample.input].answer
        assert sample.output.completion == answer.text
        found = sample.output.choices[0].logprobs.content
        assert [one.logprob for one in found] == pytest.approx(answer.log_probs, abs=1e-4)
        # At temperature 0 what is written is the likeliest.
        assert [one.top_logprobs[0].token for one in found] == [one.token for one in found]
        assert all(len(one.top_logprobs) == 2 and one.top_logprobs[1].logprob < one.logprob for one in found)
        assert sample.output.usage.output_tokens == len(answer.tokens)
        assert sample.output.stop_reason == {"stop": "stop", "length": "max_tokens"}[answer.reason]


@pytest.mark.slow
def test_epochs_are_other_draws_and_a_second_launch_draws_the_same(folder: Path):
    drawn = []
    for _ in range(2):
        done = evaluate(folder, "--max-tokens", "7", "-T", "times=1")
        assert done.returncode == 0, done.stderr
        log = log_of(folder)
        drawn.append(sorted((sample.input, sample.output.completion) for sample in log.samples))
        for path in (folder.parent / "logs").iterdir():
            path.unlink()
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 8


@pytest.mark.slow
def test_what_cannot_be_asked_is_said(folder: Path):
    lost = evaluate(folder.parent / "none")
    assert lost.returncode != 0 and "there is no" in lost.stderr + lost.stdout
    assert "Traceback" not in lost.stderr + lost.stdout
    long = evaluate(folder, "-T", "long=True", "-T", "times=1", "--no-fail-on-error")
    log = log_of(folder)
    assert all("leave no place for an answer" in sample.error.message for sample in log.samples), long.stdout
