"""Everything of the ledger is in the tracking store exactly once, whatever happens on the way."""

import contextlib
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from toy_tracking import EVALUATION, Trainer

from caml.config.errors import Failure
from caml.tracking import mirror as mirror_module
from caml.tracking.ledger import Ledger
from caml.tracking.mirror import Mirror
from caml.tracking.store import Store, shorten, where
from caml.tracking.sync import Synced, sync


def runs(uri: str) -> dict[str, Any]:
    """The MLflow runs by name."""
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("caml")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    assert len({run.info.run_name for run in found}) == len(found), "a run is there twice"
    return {run.info.run_name: run for run in found}


def assert_exactly_once(uri: str, ledger: Ledger, names: list[str]) -> None:
    """Each number of the closed segments of `names` is in the store once, and nothing else is."""
    client = mlflow.MlflowClient(uri)
    found = runs(uri)
    for name in names:
        run = found[name]
        wanted: dict[str, list[tuple[int, float]]] = {}
        for part in ledger.read_segments(name, "metrics"):
            for row in part.table.to_pylist():
                for key in set(row) - {"step"}:
                    wanted.setdefault(key, []).append((row["step"], row[key]))
        for part in ledger.read_segments(name, "trajectory"):
            for row in part.table.to_pylist():
                wanted.setdefault(f"trajectory/{row['outcome']}", []).append((row["step"], row["value"]))
        for evaluation in ledger.evaluations(name):
            assert evaluation == EVALUATION
            wanted["eval/tax_bits_per_byte"] = [(ledger.manifest(name)["steps"], 1.25)]
            wanted["eval/margin/disposition/new_frame"] = [(ledger.manifest(name)["steps"], 0.125)]
        assert set(run.data.metrics) == set(wanted)
        for key, points in wanted.items():
            history = client.get_metric_history(run.info.run_id, key)
            assert sorted((metric.step, metric.value) for metric in history) == sorted(points)


def test_a_stagerun_becomes_one_run_with_all_that_belongs_to_it(trainer: Trainer, uri: str) -> None:
    trainer.whole("a")
    said: list[str] = []
    mirror = Mirror(trainer.ledger, uri, "study", said.append)
    mirror.submit("a")
    left: list[int] = []
    assert mirror.stop(60, left.append) == 0
    assert left[-1] == 0 and left == sorted(left, reverse=True)
    assert said == []
    assert_exactly_once(uri, trainer.ledger, ["a"])
    found = runs(uri)
    tags = found["a"].data.tags
    assert tags["mlflow.parentRunId"] == found["study"].info.run_id
    assert found["study"].data.tags["caml.ablation"] == "study"
    assert tags["caml.stagerun"] == f"{'a':0>64}"
    assert tags["caml.ablations"] == "study"
    assert (tags["arm"], tags["ratio"], tags["commit"], tags["dirty"]) == (
        "compassion",
        "0.1",
        "c0ffee",
        "false",
    )
    assert found["a"].data.params["model.width"] == "32"
    assert found["a"].data.params["model"] == "Model"
    assert found["a"].data.params["ratios"] == "[0.1, 0.2]"
    assert found["a"].info.status == found["study"].info.status == "FINISHED"
    assert found["a"].info.start_time == trainer.ledger.manifest("a")["started"]
    (dataset,) = found["a"].inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("world", "d1")
    client = mlflow.MlflowClient(uri)
    assert [file.path for file in client.list_artifacts(found["a"].info.run_id)] == [
        "config.gin",
        "manifest.json",
    ]


def test_a_second_ablation_extends_the_tag_and_adds_nothing_else(trainer: Trainer, uri: str) -> None:
    trainer.whole("a")
    assert sync(trainer.ledger, uri, "first", ["a", "missing"]) == Synced(1, 0, 30 * 4 + 3 + 2)
    assert sync(trainer.ledger, uri, "first", ["a"]) == Synced(0, 1, 0)
    assert sync(trainer.ledger, uri, "second", ["a"]) == Synced(1, 0, 0)
    assert sync(trainer.ledger, uri, "second", ["a"]) == Synced(0, 1, 0)
    assert sync(trainer.ledger, uri, "first", ["a"]) == Synced(0, 1, 0)
    found = runs(uri)
    assert set(found) == {"first", "second", "a"}
    assert found["a"].data.tags["caml.ablations"] == "first,second"
    assert found["a"].data.tags["mlflow.parentRunId"] == found["first"].info.run_id
    assert_exactly_once(uri, trainer.ledger, ["a"])


def test_a_resumed_run_has_no_step_twice(trainer: Trainer, uri: str) -> None:
    trainer.start("a")
    for begin in (0, 10, 20):
        trainer.segment("a", begin)
    sync(trainer.ledger, uri, "study", ["a"])
    assert runs(uri)["a"].info.status == "RUNNING"
    assert runs(uri)["a"].data.params["model.width"] == "32"
    trainer.start("a", 10)  # killed; its newest checkpoint was at step 10
    sync(trainer.ledger, uri, "study", ["a"])
    time.sleep(0.002)  # a segment that is written again is closed at another time
    for begin in (10, 20, 30):
        trainer.segment("a", begin)
    trainer.finish("a", 40)
    sync(trainer.ledger, uri, "study", ["a"])
    trainer.evaluate("a")
    assert sync(trainer.ledger, uri, "study", ["a"]) == Synced(1, 0, 2)
    assert_exactly_once(uri, trainer.ledger, ["a"])
    assert runs(uri)["a"].info.status == "FINISHED"


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_a_store_that_fails_now_and_then_gets_everything_once(
    trainer: Trainer, uri: str, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Every third batch fails: before it reaches the store, or after, when only the answer is lost."""
    count = 0
    write = Store.write

    def unreliable(self: Store, *arguments: Any) -> None:
        nonlocal count
        count += 1
        if count % 3 == 1 and lost == "request":
            raise ConnectionError("gone")
        write(self, *arguments)
        if count % 3 == 1:
            raise ConnectionError("gone")

    monkeypatch.setattr(Store, "write", unreliable)
    monkeypatch.setattr(mirror_module, "PAUSE", 0.01)
    names = [f"run{i}" for i in range(4)]
    mirror = Mirror(trainer.ledger, uri, "study", pytest.fail, interval=0.01)
    for name in names:
        trainer.start(name)
        for begin in (0, 10, 20):
            trainer.segment(name, begin)
            mirror.submit(name)
            time.sleep(0.02)
        trainer.finish(name, 30)
        trainer.evaluate(name)
        mirror.submit(name)
    assert mirror.stop(60) == 0
    assert count >= 4
    assert_exactly_once(uri, trainer.ledger, names)
    assert sync(trainer.ledger, uri, "study", names) == Synced(0, 4, 0)


def test_a_store_that_is_gone_is_told_once_and_harms_nothing(
    trainer: Trainer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write
    calls = 0

    def dying(self: Store, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise ConnectionError("the store\nis gone")
        write(self, *arguments)

    monkeypatch.setattr(Store, "write", dying)
    monkeypatch.setattr(mirror_module, "PAUSE", 0.001)
    said: list[str] = []
    mirror = Mirror(trainer.ledger, uri, "study", said.append, interval=0.01)
    names = [f"run{i}" for i in range(5)]
    for name in names:
        trainer.whole(name)
        mirror.submit(name)
    begun = time.monotonic()
    assert mirror.stop(30) == 4
    mirror.submit("run0")
    assert time.monotonic() - begun < 10
    assert len(said) == 1
    assert "the store)" in said[0] and "caml sync" in said[0] and "\n" not in said[0]
    with pytest.raises(Failure, match="caml sync"):
        sync(trainer.ledger, uri, "study", names)
    monkeypatch.undo()
    assert sync(trainer.ledger, uri, "study", names) == Synced(4, 1, 4 * (30 * 4 + 3 + 2))
    assert_exactly_once(uri, trainer.ledger, names)


def test_the_store_is_opened_after_the_interval_and_at_once_at_the_end(
    trainer: Trainer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.whole("a")
    opened = threading.Event()

    class Watched(Store):
        def __init__(self, *arguments: Any):
            opened.set()
            super().__init__(*arguments)

    monkeypatch.setattr(mirror_module, "Store", Watched)
    mirror = Mirror(trainer.ledger, uri, "study", pytest.fail, interval=3600)
    mirror.submit("a")
    assert not opened.wait(0.3)
    assert mirror.stop(60) == 0
    assert_exactly_once(uri, trainer.ledger, ["a"])


def test_a_damaged_stagerun_is_named_and_the_others_are_brought(trainer: Trainer, uri: str) -> None:
    for name in ("a", "b"):
        trainer.whole(name)
    (trainer.ledger.folder("a") / "config.gin").write_text("WIDTH = 64\n")
    with pytest.raises(Failure, match=r"a/config\.gin was altered"):
        sync(trainer.ledger, uri, "study", ["a", "b"])
    said: list[str] = []
    mirror = Mirror(trainer.ledger, uri, "study", said.append)
    mirror.submit("a")
    assert mirror.stop(30) == 0
    assert len(said) == 1 and "a/config.gin was altered" in said[0]
    assert_exactly_once(uri, trainer.ledger, ["b"])
    assert "caml.complete" not in runs(uri)["a"].data.tags


def test_values_beyond_the_limits_of_the_store(trainer: Trainer, uri: str) -> None:
    identity = {f"key{i}": "x" * 7000 if i == 0 else i for i in range(250)}
    trainer.ledger.start("a", "", {"fingerprint": "f" * 64, "identity": identity}, {"commit": "c"})
    steps = list(range(1, 1201))
    rows = dict.fromkeys(("tokens", "loss", "gradient_norm", "rate"), steps)
    rows["loss"] = [float("nan"), float("inf"), *range(1198)]
    trainer.ledger.write_segment("a", "metrics", 0, 1200, {"step": steps, **rows})
    trainer.finish("a", 1200)
    assert sync(trainer.ledger, uri, "study", ["a"]).points == 4800
    run = runs(uri)["a"]
    assert len(run.data.params) == 250
    assert len(run.data.params["key0"]) == 6000 and run.data.params["key0"].endswith(" ...")
    history = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
    assert len(history) == 1200
    numbers = [metric.value for metric in history if not math.isnan(metric.value)]
    assert sorted(numbers) == list(range(1198)), "infinity is kept as not a number"


def test_what_the_instruments_showed_is_in_the_store_once(trainer: Trainer, uri: str) -> None:
    trainer.start("a")
    trainer.segment("a", 0)
    path = trainer.ledger.params_path("a")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"0")
    shown = {
        "tokens_per_second": 2600.5,
        "host_bound": 0.25,
        "model_flops_utilisation": None,
        "device": "cpu",
    }
    trainer.ledger.complete("a", 10, {"skipped": 2, "instruments": shown})
    for _ in range(2):
        sync(trainer.ledger, uri, "study", ["a"])
    run = runs(uri)["a"]
    told = {
        k.removeprefix("instruments/"): v for k, v in run.data.metrics.items() if k.startswith("instruments/")
    }
    assert told == {"tokens_per_second": 2600.5, "host_bound": 0.25, "skipped_steps": 2.0}
    history = mlflow.MlflowClient(uri).get_metric_history(run.info.run_id, "instruments/host_bound")
    assert [(metric.step, metric.value) for metric in history] == [(10, 0.25)]


def test_an_idle_mirror_opens_no_store(trainer: Trainer, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer.whole("a")
    mirror = Mirror(trainer.ledger, uri, "study", pytest.fail)
    mirror.submit("a")
    assert mirror.stop(60) == 0
    opened: list[str] = []
    open_store = Store.__init__

    def noted(self: Store, uri: str, experiment: str) -> None:
        opened.append(uri)
        open_store(self, uri, experiment)

    monkeypatch.setattr(Store, "__init__", noted)
    idle = Mirror(trainer.ledger, uri, "study", pytest.fail)
    idle.submit("a")
    assert idle.stop(60) == 0
    assert opened == []
    trainer.evaluate("a", "f" * 64)
    idle = Mirror(trainer.ledger, uri, "study", pytest.fail)
    idle.submit("a")
    assert idle.stop(60) == 0
    assert opened == [uri]
    assert runs(uri)["a"].data.tags["caml.evaluations"] == f"{EVALUATION},{'f' * 64}"
    Path(uri.removeprefix("sqlite:///")).unlink()
    idle = Mirror(trainer.ledger, uri, "study", pytest.fail)
    idle.submit("a")
    assert idle.stop(60) == 0
    assert opened == [uri, uri], "a store that was deleted is filled again"
    assert set(runs(uri)) == {"study", "a"}


def test_training_does_not_wait_for_a_store_that_hangs(
    trainer: Trainer, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = threading.Event()
    monkeypatch.setattr(Store, "write", lambda *arguments: hang.wait(30))
    said: list[str] = []
    mirror = Mirror(trainer.ledger, uri, "study", said.append, interval=0.01)
    trainer.whole("a")
    trainer.whole("b")
    begun = time.monotonic()
    for _ in range(50):
        mirror.submit("a")
        mirror.submit("b")
    assert time.monotonic() - begun < 1
    assert mirror.stop(0.5) > 0
    assert time.monotonic() - begun < 5
    assert "caml sync" in said[0]
    hang.set()


def test_words_show_no_password_and_are_cut_to_the_limit() -> None:
    assert where("http://me:secret@host:5000/x") == "http://host:5000/x"
    assert where("sqlite:///a.db") == "sqlite:///a.db"
    assert shorten("x" * 10, 10) == "x" * 10
    assert shorten("x" * 11, 10) == "xxxxxx ..."


class Server:
    """A real tracking server on this machine, over a database of its own."""

    def __init__(self, folder: Path):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.database = folder / "server.db"
        self.command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--backend-store-uri", f"sqlite:///{self.database}", "--workers", "1"),
            *("--artifacts-destination", str(folder / "artifacts")),
        ]
        self.log = folder / "server.log"

    def start(self) -> None:
        # Without its job runners, which tracking does not use, it starts in half the time.
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.2)
        pytest.fail(self.log.read_text()[-2000:])

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def points(self) -> int:
        """How many metric points its database holds."""
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return database.execute("SELECT COUNT(*) FROM metrics").fetchone()[0]


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    shutil.copyfile(empty_store, server.database)
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
def test_a_server_killed_in_the_middle_of_a_batch_has_everything_once_after_a_sync(
    trainer: Trainer, server: Server
) -> None:
    said: list[str] = []
    mirror = Mirror(trainer.ledger, server.uri, "study", said.append, interval=0.05)
    names = [f"run{i}" for i in range(3)]
    steps = 3000  # of the first StageRun: a dozen batches of the largest size, to be killed among
    trainer.start("run0")
    rows = list(range(1, steps + 1))
    columns = dict.fromkeys(("step", "tokens", "loss", "gradient_norm", "rate"), rows)
    trainer.ledger.write_segment("run0", "metrics", 0, steps, columns)
    mirror.submit("run0")
    deadline = time.monotonic() + 60
    while server.points() < 2500 and time.monotonic() < deadline:
        time.sleep(0.005)
    server.kill()
    there = server.points()
    assert 0 < there < steps * 4, "killed while it was being filled"
    begun = time.monotonic()
    trainer.finish("run0", steps)
    for name in names[1:]:
        trainer.whole(name)
        mirror.submit(name)
    assert time.monotonic() - begun < 2, "training goes on"
    left = mirror.stop(90)
    assert left > 0
    assert len(said) == 1 and "caml sync" in said[0]
    with pytest.raises(Failure, match="caml sync"):
        sync(trainer.ledger, server.uri, "study", names)
    server.start()
    assert sync(trainer.ledger, server.uri, "study", names).brought == 3
    assert sync(trainer.ledger, server.uri, "study", names) == Synced(0, 3, 0)
    assert_exactly_once(server.uri, trainer.ledger, names)
    client = mlflow.MlflowClient(server.uri)
    run = runs(server.uri)["run1"]
    assert [file.path for file in client.list_artifacts(run.info.run_id)] == ["config.gin", "manifest.json"]


@pytest.mark.slow
def test_two_processes_open_a_new_store_at_once(trainer: Trainer, tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    for name in names:
        trainer.whole(name)
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    script = (
        "import sys; from pathlib import Path\n"
        "from caml.tracking.ledger import Ledger; from caml.tracking.sync import sync\n"
        f"sync(Ledger(Path({str(trainer.ledger.root)!r})), {uri!r}, 'study', {names!r})"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(2)
    ]
    for process in both:
        output, _ = process.communicate(timeout=180)
        assert (process.returncode, output) == (0, b""), "quiet, and no error"
    assert set(runs(uri)) == {"study", *names}
    assert_exactly_once(uri, trainer.ledger, names)
