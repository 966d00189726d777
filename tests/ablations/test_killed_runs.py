"""A run that is killed, stopped, damaged or started twice ends in the bits and the tables of one that was not."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from whole_runs import (
    TINY,
    assert_same,
    command,
    cut,
    dying,
    environment,
    flip,
    parameters,
    processes_in,
    run,
    stamps,
    tables,
)

from caml.tracking import markers

# A checkpoint after every dispatch.
OFTEN = ("run", str(TINY), "--set", "CHECKPOINT_SECONDS=0.0")

# Where a launch kills itself: module, name, number of the call, side. The tiny ablation has two untrained models,
# then a population of six in 96 steps (five checkpoints) and one of four in 64 (three).
MOMENTS = {
    "stores": "caml.ablations.prepare:wait:4:after",
    "tokenizer": "caml.ablations.prepare:prepare_tokenizer:1:after",
    "untrained": "caml.tracking.ledger:Ledger.complete:2:before",
    "first dispatch": "caml.ablations.trainer:_LedgerSink.record:1:before",
    "pretraining": "caml.ablations.trainer:_LedgerSink.record:4:after",
    "some segments of a close": "caml.tracking.ledger:Ledger.write_segment:10:after",
    "between segments and checkpoint": "caml.training.checkpoints:Checkpoints.save:3:before",
    "in a checkpoint": "caml.training.checkpoints:write_json:3:before",
    "after a checkpoint": "caml.training.checkpoints:Checkpoints._retire:3:before",
    "in the removal of checkpoints": "caml.training.checkpoints:shutil.rmtree:6:after",
    "between parameters and completion": "caml.tracking.ledger:Ledger.complete:5:before",
    "in a marker": "caml.tracking.markers:files.write_json:20:before",
    "before its checkpoints go": "caml.ablations.trainer:discard:2:before",
    "fine-tuning": "caml.tracking.ledger:Ledger.write_segment:40:after",
    "fine-tuning, between segments and checkpoint": "caml.training.checkpoints:Checkpoints.save:6:before",
    "evaluation": "caml.tracking.ledger:Ledger.write_evaluation:5:after",
    "in an evaluation": "caml.tracking.ledger:markers.write:12:before",
    "frozen tables": "caml.analysis.tables:replace_file:7:after",
    "figures": "caml.analysis.figures.drawings:save:2:after",
    "page": "caml.ablations.reporting:headline:1:before",
    "in the making of the tracking store": "pathlib:Path.rename:1:before",
    "at the end": "caml.ablations.runner:Mirror.stop:1:before",
}


STOPPED = "caml: stopped and saved; the same command goes on from here"


def test_stopped_then_killed_then_damaged_it_ends_in_the_same_bits(
    finished: Path, tmp_path: Path, cache: Path, stored: Callable[[Path], None]
) -> None:
    """Three launches: one is told to stop in pretraining, one is killed in fine-tuning, one comes to the end."""
    stored(tmp_path / "runs")
    ledger, populations = tmp_path / "runs/ledger", tmp_path / "runs/populations"
    stopped = run(dying(MOMENTS["pretraining"], "TERM", "run", str(TINY)), tmp_path, cache)
    assert stopped.returncode == 1 and not stopped.stdout
    assert stopped.stderr.splitlines()[-1] == STOPPED and stopped.stderr.count("caml: ") == 1
    # Nothing but the signal gave it a reason to save.
    (saved,) = populations.glob("*/checkpoints/*")
    assert 0 < int(saved.name) < 96

    # Saving its second checkpoint, fine-tuning has waited for the first.
    when = "caml.training.checkpoints:Checkpoints.save:3:before:sft-"
    killed = run(dying(when, "KILL", *OFTEN), tmp_path, cache)
    assert killed.returncode == -signal.SIGKILL and f"goes on from step {int(saved.name)}" in killed.stderr
    done = {name for name in parameters(tmp_path / "runs") if name.startswith("pretrain")}
    assert len(done) == 8, "all of pretraining was finished before"

    parent = next(ledger.glob("pretrain-compassion*seed0*"))
    flip(parent / "checkpoints/final/params.safetensors")
    cut(next(ledger.glob("pretrain-neutral*seed1*/evals/*/margins.parquet")))
    flip(next(ledger.glob("sft-compassion*seed1*/metrics/00000000-00000016.parquet")))
    ended = run(command(*OFTEN), tmp_path, cache)
    assert ended.returncode == 0, ended.stderr
    for damaged in (
        f"{parent.name}/checkpoints/final/params.safetensors was altered",
        "margins.parquet has ",
        "metrics/00000000-00000016.parquet was cut short or altered",
    ):
        assert ended.stderr.count(damaged) == 1
    assert_same(tmp_path / "runs", finished / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_chosen_moment(moment: str, finished: Path, tmp_path: Path, cache: Path) -> None:
    done = run(dying(MOMENTS[moment], "KILL", *OFTEN), tmp_path, cache)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not processes_in(tmp_path), "processes that write stores outlived their launch"
    done = run(command(*OFTEN), tmp_path, cache)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "runs", finished / "runs")
    assert run(command(*OFTEN), tmp_path, cache).stdout.startswith("nothing to do")


# Where a launch is interrupted as a person does it, and how far it must have come before it is told.
INTERRUPTIONS = {
    "stores": ("caml.ablations.prepare:wait:1:after", "tiny: "),
    "pretraining": ("caml.ablations.trainer:_LedgerSink.record:3:after", "population 2"),
    "evaluation": ("caml.ablations.scorer:stack:3:before", "population 2"),
    "fine-tuning": ("caml.ablations.trainer:_LedgerSink.record:7:after", "population 3"),
    "report": ("caml.analysis.figures.drawings:save:2:after", "population 3"),
}


@pytest.mark.slow
@pytest.mark.parametrize("when", INTERRUPTIONS)
def test_interrupted_it_ends_in_one_line_and_goes_on(
    when: str, finished: Path, tmp_path: Path, cache: Path
) -> None:
    moment, said = INTERRUPTIONS[when]
    done = run(dying(moment, "INT", "run", str(TINY)), tmp_path, cache)
    assert done.returncode == 1, done.stderr
    assert (
        done.stderr.splitlines()[-1] == STOPPED and done.stderr.count("caml: ") == 1 and said in done.stderr
    )
    assert not processes_in(tmp_path)
    assert run(command("run", str(TINY)), tmp_path, cache).returncode == 0
    assert_same(tmp_path / "runs", finished / "runs")


@pytest.mark.slow
def test_interrupted_at_a_terminal_the_writers_of_stores_say_nothing(tmp_path: Path, cache: Path) -> None:
    """A terminal sends Ctrl-C to every process of the group."""
    for delay in (0.0, 0.3):
        launch = subprocess.Popen(
            command("run", str(TINY), "--set", f"OUTPUT='{tmp_path / str(delay)}'"),
            cwd=tmp_path, env=environment(cache), stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while len(processes_in(tmp_path)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(delay)
        os.killpg(launch.pid, signal.SIGINT)
        _, said = launch.communicate(timeout=120)
        assert launch.returncode == 1 and said.splitlines()[-1] == STOPPED, said
        assert "Traceback" not in said and not processes_in(tmp_path)


@pytest.mark.slow
def test_two_launches_at_once_train_nothing_twice(finished: Path, tmp_path: Path, cache: Path) -> None:
    launches = [
        subprocess.Popen(
            command(*OFTEN), cwd=tmp_path, env=environment(cache), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [launch.communicate(timeout=600) for launch in launches]
    assert [launch.returncode for launch in launches] == [0, 0], said
    assert_same(tmp_path / "runs", finished / "runs")
    # Each population was trained by one launch and waited for, or found finished, by the other.
    assert sum(err.count("tiny: 96 of 96, ") for _, err in said) == 1
    assert sum(err.count("tiny: 64 of 64, ") for _, err in said) == 1
    assert any("is working on this population; waiting for it" in err for _, err in said)
    # Each says what it made itself.
    made = [re.match(r"(\d+) StageRuns? trained or scored in ", out) for out, _ in said]
    assert sum(int(number[1]) for number in made if number) == len(tables(tmp_path / "runs")["stageruns"])


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_an_older_one_used(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    done = run(dying("caml.training.checkpoints:Checkpoints.save:5:before", "KILL", *OFTEN), tmp_path, cache)
    assert done.returncode == -signal.SIGKILL
    # The fourth may have been cut short: it has no marker then.
    older, newest = sorted(
        marker.parent for marker in (tmp_path / "runs/populations").glob("*/checkpoints/*/marker.json")
    )
    flip(max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size))
    done = run(command(*OFTEN), tmp_path, cache)
    assert done.returncode == 0, done.stderr
    assert f"{newest} is not used: " in done.stderr and f"goes on from step {int(older.name)}" in done.stderr
    assert_same(tmp_path / "runs", finished / "runs")


@pytest.mark.slow
def test_a_damaged_store_is_refused_by_name(tmp_path: Path, cache: Path) -> None:
    done = run(dying(MOMENTS["pretraining"], "KILL", *OFTEN), tmp_path, cache)
    store = next((tmp_path / "runs/stores").glob("neutral-*"))
    flip(store / "tokens.bin")
    before = parameters(tmp_path / "runs")
    done = run(command(*OFTEN), tmp_path, cache)
    assert done.returncode == 1 and parameters(tmp_path / "runs") == before
    assert str(store / "tokens.bin") in done.stderr.splitlines()[-1] and done.stderr.count("caml: ") == 1
    shutil.rmtree(store)
    assert run(command(*OFTEN), tmp_path, cache).returncode == 0


@pytest.mark.slow
def test_children_of_other_parameters_are_trained_again(finished: Path, tmp_path: Path, cache: Path) -> None:
    """A parent that was trained again with other bits, as another machine may give, takes its children along."""
    shutil.copytree(finished / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("mlflow.db*"))
    output = tmp_path / "runs"
    (child,) = output.glob("ledger/sft-compassion*seed0*")
    manifest = json.loads((child / "manifest.json").read_text())
    # Forge a child whose parent was another: its marker vouches for it.
    manifest["started_from"] = "0" * 64
    (child / "manifest.json").write_text(json.dumps(manifest))
    markers.write(child, [*json.loads((child / "complete.json").read_text())["files"]], {})
    done = run(command("run", str(TINY)), tmp_path, cache)
    assert done.returncode == 0 and done.stdout.startswith("1 StageRun trained or scored")
    assert f"the parent of {child.name} has other parameters now" in done.stderr
    assert parameters(output) == parameters(finished / "runs")


@pytest.mark.slow
def test_a_member_that_diverges_ends_where_it_stopped_and_its_company_goes_on(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    text = TINY.read_text().replace("0.003", "%RATE").replace("SEED = 0\n", "SEED = 0\nRATE = 0.003\n")
    axes = text[text.index("    {'ARM': ['base']") : text.index("]\nAblation.contrasts")]
    text = text.replace(
        axes, "    {'ARM': ['base'], 'RATIO': [0.0], 'RATE': [0.003, 1e30], 'SFT_TOKENS': [0, 8192]},\n"
    )
    text = text[: text.index("Ablation.contrasts")] + text[text.index("Run.model") :]
    file = tmp_path / "diverging.gin"
    file.write_text(text.replace("Ablation.control = {'ARM': 'neutral'}\n", ""))
    often = ("run", str(file), "--set", "CHECKPOINT_SECONDS=0.0")
    when = "caml.training.checkpoints:Checkpoints._retire:4:after"
    assert run(dying(when, "KILL", *often), tmp_path, cache).returncode == -signal.SIGKILL
    done = run(command(*often), tmp_path, cache)
    assert done.returncode == 0 and "goes on from step 64" in done.stderr, done.stderr
    stageruns = tables(tmp_path / "runs")["stageruns"]
    roots = stageruns[stageruns["stage"] == "pretrain"].set_index("diverged")
    assert roots.loc[False, "steps"] == 96 and 0 < roots.loc[True, "steps"] < 64
    metrics = tables(tmp_path / "runs")["metrics"]
    assert metrics.groupby("stagerun")["step"].max()[roots.loc[True, "stagerun"]] == roots.loc[True, "steps"]
    assert metrics["loss"].notna().all()
    healthy = parameters(tmp_path / "runs")
    same = [name for name in healthy if healthy[name] == parameters(finished / "runs").get(name)]
    assert len(same) == 1 and same[0].startswith("pretrain-base")


@pytest.mark.slow
def test_a_full_disk_ends_in_one_line_and_keeps_what_was_finished(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(stamp[1] for stamp in stamps(finished / "runs").values())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", str(disk)], check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    try:
        for room in (size // 2, size * 2 // 3, size * 5 // 6):
            subprocess.run(["mount", "-o", f"remount,size={room}", str(disk)], check=True)
            before = parameters(disk / "runs")
            done = run(command(*OFTEN), disk, cache)
            if done.returncode == 0:
                break
            assert done.returncode == 1 and not done.stdout
            assert re.search("No space left|disk", done.stderr.splitlines()[-1]), done.stderr
            kept = parameters(disk / "runs")
            assert before.items() <= kept.items() <= parameters(finished / "runs").items()
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(disk)], check=True)
        assert run(command(*OFTEN), disk, cache).returncode == 0
        assert parameters(disk / "runs") == parameters(finished / "runs")
        for name, table in tables(finished / "runs").items():
            pd.testing.assert_frame_equal(tables(disk / "runs")[name], table, check_exact=True, obj=name)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
