"""ANIMA and MORU, unchanged, on local data in their schema, with graders by rule: what is scored, kept and resumed."""

import dataclasses
import json
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import toy_exchange as toy
from scipy import stats
from typer.testing import CliRunner, Result

pytest.importorskip("inspect_evals")

import inspect_ai
import judging

from caml.cli import app
from caml.config.errors import Failure, UserError
from caml.evals.benchmarks import inspecting as benchmarks
from caml.evals.benchmarks.benchmark import Benchmark
from caml.evals.benchmarks.scores import plain
from caml.exchange.models import write_folder
from caml.exchange.sitting import sit_here
from caml.tracking.lease import acquire_all
from caml.training import devices


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and the data, nothing of it on a hub."""
    # Files of tasks are written anew within the second by which Python tells whether what it compiled is of them.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "prepare_devices", lambda: None)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(judging.Grader, "left", None)
    monkeypatch.setattr(judging.Grader, "asked", [])
    write_folder(toy.checkpoint(), tmp_path / "toy", "# toy\n", {})
    judging.write_anima(tmp_path / "anima")
    judging.write_moru(tmp_path / "moru")
    judging.write_moru_dimensions(tmp_path / "dimensions")
    return tmp_path


def anima(grader: str = "toygrader/rule", epochs: int = 2, **more: object) -> Benchmark:
    return Benchmark("anima", (grader,), {"dataset_repo_id": "anima"}, epochs=epochs, max_tokens=4, **more)  # type: ignore[arg-type]


def sit(benchmark: Benchmark) -> benchmarks.Sat:
    return sit_here(Path("toy"), None, None, benchmark, Path("runs"))


def rule(question: str, dimension: str) -> float:
    return float(judging.graded(f"[Task]: {question}\n***\n[Criterion]: {dimension}\n***"))


def test_scores_are_those_of_the_rule_by_dimension_with_intervals_over_items(here: Path):
    found = sit(anima())
    by_word = {
        word: [rule(f"what is {word} ?", name) for name in judging.DIMENSIONS[: 1 + (i != 1)]]
        for i, word in enumerate(judging.WORDS)
    }
    overall = np.array([np.mean(values) for values in by_word.values()])
    assert 0 < overall.mean() < 1
    told = found.scores["dimensions"]["overall"]
    half = stats.t.ppf(0.975, 4) * overall.std(ddof=1) / np.sqrt(5)
    assert told["mean"] == pytest.approx(overall.mean())
    assert (told["low"], told["high"]) == pytest.approx(
        (overall.mean() - half, min(overall.mean() + half, 1))
    )
    second = found.scores["dimensions"][judging.DIMENSIONS[1]]
    assert (second["items"], second["samples"]) == (4, 8)
    assert (found.scores["items"], found.scores["samples"], found.scores["scored"]) == (5, 10, 10)
    assert found.scores["graders"] == ["toygrader/rule"] and found.scores["epochs"] == 2
    # The sixth question has a dimension that there is not.
    assert (found.scores["dataset"], found.scores["dropped"]) == ("anima", 1)
    assert any("1 row of the data set gave no sample" in line for line in found.told())
    assert found.scores["software"]["inspect_evals"]
    samples = pd.read_parquet(found.folder / "samples.parquet")
    assert len(samples) == 10 + 10 + 8
    # Asked again, it is there.
    asked = len(judging.Grader.asked)
    assert sit(anima()).scores == found.scores and len(judging.Grader.asked) == asked
    assert sit(anima(seed=1)).folder != found.folder


def test_languages_of_an_item_are_one_item(here: Path):
    data = {"dataset_repo_id": "moru", "dimensions_repo_id": "dimensions"}
    found = sit(Benchmark("moru", ("toygrader/rule",), data, epochs=1, max_tokens=4))
    assert (found.scores["items"], found.scores["samples"], found.scores["dropped"]) == (4, 12, 0)
    assert found.scores["dimensions"]["overall"]["items"] == 4
    assert sorted(found.scores["languages"]) == ["en", "hi", "ms"]
    items = [
        np.mean(
            [
                [rule(f"{language} : what is {word} ?", name) for name in ("care", "doubt")]
                for language in ("en", "hi", "ms")
            ]
        )
        for word in judging.WORDS[:4]
    ]
    told = found.scores["dimensions"]["overall"]
    assert told["mean"] == pytest.approx(np.mean(items))
    half = stats.t.ppf(0.975, 3) * np.std(items, ddof=1) / 2
    assert (told["low"], told["high"]) == pytest.approx(
        (np.mean(items) - half, min(np.mean(items) + half, 1))
    )


def test_a_grader_without_a_grade_leaves_a_sample_unscored_and_counted(here: Path):
    found = sit(anima("toygrader/nonsense", epochs=1))
    assert (found.scores["samples"], found.scores["scored"]) == (5, 4)
    assert sum(found.scores["unscored"].values()) == 1
    assert found.scores["dimensions"]["overall"]["items"] == 4
    assert any("1 sample without a score" in line for line in found.told())


def test_a_judge_that_fails_half_way_keeps_what_was_graded(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(judging.Grader, "left", 5)
    with pytest.raises(Failure, match=r"of 5 samples ended with an error, such as .*gone home"):
        sit(anima(epochs=1))
    assert not list(here.glob("runs/benchmarks/*/*/complete.json"))
    monkeypatch.setattr(judging.Grader, "left", None)
    before = len(judging.Grader.asked)
    found = sit(anima(epochs=1))
    assert (found.scores["samples"], found.scores["scored"]) == (5, 5)
    assert len(judging.Grader.asked) - before < 9
    whole = sit(anima(epochs=1, seed=7))
    assert whole.scores["dimensions"] == found.scores["dimensions"]


def test_a_log_of_what_was_cancelled_is_an_interruption(here: Path, monkeypatch: pytest.MonkeyPatch):
    """As Inspect's own sets of evaluations take it; a signal in the test below leaves no log."""
    cancelled = types.SimpleNamespace(status="cancelled")
    monkeypatch.setattr(inspect_ai, "eval", lambda *_, **__: [cancelled])
    with pytest.raises(Failure, match="interrupted; what was answered is kept"):
        sit(anima(epochs=3))


@pytest.mark.parametrize("sent", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_what_was_answered_before_ctrl_c_is_kept_and_the_rest_is_asked(here: Path, sent: str):
    (here / "task.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import includes\n"
        "from inspect_ai.solver import generate, solver\n"
        "@solver\n"
        "def counted():\n"
        "    async def solve(state, generate):\n"
        "        with open('asked.txt', 'a') as asked:\n"
        "            asked.write(f'{state.sample_id}\\n')\n"
        "        if state.sample_id == 300 and not Path('sent.txt').exists():\n"
        "            Path('sent.txt').touch()\n"
        f"            os.kill(os.getpid(), signal.{sent})\n"
        "        return state\n"
        "    return solve\n"
        "@task\n"
        "def mine():\n"
        "    samples = [Sample(id=i, input='what is hot ?', target='the') for i in range(400)]\n"
        "    return Task(dataset=samples, solver=[counted(), generate()], scorer=includes())\n"
    )
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Failure, match="interrupted; what was answered is kept"):
        sit(Benchmark("task.py@mine", max_tokens=2))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    found = sit(Benchmark("task.py@mine", max_tokens=2))
    assert found.scores["scored"] == 400
    asked = (here / "asked.txt").read_text().split()
    assert set(asked) == {str(i) for i in range(400)} and len(asked) < 500


def test_a_grader_over_http_is_asked_by_the_protocol_of_openai(here: Path, monkeypatch: pytest.MonkeyPatch):
    with judging.openai_server() as (address, requests):
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        found = sit(anima("openai/toy-judge", epochs=1))
    assert {request["model"] for request in requests} == {"toy-judge"}
    assert sum("[Criterion]" in json.dumps(request) for request in requests) == 9
    assert {request["key"] for request in requests} == {"Bearer secret"}
    assert found.scores["dimensions"] == sit(anima(epochs=1)).scores["dimensions"]


def test_a_task_that_wants_a_grader_gets_none_of_its_own(here: Path):
    (here / "task.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import model_graded_qa\n"
        "@task\n"
        "def mine():\n"
        "    return Task(dataset=[Sample(input='what is hot ?', target='x')], scorer=model_graded_qa())\n"
    )
    with pytest.raises(
        UserError, match=r"^mine: 1 of 1 sample cannot be asked, such as: the task asks for a grader"
    ):
        sit(Benchmark("task.py@mine", max_tokens=4))
    found = sit(Benchmark("task.py@mine", ("toygrader/rule",), max_tokens=4))
    assert found.scores["scored"] == 1


TASK = """from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import Score, scorer, includes, model_graded_qa
@scorer(metrics=[])
def strange():
    async def score(state, target):
        return {score}
    return score
@task
def mine():
    {begin}
    samples = [Sample(input='what is ' + x + ' ?', id={ident}, target='{target}') for x in ('hot', 'wet', 'cold')]
    return Task(dataset=samples, scorer={scorer})
"""


def task(here: Path, more: str = "", **changes: str) -> Benchmark:
    """A task in a file, written anew with these changes."""
    plain = {
        "score": "Score(value='banana')",
        "begin": "",
        "ident": "x",
        "target": ".",
        "scorer": "includes()",
    }
    (here / "task.py").write_text(TASK.format(**plain | changes) + more)
    return Benchmark("task.py@mine", max_tokens=2)


def test_a_task_whose_file_was_changed_is_another_and_is_asked_anew(here: Path):
    before = sit(task(here, target="zebra"))
    assert before.scores["dimensions"]["overall"] == {
        "mean": 0.0, "low": None, "high": None, "share": True, "items": 3, "samples": 3,
    }  # fmt: skip
    after = sit(task(here, target=""))  # what every answer has
    assert after.scores["dimensions"]["overall"]["mean"] == 1.0 and after.folder != before.folder
    assert sit(task(here, target="zebra")).folder == before.folder
    assert benchmarks.is_of(before.scores, task(here, target="zebra"))
    assert not benchmarks.is_of(before.scores, task(here, target=""))


def test_a_file_of_several_tasks_wants_one_named(here: Path):
    task(here, "@task\ndef other():\n    raise ValueError('no data today')\n")
    with pytest.raises(
        UserError, match=r"^task: task\.py has 2 tasks, mine, other: name one, as FILE\.py@mine$"
    ):
        sit(Benchmark("task.py", max_tokens=2))
    assert not list(here.glob("runs/**/task-*"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"begin": "raise SystemExit(7)"}, "mine: it cannot be asked: SystemExit: 7"),
        ({"ident": "'same'"}, "duplicate sample id"),
        ({"begin": "return 5"}, "mine: it cannot be asked"),
    ],
)
def test_a_task_that_cannot_be_made_leaves_nothing(here: Path, changes: dict[str, str], says: str):
    with pytest.raises(UserError, match=says):
        sit(task(here, **changes))
    assert not list(here.glob("runs/**/mine-*"))


def test_a_value_that_is_no_number_is_no_score(here: Path):
    found = sit(task(here, scorer="strange()"))
    assert (found.scores["scored"], found.scores["unscored"]) == (0, {"no number: 'banana'": 3})
    quarter = sit(task(here, scorer="strange()", score="Score(value='0.25')"))
    assert quarter.scores["dimensions"]["overall"]["mean"] == 0.25


def test_limits_of_a_share_are_shares_and_those_of_points_are_not(here: Path):
    right = "Score(value='C' if 'hot' in state.input_text else 'I')"
    share = sit(task(here, scorer="strange()", score=right)).scores["dimensions"]["overall"]
    assert (share["low"], share["high"], share["share"]) == (0.0, 1.0, True)
    points = sit(task(here, scorer="strange()", score=right.replace("'C'", "1.0").replace("'I'", "0.0")))
    plain = points.scores["dimensions"]["overall"]
    half = stats.t.ppf(0.975, 2) * np.std([1, 0, 0], ddof=1) / np.sqrt(3)
    assert not plain["share"] and (plain["low"], plain["high"]) == pytest.approx((1 / 3 - half, 1 / 3 + half))


def test_what_is_kept_of_a_benchmark_is_looked_at_whole(here: Path):
    first = sit(task(here))
    (log,) = first.folder.glob("logs/*.eval")
    log.write_bytes(log.read_bytes()[:-1] + b"x")
    with pytest.raises(
        Failure, match=rf"{log.name} was altered: move .*mine-.* away, and the benchmark is asked again"
    ):
        sit(task(here))


@pytest.mark.slow
def test_a_grader_that_cannot_be_reached_is_said_so(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setattr(benchmarks, "RETRIES", 1)
    graded = dataclasses.replace(task(here, scorer="model_graded_qa()"), graders=("openai/toy-judge",))
    with pytest.raises(
        Failure, match=r"3 of 3 samples .* 'APIConnectionError of every request: a grader cannot be reached'"
    ):
        sit(graded)


def test_infinity_is_no_score(here: Path):
    found = sit(task(here, scorer="strange()", score="Score(value=float('inf'))"))
    assert (found.scores["scored"], found.scores["unscored"]) == (0, {"no number: inf": 3})
    assert [line.split(":")[0] for line in found.told()][1:] == [
        "  3 samples without a score",
        f"  kept in {found.folder}",
    ]


def test_of_several_scorers_the_first_that_scores_is_counted_and_the_others_are_named(here: Path):
    found = sit(task(here, scorer="[strange(), includes()]", score="Score(value=[1, 0])", target=""))
    assert (found.scores["scored"], found.scores["unscored"]) == (3, {})
    assert "  strange overall: no sample has a score, such as: no number: [1, 0]" in list(found.told())


def test_a_file_of_one_task_is_found_by_its_whole_path(here: Path):
    named = task(here)
    assert sit(dataclasses.replace(named, task=str(here / "task.py"))).scores["scored"] == 3


def test_what_a_grader_says_over_several_lines_is_one():
    assert plain("[bold]ERROR[/bold]: Unable to ask\n\nNo KEY:\n  - A\n") == "Unable to ask; No KEY:; - A"


def test_a_log_that_is_not_whole_is_put_aside_and_asked_again(here: Path, capsys: pytest.CaptureFixture[str]):
    first = sit(task(here))
    (log,) = first.folder.glob("logs/*.eval")
    log.write_bytes(log.read_bytes()[:50])
    (first.folder / "complete.json").unlink()
    again = sit(task(here))
    assert again.scores["dimensions"] == first.scores["dimensions"]
    assert f"put aside as {log.name}.damaged" in capsys.readouterr().err
    (first.folder / "scores.json").write_text("{")
    with pytest.raises(
        Failure, match=r"scores\.json has .* move .*mine-.* away, and the benchmark is asked again"
    ):
        sit(task(here))


def test_who_asks_a_model_that_is_being_asked_is_told(here: Path):
    shelf = next(iter({sit(task(here)).folder.parent}))
    with acquire_all([shelf]), pytest.raises(Failure, match="is in use by"):
        sit(task(here, target="x"))


def caml(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_of_an_argument_that_a_task_does_not_take_one_line_is_said(
    here: Path, caplog: pytest.LogCaptureFixture
):
    task(here)
    with (
        caplog.at_level("WARNING", "inspect_ai"),
        pytest.raises(UserError, match="the task has no argument x; it takes none"),
    ):
        sit(Benchmark("task.py", arguments={"x": 1}))
    assert caplog.text == ""  # Inspect has a warning of its own


def test_the_command_takes_a_name_or_a_gin_file_and_says_what_is_wrong(here: Path):
    (here / "anima.gin").write_text(
        "GRADERS = %gin.REQUIRED\n"
        "Benchmark.task = 'ahb'\n"
        "Benchmark.graders = %GRADERS\n"
        "Benchmark.arguments = {'dataset_repo_id': 'anima'}\n"
        "Benchmark.epochs = 1\n"
        "Benchmark.max_tokens = 4\n"
    )
    done = caml("eval", "toy", "--task", "anima.gin", "--set", "GRADERS=('toygrader/rule',)")
    assert done.exit_code == 0, done.output
    assert "ahb is called anima since May 2026" in done.stderr
    assert "5 of 5 samples scored" in done.stdout and "graded by toygrader/rule" in done.stdout
    before = set(here.rglob("*"))
    (here / "broken.py").write_text("from inspect_ai import task\n@task\ndef mine(:\n")
    (here / "late.gin").write_text("\nBenchmark.task = 'broken.py@mine'\n")
    task(here)
    (here / "more.gin").write_text("Benchmark.task = 'task.py@mine'\nBenchmark.arguments = {'x': 1}\n")
    for arguments, says in (
        (("--task", "anima"), "graded by a model: name one"),
        (("--task", "anima", "--grader", "gpt"), "provider/model"),
        (("--task", "anima.gin"), "GRADERS"),
        (("--task", "anima.gin", "--grader", "a/b"), "--grader: anima.gin says it by Benchmark.graders"),
        (("--task", "anima.gin", "--limit", "2"), "--limit: anima.gin says it by Benchmark.limit"),
        (("--task", "nowhere.gin"), "nowhere.gin"),
        (
            ("--task", "inspect_evals/none", "--grader", "toygrader/rule"),
            "Inspect has no task inspect_evals/none",
        ),
        (("--task", "inspect_evals/none", "--grader", "openai/x"), "Inspect has no task inspect_evals/none"),
        (("--task", "broken.py@mine"), "broken.py:3 is no Python: "),
        (("--task", "late.gin"), "late.gin:2: Benchmark.task = 'broken.py@mine': broken.py:3 is no Python: "),
        (
            ("--task", "more.gin"),
            "more.gin:2: Benchmark.arguments = {'x': 1}: the task has no argument x; it takes none",
        ),
        (("--task", "task.py", "--argument", "x=1"), "task: the task has no argument x; it takes none"),
        (
            ("--task", "anima", "--grader", "a/b", "--argument", "repo=anima"),
            "the task has no argument repo; it takes ",
        ),
        (("--task", "anima", "--write", "a.jsonl"), "--write belongs to --items, and --task was given"),
        (("--task", "anima", "--grader", "nosuch/model"), "nosuch"),
        (("--task", "anima", "--grader", "a/b", "--limit", "-1"), "--limit: 0 or a positive number"),
        ((), "give one of them"),
        (("--task", "anima", "--items", "x"), "give one of them"),
        (("--task", "inspect_evals/gsm8k", "--output", "late.gin"), "no scores can be kept in late.gin/"),
    ):
        refused = caml("eval", "toy", *arguments)
        assert (refused.exit_code, refused.stdout) == (2, ""), (arguments, refused.output)
        lines = [line for line in refused.stderr.splitlines() if line.startswith("caml: ")]
        assert len(lines) == 1 and says in lines[0], (arguments, refused.stderr)
    # Nothing is left of what did not begin.
    left = [path for path in set(here.rglob("*")) - before if ".leases" not in path.parts]
    assert sorted(path.name for path in left) == ["broken.py", "late.gin", "more.gin", "task.py"]


@pytest.mark.slow
def test_data_that_cannot_be_had_are_named(here: Path):
    lost = ("--task", "anima", "--grader", "toygrader/rule", "--argument", "dataset_repo_id=lost")
    refused = caml("eval", "toy", *lost)
    lines = [line for line in refused.stderr.splitlines() if line.startswith("caml: ")]
    assert refused.exit_code == 2 and len(lines) == 1 and "lost" in lines[0], refused.stderr
    assert "anima: reading its data" in refused.stderr and "Retry" not in refused.stderr


def test_a_grader_without_a_key_is_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="No OPENAI_API_KEY, ") as refused:
        sit(anima("openai/toy-judge"))
    assert "[" not in str(refused.value)  # Inspect marks the names for a terminal


def test_scores_that_were_altered_are_not_shown(here: Path):
    found = sit(anima(epochs=1))
    path = found.folder / "scores.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scored": 99}))
    with pytest.raises(Failure, match=r"scores\.json"):
        sit(anima(epochs=1))
