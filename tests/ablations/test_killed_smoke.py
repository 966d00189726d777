"""The smoke ablation, killed at five chosen moments and at twenty random ones, ends as if it never had been."""

import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from whole_runs import assert_same, command, dying, environment, processes_in, run

SMOKE = Path(__file__).parents[2] / "experiments/smoke/smoke.gin"
KILLS = 20

# Two untrained models, a population of six in 8 dispatches, one of twelve in 2.
MOMENTS = {
    "pretraining": "caml.ablations.trainer:_LedgerSink.record:5:after",
    "in a checkpoint": "caml.training.checkpoints:write_json:2:before",
    "fine-tuning": "caml.ablations.trainer:_LedgerSink.record:9:after",
    "evaluation": "caml.tracking.ledger:Ledger.write_evaluation:10:after",
    "report": "caml.analysis.figures.drawings:save:3:after",
}


@pytest.fixture(scope="session")
def often(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke ablation with a checkpoint after every dispatch."""
    file = tmp_path_factory.mktemp("often") / "smoke.gin"
    file.write_text(f"include '{SMOKE}'\nAblation.checkpoint_seconds = 0.0\n")
    return file


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, float]:
    """A folder in which the smoke ablation was run once from nothing, and the seconds it took."""
    folder = tmp_path_factory.mktemp("smoke")
    began = time.monotonic()
    assert run(command("run", str(SMOKE)), folder, cache).returncode == 0
    return folder / "runs", time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_chosen_moment(
    moment: str, often: Path, whole: tuple[Path, float], tmp_path: Path, cache: Path
) -> None:
    done = run(dying(MOMENTS[moment], "KILL", "run", str(often)), tmp_path, cache)
    assert done.returncode == -signal.SIGKILL, done.stderr
    done = run(command("run", str(often)), tmp_path, cache)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "runs", whole[0], "smoke")
    assert run(command("run", str(often)), tmp_path, cache).stdout.startswith("nothing to do")


@pytest.mark.slow
def test_killed_at_random_moments(
    often: Path, whole: tuple[Path, float], tmp_path: Path, cache: Path
) -> None:
    rng = random.Random(0)
    expected, seconds = whole
    kills = ends = 0
    while kills < KILLS:
        launch = subprocess.Popen(
            command("run", str(often)), cwd=tmp_path, env=environment(cache),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert launch.wait(rng.uniform(0.05, 0.6) * seconds) == 0
            # It came to its end before it was killed: compare, and begin again.
            assert_same(tmp_path / "runs", expected, "smoke")
            shutil.rmtree(tmp_path / "runs")
            ends += 1
        except subprocess.TimeoutExpired:
            launch.kill()
            launch.wait()
            kills += 1
            time.sleep(0.5)
            assert not processes_in(tmp_path)
    print(f"{KILLS} kills, {ends} ends between them")
    assert run(command("run", str(often)), tmp_path, cache).returncode == 0
    assert_same(tmp_path / "runs", expected, "smoke")
