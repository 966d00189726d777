"""The tiny ablation from nothing to its report, and what is done about it when it is there."""

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from whole_runs import TINY, command, cut, flip, manifests, parameters, run, stamps, steps_in_mlflow, tables

from caml.ablations.catalogue import load_ablation
from caml.ablations.condition import unfinished
from caml.ablations.grid import cells
from caml.ablations.places import places
from caml.config.fingerprint import NUMERICS_VERSION
from caml.evals.identity import evaluation_fingerprint


def test_one_command_goes_from_nothing_to_the_report(finished: Path) -> None:
    assert (finished / "status").read_text() == "0", (finished / "stderr").read_text()
    output = finished / "runs"
    said = (finished / "stdout").read_text()
    assert "compassion − neutral on L2 new frame" in said.replace("\xa0", " ") and "95% interval" in said
    assert f"report: {output / 'tiny/report/index.html'}" in said
    page = (output / "tiny/report/index.html").read_text()
    assert "<svg" in page or "data:image/png;base64" in page
    figures = {path.name for path in (output / "tiny/report/figures").iterdir()}
    names = {Path(name).stem for name in figures}
    assert len(names) >= 5 and figures == {f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")}
    for folder in ("tables", "report/tables"):
        found = {path.name for path in (output / "tiny" / folder).iterdir()} - {"digests.json"}
        names = {Path(name).stem for name in found}
        assert found == {f"{name}.{suffix}" for name in names for suffix in ("csv", "parquet")}
    assert len(parameters(output)) == 12
    assert {stagerun for stagerun, _, _ in steps_in_mlflow(output)} == set(
        tables(output)["stageruns"]["stagerun"]
    )
    assert not list((output / "populations").iterdir())
    assert not list(output.rglob("*.part"))


def test_a_log_is_plain_lines_of_ours(finished: Path) -> None:
    lines = (finished / "stderr").read_text().splitlines()
    assert lines[0] == "tiny: 12 of 12 StageRuns to be trained or scored"
    begins = ("tiny: ", "population ", "compiled ", "trained ", "  token stores", "  pretrain tiny: ",
              "  sft tiny: ", "  report: ", "  tracking store: ")  # fmt: skip
    assert [line for line in lines if not line.startswith(begins)] == []
    # Both stages have one shape.
    compiled = [line.rsplit(" in ", 1)[0] for line in lines if line.startswith("compiled ")]
    assert compiled == ["compiled one program", "compiled 1 program for training in all,"]
    (trained,) = [line for line in lines if line.startswith("  pretrain tiny: 96 of 96")]
    assert re.search(
        r": 96 of 96, 6 members, [\d,]+ tokens/s, host-bound \d+%, loss \d\.\d{3}, \d+ s, about 0 s left$",
        trained,
    )


def test_the_tables_hold_every_step_and_probe(finished: Path) -> None:
    found = tables(finished / "runs")
    assert len(found["cells"]) == 12 and len(found["stageruns"]) == 12
    steps = found["metrics"].groupby("stagerun")["step"]
    expected = dict(zip(found["stageruns"]["stagerun"], found["stageruns"]["steps"], strict=True))
    trained = {name: count for name, count in expected.items() if count}
    assert steps.max().to_dict() == trained and set(trained.values()) == {96, 64}
    assert set(steps.min()) == {1}  # the loss before anything was learned
    first = found["outcomes"].query("outcome == 'finetuning_loss_nats'").set_index("stagerun")["value"]
    at_first = found["metrics"].query("step == 1").set_index("stagerun")["loss"]
    assert len(first) == 4 and (first == at_first.loc[first.index]).all()
    assert len(found["margins"]) == 12 * len(found["items"])
    assert set(found["trajectory"]["step"]) == {80}
    # 48 of 192 slots, of which documents never fill all 64 tokens.
    dosed = found["stageruns"][found["stageruns"]["arm"] != "base"]
    assert (dosed["dose_tokens"] > 0.5 * 48 * 64).all() and (dosed["dose_tokens"] <= 48 * 64).all()
    assert dosed.groupby("seed")["dose_tokens"].nunique().eq(1).all()


def test_a_finished_ablation_is_left_alone(finished: Path, cache: Path) -> None:
    before = stamps(finished / "runs")
    done = run(command("run", str(TINY)), finished, cache)
    assert done.returncode == 0 and done.stdout.startswith("nothing to do: ")
    assert done.stdout.splitlines()[1:] == (finished / "stdout").read_text().splitlines()[1:]
    # Leases are looked at, and a tracking store stamps what it opens.
    kept = ("ledger/pre", "ledger/sft", "stores/", "tokenizers/", "tiny/")
    after = stamps(finished / "runs")
    assert {k: v for k, v in after.items() if k.startswith(kept)} == {
        k: v for k, v in before.items() if k.startswith(kept)
    }
    assert "population" not in done.stderr


def test_a_written_out_cell_is_the_same_stageruns(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    files = sorted(Path("runs/tiny/cells").iterdir())
    assert len(files) == 12
    for file in files:
        loaded = load_ablation(file)
        (cell,) = cells(loaded)
        where = places(loaded.tree)
        assert where.folder.parent == finished / "runs" and where.folder.name != "tiny"
        assert unfinished(where, cell.stageruns, evaluation_fingerprint(cell.run.probes)) == []


def test_the_ledgers_own_file_is_the_same_stagerun(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    for name, manifest in manifests(finished / "runs").items():
        (cell,) = cells(load_ablation(finished / "runs/ledger" / name / "config.gin"))
        assert cell.stageruns[-1].fingerprint == manifest["fingerprint"]


def test_only_a_cell_that_is_there_trains_nothing(finished: Path, cache: Path) -> None:
    before = stamps(finished / "runs/tiny")
    cell = "arm=compassion,ratio=0.25,seed=1,tokens=12288,sft_tokens=8192"
    done = run(command("run", str(TINY), "--only", cell), finished, cache)
    assert done.returncode == 0 and done.stdout.startswith("nothing to do: ")
    assert stamps(finished / "runs/tiny") == before


def test_the_store_names_the_rung_that_is_claimed_and_has_margins_by_rung(finished: Path) -> None:
    store = sqlite3.connect(finished / "runs/mlflow.db")
    tags = store.execute("select value, count(*) from tags where key = 'rung' group by value").fetchall()
    key = "eval/margin/disposition/new_frame"
    (scored,) = store.execute("select count(*) from metrics where key = ?", (key,)).fetchone()
    store.close()
    assert tags == [("new_frame", 12)] and scored == 12


def test_manifests_count_slots_and_doses(finished: Path) -> None:
    for manifest in manifests(finished / "runs").values():
        layout = " (members in turn, 1 row at a time)" if manifest["steps"] else ""
        assert manifest["numerics"] == f"{NUMERICS_VERSION}{layout}"
        slots = {role: source["slots"] for role, source in manifest["sources"].items()}
        assert sum(slots.values()) == 2 * manifest["steps"]
        if "intervention" in slots:
            assert slots["intervention"] == 48
            assert manifest["dose_tokens"] == manifest["sources"]["intervention"]["tokens"]


def test_manifests_tell_what_the_instruments_showed(finished: Path) -> None:
    for manifest in manifests(finished / "runs").values():
        assert manifest["skipped"] == 0
        if not manifest["steps"]:
            assert "instruments" not in manifest
            continue
        shown = manifest["instruments"]
        assert (shown["first_step"], shown["step"], shown["device"]) == (0, manifest["steps"], "cpu")
        assert shown["members"] == {"pretrain": 6, "sft": 4}[manifest["stage"]]
        assert shown["tokens"] == shown["members"] * manifest["tokens"]
        assert shown["tokens_per_second"] > 0 and 0 <= shown["host_bound"] <= 1
        assert shown["model_flops_utilisation"] is None and shown["peak_of"] == "process"
    store = sqlite3.connect(finished / "runs/mlflow.db")
    key = "instruments/tokens_per_second"
    (told,) = store.execute("select count(*) from metrics where key = ?", (key,)).fetchone()
    store.close()
    assert told == 10


@pytest.fixture
def copy(finished: Path, tmp_path: Path, stored: Callable[[Path], None]) -> Path:
    """The finished run, to be damaged; with an empty tracking store, as paths in the other are of the original."""
    shutil.copytree(finished / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("mlflow.db*"))
    stored(tmp_path / "runs")
    return tmp_path / "runs"


def test_what_was_altered_is_named_put_aside_and_made_again(copy: Path, finished: Path, cache: Path) -> None:
    names = list(parameters(copy))
    parent = next(name for name in names if name.startswith("pretrain-compassion"))
    flip(copy / "ledger" / parent / "checkpoints/final/params.safetensors")
    tuned = next(name for name in names if name.startswith("sft-neutral"))
    cut(next((copy / "ledger" / tuned / "metrics").iterdir()))
    scored = next(name for name in names if name.startswith("pretrain-neutral"))
    flip(next((copy / "ledger" / scored / "evals").glob("*/margins.parquet")))
    (copy / "ledger/.mirrored").mkdir(exist_ok=True)
    done = run(command("run", str(TINY)), copy.parent, cache)
    assert done.returncode == 0, done.stderr
    for name in ("params.safetensors was altered", f"{tuned}/metrics/", "margins.parquet was altered"):
        assert name in done.stderr
    assert "3 StageRuns trained or scored" in done.stdout
    again = json.loads((copy / "ledger" / parent / "manifest.json").read_text())["finished"]
    child = next(name for name in names if name.startswith("sft-compassion") and "seed0" in name)
    assert again > json.loads((copy / "ledger" / child / "manifest.json").read_text())["finished"]
    assert parameters(copy) == parameters(finished / "runs")
    for name, table in tables(finished / "runs").items():
        pd.testing.assert_frame_equal(tables(copy)[name], table, check_exact=True, obj=name)


@pytest.mark.slow
def test_a_lone_model_has_its_batches_over_all_devices(tmp_path: Path, cache: Path) -> None:
    text = TINY.read_text()
    axes = "Ablation.axes = {'ARM': ['base'], 'RATIO': [0.0], 'SEED': [0], 'SFT_TOKENS': [0, 8192]}\n\n"
    alone = text[: text.index("Ablation.axes")] + axes + text[text.index("Run.model") :]
    (tmp_path / "alone.gin").write_text(alone.replace("Ablation.control = {'ARM': 'neutral'}\n", ""))
    done = run(command("run", "alone.gin"), tmp_path, cache)
    assert done.returncode == 0, done.stderr
    found = [manifest["numerics"] for manifest in manifests(tmp_path / "runs").values()]
    assert found == [f"{NUMERICS_VERSION} (members in turn, whole batches, a batch over 2 devices)"] * 2
