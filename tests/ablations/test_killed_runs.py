"""A run that is killed, stopped, damaged or started twice ends in the bits and the tables of one that was not."""

import json
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from whole_runs import (
    TINY,
    assert_same,
    command,
    dying,
    environment,
    manifests,
    parameters,
    run,
    stamps,
    tables,
)

KILLS = 20
# A checkpoint after every dispatch.
OFTEN = ("run", str(TINY), "--set", "CHECKPOINT_SECONDS=0.0")

# Where a launch kills itself: module, name, number of the call, side. The tiny ablation has two untrained models,
# then a population of six in 96 steps (five checkpoints) and one of four in 32 (one).
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
    "figures": "caml.analysis.figures:save:2:after",
    "page": "caml.ablations.reporting:headline:1:before",
    "tracking store": "caml.ablations.runner:Mirror.stop:1:before",
}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_killed_in_fine_tuning_and_damaged_it_still_ends_in_the_same_bits(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    done = run(dying(MOMENTS["fine-tuning, between segments and checkpoint"], "KILL", *OFTEN), tmp_path, cache)
    assert done.returncode == -signal.SIGKILL
    ledger = tmp_path / "runs/ledger"
    (population,) = (tmp_path / "runs/populations").iterdir()
    assert json.loads((population / "members.json").read_text())
    parent = next(ledger.glob("pretrain-compassion*seed0*"))
    flip(parent / "checkpoints/final/params.safetensors")
    cut(next(ledger.glob("pretrain-neutral*seed1*/evals/*/margins.parquet")))
    flip(next(ledger.glob("sft-compassion*seed1*/metrics/*.parquet")))
    done = run(command(*OFTEN), tmp_path, cache)
    assert done.returncode == 0, done.stderr
    for damaged in (f"{parent.name}/checkpoints/final/params.safetensors was altered", "margins.parquet has "):
        assert damaged in done.stderr
    assert_same(tmp_path / "runs", finished / "runs")


def test_told_to_stop_it_saves_says_so_in_one_line_and_goes_on(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    done = run(dying(MOMENTS["pretraining"], "TERM", "run", str(TINY)), tmp_path, cache)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.splitlines()[-1] == "caml: stopped and saved; the same command goes on from here"
    # It had no reason to save but the signal.
    (checkpoints,) = (tmp_path / "runs/populations").glob("*/checkpoints")
    assert [folder.name for folder in checkpoints.iterdir()] == ["00000080"]
    done = run(dying("caml.ablations.scorer:stack:1:before", "INT", "run", str(TINY)), tmp_path, cache)
    assert done.returncode == 1 and "goes on from step 80" in done.stderr
    assert done.stderr.count("caml: ") == 1
    assert {name: digest for name, digest in parameters(finished / "runs").items() if name.startswith("pre")} == (
        parameters(tmp_path / "runs")
    )


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_chosen_moment(moment: str, finished: Path, tmp_path: Path, cache: Path) -> None:
    done = run(dying(MOMENTS[moment], "KILL", *OFTEN), tmp_path, cache)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not writers(tmp_path), "processes that write stores outlived their launch"
    done = run(command(*OFTEN), tmp_path, cache)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "runs", finished / "runs")
    assert run(command(*OFTEN), tmp_path, cache).stdout.startswith("nothing to do")


@pytest.mark.slow
def test_killed_at_random_moments(finished: Path, tmp_path: Path, cache: Path) -> None:
    rng = random.Random(0)
    began = time.monotonic()
    assert run(command(*OFTEN), tmp_path, cache).returncode == 0
    whole = time.monotonic() - began
    shutil.rmtree(tmp_path / "runs")
    kills = 0
    while kills < KILLS:
        launch = subprocess.Popen(
            command(*OFTEN), cwd=tmp_path, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            assert launch.wait(rng.uniform(0.1, 0.9) * whole) == 0
            # It came to its end before it was killed: compare, and begin again.
            assert_same(tmp_path / "runs", finished / "runs")
            shutil.rmtree(tmp_path / "runs")
        except subprocess.TimeoutExpired:
            launch.kill()
            launch.wait()
            kills += 1
            time.sleep(0.5)
            assert not writers(tmp_path)
    assert run(command(*OFTEN), tmp_path, cache).returncode == 0
    assert_same(tmp_path / "runs", finished / "runs")


def writers(folder: Path) -> list[psutil.Process]:
    """Processes of ours that work in `folder`."""
    found = []
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found
