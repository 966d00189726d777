"""The leaderboard: who stands in a row, what limits are over, what a page and a file for submission say."""

import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import synthetic_tables
from typer.testing import CliRunner, Result

from caml.analysis.leaderboard.boards import PROBES, gather
from caml.analysis.tables import freeze
from caml.cli import app
from caml.tracking import shelves
from caml.tracking.ledger import Ledger

METRICS = {name: [] for name in ("step", "tokens", "loss", "gradient_norm", "rate")}


def trained(
    output: Path, seed: int, stage: str = "pretrain", arm: str = "compassion", rate: float = 0.1
) -> str:
    """A StageRun that is complete, and was never trained."""
    ledger, name = Ledger(output / "ledger"), f"{stage}-{arm}-seed{seed}-{rate}"
    identity = {
        stage: {"steps": 3, "seed": seed, "stage": stage, "arm": arm, "mixture": [{"seed": seed}, rate]}
    }
    facts = {"stage": stage, "seed": seed, "size": "29k", "params": 28_896, "arm": arm, "ratio": 0.3}
    about = {
        "fingerprint": hashlib.sha256(name.encode()).hexdigest(),
        "identity": identity,
        "dose_tokens": 100 + seed,
        "tokens": 1000,
    }
    ledger.start(name, "", {**facts, **about}, {"commit": "0"})
    path = ledger.params_path(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(name.encode())
    ledger.write_segment(name, "metrics", 0, 3, {c: [1, 2, 3] for c in METRICS})
    ledger.complete(name, 3, {})
    return name


def sat(
    output: Path, name: str, mean: float, task: str = "inspect_evals/anima", grader: str = "a/judge"
) -> Path:
    """A benchmark in the ledger of `name`."""
    ledger = Ledger(output / "ledger")
    params = ledger.params_digest(name)
    return _shelved(ledger.shelf(name), params, name, mean, task, grader)


def _shelved(shelf: Path, params: str, name: str, mean: float, task: str, grader: str) -> Path:
    of = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "share": True, "items": 7, "samples": 14}
    summary = {
        "version": 2, "library": "inspect_ai", "params": params,
        "benchmark": {"task": task, "limit": 0, "arguments": {}, "temperature": 1.0, "max_tokens": 9, "seed": 0},
        "software": {"inspect_ai": "0.3", "inspect_evals": "0.1"},
        "model": {"name": name, "size": "29k", "parameters": 28_896},
        "task": task, "task_version": "6-D", "dataset": "x/y", "dataset_revision": "abc", "dropped": 0,
        "graders": [grader], "epochs": 2, "items": 7, "samples": 14, "scored": 13,
        "unscored": {"the judge said <b>nothing</b>": 1},
        "dimensions": {"overall": of, "care": {**of, "mean": mean / 2, "low": None, "high": None}},
        "languages": {"en": of, "ms": of},
    }  # fmt: skip
    folder = shelf / f"{task.rpartition('/')[2]}-{grader.replace('/', '')}"
    shelves.write(folder, summary, pd.DataFrame({"value": [mean]}), params)
    return folder


def quiet(name: str, total: int) -> Any:
    return contextlib.nullcontext(lambda done, told: None)


def command(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["leaderboard", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_seed_blocks_of_a_model_are_one_row_with_limits_over_them(tmp_path: Path):
    means = [0.4, 0.5, 0.7]
    for seed, mean in enumerate(means):
        sat(tmp_path, trained(tmp_path, seed), mean)
    sat(tmp_path, trained(tmp_path, 0, arm="neutral"), 0.2)
    (board,) = gather(tmp_path, quiet).boards
    rows = {row.entrant.arm: row for row in board.rows}
    assert set(rows) == {"compassion", "neutral"}
    score = rows["compassion"].scores["overall"]
    half = stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / np.sqrt(3)
    assert (score.mean, score.low, score.high) == pytest.approx(
        (np.mean(means), np.mean(means) - half, np.mean(means) + half)
    )
    assert (score.over, score.seeds, score.items) == ("seed blocks", 3, 7)
    alone = rows["neutral"].scores["overall"]
    assert (alone.low, alone.high, alone.over) == (pytest.approx(0.1), pytest.approx(0.3), "items")
    assert board.dimensions == ("overall", "care", "in en", "in ms")


def test_what_was_asked_otherwise_or_trained_otherwise_stands_apart(tmp_path: Path):
    first, second = trained(tmp_path, 0), trained(tmp_path, 0, rate=0.2)
    sat(tmp_path, first, 0.4)
    sat(tmp_path, second, 0.5)
    sat(tmp_path, first, 0.6, grader="b/judge")
    sat(tmp_path, first, 0.7, task="inspect_evals/moru")
    boards = gather(tmp_path, quiet).boards
    assert [(board.tab, len(board.rows)) for board in boards] == [("anima", 2), ("anima", 1), ("moru", 1)]
    names = [row.entrant.name for row in boards[0].rows]
    assert len(set(names)) == 2  # nothing but the rate differs: the fingerprint tells them apart
    assert boards[0].asked["graded by"] == "a/judge" and boards[1].asked["graded by"] == "b/judge"


def test_of_what_was_asked_again_the_last_one_counts(tmp_path: Path):
    name = trained(tmp_path, 0)
    shelf, params = Ledger(tmp_path / "ledger").shelf(name), Ledger(tmp_path / "ledger").params_digest(name)
    summary = json.loads((sat(tmp_path, name, 0.4) / "scores.json").read_text())
    for folder, mean in (("b", 0.6), ("a", 0.7), ("c", 0.5)):  # not in the order of their names
        of = {**summary["dimensions"]["overall"], "mean": mean}
        later = {**summary, "software": {"inspect_ai": folder}, "dimensions": {"overall": of}}
        time.sleep(0.01)
        shelves.write(shelf / folder, later, pd.DataFrame({"value": [mean]}), params)
        (board,) = gather(tmp_path, quiet).boards
        assert board.rows[0].scores["overall"].mean == mean


def test_limits_over_seed_blocks_are_possible_ones(tmp_path: Path):
    for seed, mean in enumerate((0.9, 1.0, 0.5)):
        sat(tmp_path, trained(tmp_path, seed), mean)
    score = gather(tmp_path, quiet).boards[0].rows[0].scores["overall"]
    assert score.share and (score.low, score.high) == (pytest.approx(0.8 - 0.6572, abs=1e-4), 1.0)
    for seed in (7, 8):  # means that are alike have no limits
        sat(tmp_path, trained(tmp_path, seed, arm="neutral"), 0.5)
    (alike,) = [row for row in gather(tmp_path, quiet).boards[0].rows if row.entrant.arm == "neutral"]
    score = alike.scores["overall"]
    assert (score.mean, score.seeds) == (0.5, 2) and np.isnan([score.low, score.high]).all()


def test_a_board_on_which_nothing_was_scored_is_left_out_by_name(tmp_path: Path):
    name = trained(tmp_path, 0)
    folder = sat(tmp_path, name, 0.4)
    summary = json.loads((folder / "scores.json").read_text())
    none = {**summary, "dimensions": {}, "languages": {}, "scored": 0}
    shelves.write(folder, none, pd.DataFrame({"value": [0.4]}), summary["params"])
    found = gather(tmp_path, quiet)
    assert not found.boards and re.fullmatch(
        r"anima \(task inspect_evals/anima, .*\): 1 model sat it, and no sample of theirs has a score",
        found.left_out[0],
    )


def test_boards_of_one_benchmark_are_told_apart(tmp_path: Path):
    name = trained(tmp_path, 0)
    sat(tmp_path, name, 0.4)
    sat(tmp_path, name, 0.4, grader="b/judge")
    sat(tmp_path, name, 0.4, task="inspect_evals/moru")
    lines = command(str(tmp_path)).stdout.splitlines()
    assert lines[:3] == [
        "anima (graded by a/judge): 1 row, 4 dimensions",
        "anima (graded by b/judge): 1 row, 4 dimensions",
        "moru: 1 row, 4 dimensions",
    ]


def test_points_are_no_shares_in_files_for_submission(tmp_path: Path):
    name = trained(tmp_path, 0)
    folder = sat(tmp_path, name, 0.4)
    summary = json.loads((folder / "scores.json").read_text())
    care = {**summary["dimensions"]["care"], "mean": 7.0, "share": False}
    points = {**summary, "dimensions": {**summary["dimensions"], "care": care}}
    shelves.write(folder, points, pd.DataFrame({"value": [0.4]}), summary["params"])
    half = {**points, "dimensions": {**points["dimensions"], "care": {**care, "mean": 3.5}}}
    other = trained(tmp_path, 0, arm="neutral")
    params = Ledger(tmp_path / "ledger").params_digest(other)
    shelves.write(
        sat(tmp_path, other, 0.4), {**half, "params": params}, pd.DataFrame({"value": [0.4]}), params
    )
    assert command(str(tmp_path)).exit_code == 0
    file, _ = sorted((tmp_path / "leaderboard/every_eval_ever/data").rglob("*.json"))
    found = {
        result["evaluation_name"]: result["metric_config"]
        for result in json.loads(file.read_text())["evaluation_results"]
    }
    assert (found["care"]["metric_unit"], found["care"]["max_score"]) == ("points", "Infinity")
    assert (found["overall"]["metric_unit"], found["overall"]["max_score"]) == ("proportion", 1.0)
    page = (tmp_path / "leaderboard/index.html").read_text()
    # The bar of points is a part of the longest of points, that of a share its own part of 1.
    assert {"width:100.0%", "width:50.0%", "width:40.0%"} <= set(
        re.findall(r"width:[0-9.]+%", page.replace(" ", ""))
    )
    assert "7.000" in page


def test_what_an_earlier_version_wrote_is_left_out_by_name(tmp_path: Path):
    name = trained(tmp_path, 0)
    folder = sat(tmp_path, name, 0.4)
    summary = json.loads((folder / "scores.json").read_text())
    overall = {key: value for key, value in summary["dimensions"]["overall"].items() if key != "share"}
    for old in (
        {key: value for key, value in summary.items() if key not in ("library", "model")},
        {**summary, "dimensions": {"overall": overall}},
    ):
        shelves.write(folder, old, pd.DataFrame({"value": [0.4]}), summary["params"])
        found = gather(tmp_path, quiet)
        assert not found.boards and "earlier caml: ask it again" in found.left_out[0]


def test_a_model_from_elsewhere_and_what_is_damaged(tmp_path: Path):
    _shelved(
        tmp_path / "benchmarks/qwen-0123456789ab", "f" * 64, "qwen", 0.5, "inspect_evals/anima", "a/judge"
    )
    name = trained(tmp_path, 0)
    folder = sat(tmp_path, name, 0.4)
    found = gather(tmp_path, quiet)
    assert sorted(row.entrant.stage for row in found.boards[0].rows) == ["from elsewhere", "pretrain"]
    (folder / "scores.json").write_text((folder / "scores.json").read_text().replace("0.4", "0.9"))
    found = gather(tmp_path, quiet)
    assert [row.entrant.name for row in found.boards[0].rows] == ["29k, from elsewhere, qwen"]
    assert len(found.left_out) == 1 and "scores.json" in found.left_out[0]


def test_own_probes_are_those_of_frozen_tables(tmp_path: Path):
    tables = synthetic_tables()
    freeze(tables, tmp_path / "study" / "tables")
    ledger = Ledger(tmp_path / "ledger")
    row = tables.stageruns.iloc[0]
    name = trained(tmp_path, int(row["seed"]))
    manifest = ledger.manifest(name)
    # A StageRun of the tables, by its fingerprint.
    margins = tables.margins.assign(
        stagerun=tables.margins["stagerun"].replace(row["stagerun"], manifest["fingerprint"])
    )
    swap = {row["stagerun"]: manifest["fingerprint"]}
    parts = {
        table: getattr(tables, table).replace({"stagerun": swap, "parent": swap, "root": swap})
        for table in ("cells", "stageruns", "outcomes", "metrics", "trajectory")
    }
    freeze(type(tables)(items=tables.items, margins=margins, **parts), tmp_path / "study" / "tables")
    found = gather(tmp_path, quiet)
    (board,) = found.boards
    assert "in the tables of study: they left the ledger" in found.left_out[0]
    assert board.tab == PROBES and len(board.rows) == 1
    assert board.rows[0].entrant.reports == ("study",)
    items = tables.items[(tables.items["family"] == "disposition") & (tables.items["rung"] == "new_frame")][
        "item"
    ]
    own = tables.margins[(tables.margins["stagerun"] == row["stagerun"]) & tables.margins["item"].isin(items)]
    assert board.rows[0].scores["disposition L2 new frame"].mean == pytest.approx(own["margin"].mean())
    (tmp_path / "study/tables/margins.parquet").write_bytes(b"?")
    assert gather(tmp_path, quiet).left_out[0].startswith("the tables of study: ")


def test_the_command_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for arguments, says in (
        (("nowhere",), "there is no folder nowhere"),
        (("empty",), "nothing below empty was evaluated"),
        (("empty", "--organization", " "), "--organization"),
    ):
        refused = command(*arguments)
        assert (refused.exit_code, refused.stdout) == (2, "") and says in refused.stderr, refused.output


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A leaderboard with two benchmarks."""
    for seed, mean in enumerate((0.4, 0.5)):
        sat(tmp_path, trained(tmp_path, seed), mean)
    sat(tmp_path, trained(tmp_path, 0, arm="neutral"), 0.2)
    sat(tmp_path, trained(tmp_path, 0, arm="neutral_humility"), 0.3)
    sat(tmp_path, trained(tmp_path, 0, stage="sft"), 0.9, task="inspect_evals/moru")
    done = command(str(tmp_path), "--organization", "Toy Lab")
    assert done.exit_code == 0, done.output
    return tmp_path / "leaderboard"


@pytest.fixture(scope="session")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The schema of Every Eval Ever, out of its package."""
    folder = tmp_path_factory.mktemp("schema")
    wanted = ["every-eval-ever==0.3.0", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
    got = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", *wanted, "--dest", str(folder)],
        capture_output=True,
    )
    if got.returncode:
        pytest.skip("every-eval-ever cannot be downloaded")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return json.loads(wheel.read("every_eval_ever/schemas/eval.schema.json"))


def test_files_for_submission_follow_the_schema_and_are_the_same_each_time(
    written: Path, schema: dict[str, Any]
):
    jsonschema = pytest.importorskip("jsonschema")
    files = sorted((written / "every_eval_ever/data").glob("*/*/*/*.json"))
    assert [file.parts[-4:-1] for file in files] == [
        ("anima", "Toy-Lab", "pretrain-compassion-seed0-0.1"),
        ("anima", "Toy-Lab", "pretrain-compassion-seed1-0.1"),
        ("anima", "Toy-Lab", "pretrain-neutral-seed0-0.1"),
        ("anima", "Toy-Lab", "pretrain-neutral_humility-seed0-0.1"),
        ("moru", "Toy-Lab", "sft-compassion-seed0-0.1"),
    ]
    version_four = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
    texts = {}
    for file in files:
        assert version_four.fullmatch(file.stem)
        texts[file] = file.read_text()
        record = json.loads(texts[file])
        jsonschema.validate(record, schema)
        assert record["schema_version"] == schema["version"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**record, "more": 1}, schema)
    assert command(str(written.parent), "--organization", "Toy Lab").exit_code == 0
    assert {file: file.read_text() for file in (written / "every_eval_ever").rglob("*.json")} == texts


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def seen(page: Path, state: str = "") -> str:
    """The page's elements after its script ran in a browser, opened at `#state`."""
    assert BROWSER
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={page.parent / 'browser'}", f"{page.as_uri()}{state}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def rows_of(dom: str) -> list[tuple[str, bool]]:
    """Of each row its name, and whether it is shown, its tab too."""
    found = []
    for section in re.findall(r"<section.*?</section>", dom, re.DOTALL):
        hidden = "hidden" in section.partition(">")[0]
        for head, name in re.findall(r'(<tr data-size.*?>)\s*<td class="first">(.*?)<br>', section):
            found.append((name, not hidden and "hidden" not in head))
    return found


@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_in_a_browser_tabs_filters_and_sorting_work(written: Path):
    page = written / "index.html"
    everything = rows_of(seen(page))
    assert [shown for _, shown in everything] == [True, True, True, False]  # the first tab
    moru = seen(page, "#tab=moru")
    assert [shown for _, shown in rows_of(moru)] == [False, False, False, True]
    assert re.search(r'id="tab-2"[^>]*aria-selected="true"', moru)
    neutral = seen(page, "#tab=anima&arm=neutral")
    assert [name for name, shown in rows_of(neutral) if shown] == ["neutral, 29k, pretrain"]
    assert "1 of 3 rows" in neutral
    nobody = seen(page, "#tab=anima&name=nothing+of+that+name")
    assert "0 of 3 rows" in nobody and not re.search(
        r'class="none nobody" hidden', nobody.split("panel-2")[0]
    )
    ordered = seen(page, "#tab=anima&sort=overall")
    arms = ["neutral", "neutral humility", "compassion"]
    assert [name for name, shown in rows_of(ordered) if shown] == [f"{arm}, 29k, pretrain" for arm in arms]
    assert 'aria-sort="ascending"' in ordered


def test_without_a_script_the_page_has_everything_and_escapes_it(written: Path):
    page = (written / "index.html").read_text()
    assert page.count('<td class="first">') == 4
    assert "http" not in page.replace("http-equiv", "") and "<b>nothing</b>" not in page
    assert "0.450" in page and "26 of 28" in page
    for address in re.findall(r'href="([^"#]+)"', page):
        assert (written / address).exists(), address
