"""What can be asked of an ablation whose results are there, or are not yet."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result
from whole_runs import TINY, assert_same, command, dying, parameters, run, stamps, steps_in_mlflow, tables

import caml as package
from caml.ablations.places import Places, claim, let_go
from caml.cli import app


def caml(*arguments: str) -> Result:
    """The command in this process."""
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def copy(
    finished: Path, tmp_path: Path, stored: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of the finished run to work in, with an empty tracking store: paths in the other are of the original."""
    shutil.copytree(
        finished / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("mlflow.db*", ".mirrored")
    )
    stored(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def test_show_says_what_is_there(copy: Path) -> None:
    shutil.rmtree(next(copy.glob("ledger/sft-neutral*seed0*/evals")))
    shutil.rmtree(next(copy.glob("ledger/sft-neutral*seed1*")))
    (next(copy.glob("ledger/sft-compassion*seed1*")) / "complete.json").unlink()
    states = {line.split()[0]: line.split()[1] for line in caml("show", str(TINY)).stdout.splitlines()[:12]}
    cell = "arm={},ratio=0.25,seed={},tokens=12288,sft_tokens=8192"
    tuned = [states[cell.format(arm, seed)] for arm in ("compassion", "neutral") for seed in (0, 1)]
    assert tuned == ["scored", "started", "complete", "missing"]
    assert list(states.values()).count("scored") == 9
    refused = caml("report", str(TINY))
    assert refused.exit_code == 2 and refused.stderr.startswith(
        "caml: not trained and scored yet: 3 StageRuns of tiny"
    )


def test_a_profile_of_nothing_is_one_line(copy: Path) -> None:
    done = caml("run", str(TINY), "--profile")
    assert done.exit_code == 0 and done.stdout.startswith("nothing to do: ")
    assert done.stderr.count("no profile was written: nothing is left to train\n") == 1
    assert not (copy / "tiny/profile").exists()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("Execution.fsdp = 3", "Execution.fsdp = 3: 3 x 1 devices for a model do not divide 2 devices"),
        (
            "Execution.fused = True",
            "Execution.fused = True: there are such kernels for a GPU, not for a CPU",
        ),
        (
            "Execution.tensor = 4",
            "Execution.tensor = 4: 4 devices do not divide the model's 2 key-value heads",
        ),
        (
            "Execution.rows = 3",
            "Execution.rows = 3: 3 rows at a time do not divide the 2 that a device has of a batch",
        ),
        ("Execution.remat = 'all'", "Execution.remat = 'all': 'all' is not one of none, products, layers"),
    ],
)
def test_a_layout_that_cannot_be_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    execution = f"\nAblation.execution = @Execution()\n{asked}\n"
    Path("laid_out.gin").write_text(TINY.read_text() + execution)
    done = caml("run", "laid_out.gin")
    line = 1 + Path("laid_out.gin").read_text().splitlines().index(asked)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, f"caml: laid_out.gin:{line}: {told}")
    assert [str(path) for path in Path().rglob("*")] == ["laid_out.gin"]


def test_a_refused_launch_takes_back_what_it_made_alone(tmp_path: Path) -> None:
    where, file = Places(tmp_path / "a/b", "tiny"), tmp_path / "own.gin"
    file.touch()
    made = claim(where, file, "states")
    assert made == [where.owner, where.folder, where.output, tmp_path / "a"]
    assert claim(where, file, "states") == []
    (where.output / "ledger").mkdir()
    let_go(made)
    assert not where.folder.exists() and (where.output / "ledger").exists()
    (where.output / "ledger").rmdir()
    let_go(claim(where, file, "states"))
    assert where.output.exists() and not where.folder.exists()


def test_show_names_what_is_damaged(copy: Path) -> None:
    assert "damaged" not in caml("show", str(TINY)).stdout
    params = next(copy.glob("ledger/pretrain-*/checkpoints/final/params.safetensors"))
    params.write_bytes(params.read_bytes()[:-1])
    scores = next(copy.glob("ledger/sft-compassion*seed0*/evals/*/*.parquet"))
    scores.unlink()
    lines = caml("show", str(TINY)).stdout.splitlines()
    told = {line.split()[1]: line for line in lines if line.startswith("damaged: ")}
    assert told.keys() == {str(params), str(scores)}
    assert told[str(params)].endswith("the StageRun is trained again")
    assert told[str(scores)].endswith("the evaluation is done again")


def test_a_lock_counts_when_it_was_there_before_the_results(copy: Path) -> None:
    late = caml("lock", str(TINY))
    assert late.exit_code == 2 and "already scored: 12 StageRuns of this grid" in late.stderr
    assert not (copy / "tiny/lock.json").exists()
    (copy / "ledger").rename(copy / "later")
    locked = caml("lock", str(TINY))
    assert locked.exit_code == 0 and locked.stdout.startswith("tiny: 1 contrast locked at ")
    (copy / "later").rename(copy / "ledger")
    assert not tables(copy)["report effects"]["locked"].any()
    report = caml("report", str(TINY))
    assert (
        report.exit_code == 0
        and report.stdout.splitlines()[-1] == f"report: {copy / 'tiny/report/index.html'}"
    )
    effects = tables(copy)["report effects"]
    assert effects.loc[effects["primary"].astype(bool), "locked"].all()
    # The same may be locked as often as one likes; another claim may not.
    own = Path("own.gin")
    own.write_text(TINY.read_text())
    (copy / "tiny/owner.json").unlink()
    assert caml("lock", str(own)).exit_code == 0
    own.write_text(TINY.read_text().replace("claim = 'above'", "claim = 'below'"))
    refused = caml("lock", str(own))
    assert refused.exit_code == 2 and "changed since it was locked" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_power_tells_of_the_contrast(copy: Path) -> None:
    result = caml("power", str(TINY), "--effect", "0.3")
    assert result.exit_code == 0
    headings, row, _, note = result.stdout.splitlines()
    assert headings.split("  ")[0] == "contrast" and row.startswith("compassion against neutral")
    # Two seeds resolve little, and 0.3 nats is what was asked of them.
    assert row.split()[-2] == "0.30" and int(row.split()[-1]) >= 5
    assert "80% power" in note


def test_what_is_advised_has_the_settings_that_were_given(copy: Path) -> None:
    text = TINY.read_text().replace("rate = 0.003", "rate = %PEAK")
    Path("own.gin").write_text(text + "PEAK = 0.003\n")
    again = "`caml run own.gin --set PEAK=0.001` first"
    for asked in ("report", "power"):
        refused = caml(asked, "own.gin", "--set", "PEAK=0.001")
        assert refused.exit_code == 2 and again in refused.stderr, refused.stderr
    assert caml("report", str(TINY), "--keep", "/proc/none/x").exit_code == 2
    kept = caml("report", str(TINY), "--set", "CHECKPOINT_SECONDS=3.0", "--keep", "kept")
    assert kept.exit_code == 0
    assert "--set CHECKPOINT_SECONDS=3.0 --keep kept`" in Path("kept/RESULT.md").read_text()


def test_one_seed_block_has_no_spread_to_take_power_from(copy: Path) -> None:
    own = Path("one.gin")
    own.write_text(
        TINY.read_text()
        .replace("'SEED': [0, 1]", "'SEED': [0]")
        .replace("name = 'tiny'\nA", "name = 'one'\nA")
    )
    assert caml("report", str(own)).exit_code == 0
    result = caml("power", str(own), "--effect", "0.3")
    assert result.exit_code == 0 and "nan" not in result.stdout
    assert result.stdout.splitlines()[1].split()[-6:] == ["1", "–", "0.0500", "–", "0.30", "–"]


def test_two_files_of_one_name_do_not_write_over_each_other(copy: Path) -> None:
    before = stamps(copy / "tiny")
    other, text = Path("other.gin"), TINY.read_text()
    line = text.splitlines().index("Ablation.name = 'tiny'") + 1
    other.write_text(text.replace("'SEED': [0, 1], 'SFT_TOKENS'", "'SEED': [0], 'SFT_TOKENS'"))
    for asked in ("run", "report", "lock", "power", "sync"):
        refused = caml(asked, str(other))
        assert refused.exit_code == 2 and refused.stderr == (
            f"caml: other.gin:{line}: Ablation.name = 'tiny': runs/tiny has the results of {TINY}, another grid or "
            "statement; take another name, or remove that folder\n"
        )
    assert stamps(copy / "tiny") == before
    # The same in another place is no other study, but no owner either: changed it is refused.
    other.write_text(text)
    assert caml("power", str(other), "--set", "SEED=0").exit_code == 0
    assert caml("report", str(other)).exit_code == 0
    other.write_text(text.replace("claim = 'above'", "claim = 'below'"))
    assert caml("report", str(other)).exit_code == 2
    # An owner may change; and where it is gone, so is its claim.
    (copy / "tiny/owner.json").unlink()
    assert caml("report", str(other)).exit_code == 0
    other.write_text(text)
    assert caml("report", str(other)).exit_code == 0
    other.write_text(text.replace("claim = 'above'", "claim = 'below'"))
    assert caml("report", str(other)).exit_code == 0
    assert caml("power", str(TINY)).exit_code == 2
    other.unlink()
    assert caml("report", str(TINY)).exit_code == 0


def test_the_page_tells_the_gin_file_and_its_settings(copy: Path) -> None:
    page = copy / "tiny/report/index.html"
    assert "tiny.gin" in page.read_text() and ">settings</dt><dd>none<" in page.read_text().replace("\n", "")
    done = caml("report", str(TINY), "--set", "CHECKPOINT_SECONDS=3.0")
    assert done.exit_code == 0 and done.stdout.splitlines()[-1] == f"report: {page}"
    refused = caml("report", str(TINY), "--set", "RATIO=0.5")
    assert refused.exit_code == 2 and "RATIO is an axis" in refused.stderr


def test_a_report_is_of_the_whole_grid_and_names_what_is_damaged(copy: Path) -> None:
    before = stamps(copy / "tiny")
    for asked in ("report", "lock"):
        refused = caml(asked, str(TINY), "--set", "SEED=0")
        assert refused.exit_code == 2 and refused.stderr.startswith(
            "caml: --set SEED=0: SEED is an axis, and"
        )
    refused = caml("report", str(TINY), "--keep", str(TINY))
    assert refused.exit_code == 2 and "this is a file; name a folder" in refused.stderr
    assert stamps(copy / "tiny") == before
    file = next(copy.glob("ledger/sft-compassion*seed0*/evals/*/margins*"))
    file.write_bytes(file.read_bytes()[:-5])
    broken = caml("report", str(TINY))
    assert broken.exit_code == 1 and f"{file.parents[2]} is damaged: `caml run " in broken.stderr


def test_cells_and_a_lock_that_were_deleted_are_noticed(copy: Path) -> None:
    whole = {path.name: path.read_text() for path in (copy / "tiny/cells").iterdir()}
    shutil.rmtree(copy / "tiny/cells")
    (copy / "ledger").rename(copy / "later")
    assert caml("lock", str(TINY)).exit_code == 0
    (copy / "later").rename(copy / "ledger")
    assert caml("run", str(TINY)).exit_code == 0
    assert {path.name: path.read_text() for path in (copy / "tiny/cells").iterdir()} == whole
    assert tables(copy)["report effects"]["locked"].any()
    (copy / "tiny/lock.json").unlink()
    next((copy / "tiny/cells").iterdir()).unlink()
    assert caml("run", str(TINY)).exit_code == 0
    assert not tables(copy)["report effects"]["locked"].any()
    assert {path.name: path.read_text() for path in (copy / "tiny/cells").iterdir()} == whole
    # Where the report is as it was, too.
    next((copy / "tiny/cells").iterdir()).unlink()
    page = stamps(copy / "tiny/report")
    assert caml("run", str(TINY)).exit_code == 0
    assert {path.name: path.read_text() for path in (copy / "tiny/cells").iterdir()} == whole
    assert stamps(copy / "tiny/report") == page


def test_a_port_that_cannot_be_is_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caml.tracking.ui.os.execv", lambda *_: pytest.fail("the server was started"))
    for port, why in (("99999", "ports are 1 to 65535"), ("-1", "ports are"), ("0", "ports are")):
        refused = caml("ui", str(TINY), f"--port={port}")
        assert refused.exit_code == 2 and refused.stderr.startswith(f"caml: --port {port}: {why}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = caml("ui", str(TINY), "--port", str(taken.getsockname()[1]))
        assert refused.exit_code == 2 and "in use" in refused.stderr
    (copy / "mlflow.db").write_bytes(b"no database")
    refused = caml("ui", str(TINY))
    assert refused.exit_code == 1 and "is no tracking store: move it out of the way" in refused.stderr


@pytest.mark.parametrize("effect", ["nan", "-0.3", "0", "inf"])
def test_power_of_a_senseless_effect_is_refused(copy: Path, effect: str) -> None:
    result = caml("power", str(TINY), "--effect", effect)
    assert result.exit_code == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"caml: --effect {effect}: ") and "above 0" in line


def test_python_loads_the_tables_that_were_frozen(copy: Path) -> None:
    loaded = package.load(copy / "tiny")
    for name, table in tables(copy).items():
        if name == "stageruns":
            assert set(loaded.stageruns["stagerun"]) == set(table["stagerun"])
        elif not name.startswith(("report", "dictionary")):
            pd.testing.assert_frame_equal(getattr(loaded, name), table)
    described = set(zip(loaded.dictionary["table"], loaded.dictionary["column"], strict=True))
    assert {("margins", column) for column in loaded.margins.columns} <= described


@pytest.mark.slow
def test_sync_brings_what_the_store_lacks_and_nothing_twice(copy: Path, finished: Path) -> None:
    first = caml("sync", str(TINY))
    assert first.exit_code == 0 and first.stdout.startswith("12 StageRuns brought up to date with ")
    assert steps_in_mlflow(copy) == steps_in_mlflow(finished / "runs")
    again = caml("sync", str(TINY))
    assert again.exit_code == 0 and again.stdout.startswith(
        "0 StageRuns brought up to date with 0 points, 12 there"
    )
    assert steps_in_mlflow(copy) == steps_in_mlflow(finished / "runs")


@pytest.mark.slow
def test_doctor_tries_every_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = caml("doctor")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0, result.stdout
    parts = [
        "python",
        "packages",
        "devices",
        "training step",
        "checkpoint",
        "tracking store",
        "benchmarks",
        "writing here",
    ]
    assert [line.split(": ")[0] for line in lines] == [f"ok   {part}" for part in parts]
    monkeypatch.setattr("caml.ablations.doctor.tempfile.NamedTemporaryFile", lambda **_: 1 / 0)
    broken = caml("doctor")
    assert broken.exit_code == 1 and broken.stdout.splitlines()[-1].startswith(
        "FAIL writing here: ZeroDivisionError"
    )
    assert len(broken.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_cell_alone_has_the_bits_that_it_has_in_company(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    """By name from the grid, and written out as a file of its own: then it has its own report."""
    cell = "arm=compassion,ratio=0.25,seed=1,tokens=12288,sft_tokens=8192"
    done = run(command("run", str(TINY), "--only", cell), tmp_path, cache)
    assert done.returncode == 0, done.stderr
    output = tmp_path / "runs"
    alone, together = parameters(output), parameters(finished / "runs")
    assert len(alone) == 2 and alone.items() <= together.items()
    for name in alone:
        ours, theirs = (
            pd.concat([pd.read_parquet(path) for path in sorted(root.glob(f"ledger/{name}/metrics/*"))])
            for root in (output, finished / "runs")
        )
        first = theirs["step"] <= 50
        assert np.abs(ours["loss"][first] - theirs["loss"][first]).max() < 1e-5
        pd.testing.assert_frame_equal(ours.reset_index(drop=True), theirs.reset_index(drop=True))
    ledger = {k: v for k, v in stamps(output / "ledger").items() if not k.startswith(".")}
    own = tmp_path / "mine.gin"
    shutil.copy(output / f"tiny/cells/{cell}.gin", own)
    assert not (output / "tiny/report").exists()
    done = run(command("run", str(own)), tmp_path, cache)
    assert done.returncode == 0 and done.stdout.startswith("nothing to do: ")
    (page,) = output.glob("tiny-*/report/index.html")
    assert f"report: {page}" in done.stdout and not (output / "tiny/report").exists()
    after = {k: v for k, v in stamps(output / "ledger").items() if not k.startswith(".")}
    assert after == ledger
    # The whole ablation uses what is there, and is what it would have been.
    done = run(command("run", str(TINY)), tmp_path, cache)
    assert done.returncode == 0 and done.stdout.startswith("10 StageRuns trained or scored")
    assert_same(output, finished / "runs")


@pytest.mark.slow
def test_cells_of_an_output_folder_of_one_population_after_another(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    """Populations of two members instead of six: the same bits."""
    text = TINY.read_text().replace(
        "Ablation.name = 'tiny'", "Ablation.name = 'tiny'\nAblation.population = 2"
    )
    (tmp_path / "small.gin").write_text(text)
    done = run(command("run", "small.gin"), tmp_path, cache)
    assert done.returncode == 0 and "population 1 of 6" in done.stderr
    assert_same(tmp_path / "runs", finished / "runs")


def test_the_notes_of_the_mirror_may_be_lost(copy: Path) -> None:
    """What a power cut leaves of them is no note, and the store is asked."""
    from caml.tracking.ledger import Ledger
    from caml.tracking.mirror import Notes

    ledger = Ledger(copy / "ledger")
    notes = Notes(ledger, "http://nowhere", "caml/tiny")
    name = next(iter(parameters(copy)))
    notes.add(name)
    notes.save()
    assert Notes(ledger, "http://nowhere", "caml/tiny").has(name)
    (file,) = (copy / "ledger/.mirrored").iterdir()
    json.loads(file.read_text())
    file.write_text(file.read_text()[:-20])
    assert not Notes(ledger, "http://nowhere", "caml/tiny").has(name)


@pytest.mark.parametrize(
    "altered",
    [
        "tables/margins.csv",
        "report/index.html",
        pytest.param("report/figures/install.png", marks=pytest.mark.slow),
        pytest.param("report/tables/effects.csv", marks=pytest.mark.slow),
        pytest.param("reported.txt", marks=pytest.mark.slow),
    ],
)
def test_an_altered_report_is_named_and_written_anew(altered: str, copy: Path) -> None:
    path = copy / "tiny" / altered
    whole = tables(copy)
    path.write_bytes(path.read_bytes()[:-9] + b"\xff\xfe")
    done = caml("run", str(TINY))
    assert done.exit_code == 0 and done.stdout.startswith("nothing to do: "), done.stderr
    assert path.name in done.stderr or altered == "reported.txt"
    assert done.stderr.count("written anew") == 1
    again = tables(copy)
    assert all(again[name].equals(table) for name, table in whole.items()) and again.keys() == whole.keys()
    assert "written anew" not in caml("run", str(TINY)).stderr


@pytest.mark.parametrize("lost", [pytest.param("report/index.html", marks=pytest.mark.slow), "headline.txt"])
def test_a_report_that_was_deleted_is_named_and_written_anew(lost: str, copy: Path) -> None:
    (copy / "tiny" / lost).unlink()
    done = caml("run", str(TINY))
    assert done.exit_code == 0 and done.stdout.startswith("nothing to do: "), done.stderr
    assert f"{copy / 'tiny' / lost} is missing; tables and report are written anew" in done.stderr
    assert (copy / "tiny" / lost).exists()


def test_sync_before_any_run_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = caml("sync", str(TINY))
    assert result.exit_code == 2 and "holds nothing of tiny yet: `caml run " in result.stderr
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").write_text("a file where the folder would be")
    result = caml("sync", str(TINY))
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1


def test_a_store_that_is_garbage_is_named_where_nothing_is_to_do(
    finished: Path, tmp_path: Path, cache: Path
) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs")
    note, database = next((tmp_path / "runs/ledger/.mirrored").iterdir()), tmp_path / "runs/mlflow.db"
    # Notes are of a store by its address, which is another in this copy.
    from caml.tracking.ledger import Ledger
    from caml.tracking.mirror import Notes

    notes = Notes(Ledger(tmp_path / "runs/ledger"), f"sqlite:///{database}", "caml/tiny")
    note.rename(notes._path)
    quiet = run(command("run", str(TINY)), tmp_path, cache)
    assert quiet.returncode == 0 and "tracking store" not in quiet.stderr, quiet.stderr
    database.write_bytes(b"no database at all" * 500)
    done = run(command("run", str(TINY)), tmp_path, cache)
    assert done.returncode == 0 and "is damaged" in done.stderr and "move it out of the way" in done.stderr


def test_an_altered_lock_is_refused_before_the_report_is_used(copy: Path) -> None:
    (copy / "tiny/lock.json").write_text("[]")
    done = caml("run", str(TINY))
    assert done.exit_code == 1 and "lock.json is not as it was written" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("bring it back, or remove it, and nothing counts as locked")
    # Before anything is trained, too.
    shutil.rmtree(next(copy.glob("ledger/sft-compassion*seed0*")))
    done = caml("run", str(TINY))
    assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["mlflow.db", "tiny/lock.json", "tiny/report/index.html"])
def test_a_folder_where_a_file_is_to_be_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / name).mkdir(parents=True)
    refused = caml("run", str(TINY))
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"caml: {tmp_path / 'runs' / name} is a folder, and caml keeps a file there: move it out of the way\n"
    )


@pytest.mark.parametrize("name", ["ledger", "stores", "tiny", "tiny/tables"])
def test_a_file_where_a_folder_is_to_be_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / name).parent.mkdir(parents=True)
    (tmp_path / "runs" / name).write_text("")
    refused = caml("run", str(TINY))
    assert refused.exit_code == 2
    assert refused.stderr == (
        f"caml: {tmp_path / 'runs' / name} is a file, and caml keeps a folder there: move it out of the way\n"
    )


@pytest.mark.slow
def test_a_part_of_the_grid_is_trained_without_a_report_of_its_own(copy: Path, cache: Path) -> None:
    shutil.rmtree(next(copy.glob("ledger/sft-compassion*seed0*")))
    before = stamps(copy / "tiny")
    done = run(command("run", str(TINY), "--set", "ARM=compassion"), copy.parent, cache)
    assert done.returncode == 0 and done.stdout.startswith("1 StageRun trained or scored"), done.stderr
    assert "a report is of the whole grid" in done.stdout and "report:" not in done.stdout
    after = {name: stamp for name, stamp in stamps(copy / "tiny").items() if not name.startswith("cells/")}
    assert after == {name: stamp for name, stamp in before.items() if not name.startswith("cells/")}


@pytest.mark.parametrize("signal", [pytest.param("TERM", marks=pytest.mark.slow), "INT"])
def test_a_report_that_is_told_to_stop_ends_in_one_line_and_is_drawn_later(
    signal: str, finished: Path, tmp_path: Path, cache: Path
) -> None:
    shutil.copytree(finished / "runs", tmp_path / "runs", ignore=shutil.ignore_patterns("mlflow.db*"))
    when = "caml.analysis.figures.drawings:save:2:after"
    done = run(dying(when, signal, "report", str(TINY)), tmp_path, cache)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("caml: interrupted; what was finished is kept")
    assert run(command("report", str(TINY)), tmp_path, cache).returncode == 0
    assert tables(tmp_path / "runs").keys() == tables(finished / "runs").keys()


def test_a_cell_that_was_altered_is_named_and_written_anew(copy: Path) -> None:
    assert caml("run", str(TINY)).exit_code == 0
    cell = next((copy / "tiny/cells").glob("*.gin"))
    text = cell.read_text()
    cell.write_text(text.replace("RATIO", "RATOI") + "# mine")
    again = caml("run", str(TINY))
    assert again.exit_code == 0 and f"{cell} was altered; it is written anew" in again.stderr
    assert cell.read_text() == text and "altered" not in caml("run", str(TINY)).stderr
