"""Data sets read by the real library from a server that speaks the Hub's protocol; and where there is none.

The library reads its settings when it is imported, so every test asks in a process of its own.
"""

import gzip
import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, CONFIGS, hub

CARD = f"""---
{CONFIGS}dataset_info:
- config_name: sample
  features:
  - name: text
    dtype: string
  - name: score
    dtype: int64
  splits:
  - name: train
    num_bytes: 1
    num_examples: 99
- config_name: other
---
"""
ELSEWHERE = "f" * 40

ASKING = """
import json, sys, time
if "patient" not in sys.argv:
    time.sleep = lambda seconds: None  # the libraries wait between their tries
import datasets
from caml.config.errors import Failure, UserError
from caml.data.corpora.hub import HuggingFace
datasets.config.STREAMING_READ_MAX_RETRIES = datasets.config.STREAMING_OPEN_MAX_RETRIES = 2
for fields in json.loads(sys.argv[1]):
    answer = {"rows": [], "error": "", "says": ""}
    skip, began = fields.pop("skip", 0), time.monotonic()
    try:
        for found in HuggingFace(name="far", **fields).found(skip):
            answer["rows"].append([found.place, found.document, found.problem])
    except (UserError, Failure) as error:
        answer["error"] = "UserError" if isinstance(error, UserError) else "Failure"
        answer["says"] = str(error)
    print(json.dumps({**answer, "seconds": time.monotonic() - began}))
"""


def ask(url, home, *asked, arguments=(), **environment):
    """What is found of each data set in turn, by one process that wrote nothing but its answers."""
    script = [
        sys.executable,
        "-c",
        ASKING,
        json.dumps([{"revision": COMMIT, **one} for one in asked]),
        *arguments,
    ]
    environment = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(home), **environment}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [answer["says"] for answer in answers if "\n" in answer["says"]]
    return answers


def rows(begin, end):
    return [{"text": f"text {n}", "score": n} for n in range(begin, end)]


def parquet(folder):
    """A repository of two configurations, one of them in two shards; what its card tells of rows is stale."""
    (folder / "sample").mkdir(parents=True)
    for name, begin in (
        ("train-00000-of-00002", 0),
        ("train-00001-of-00002", 6),
        ("test-00000-of-00001", 12),
    ):
        table = pa.Table.from_pylist(rows(begin, begin + 6))
        pq.write_table(table, folder / "sample" / f"{name}.parquet", row_group_size=2)
    (folder / "README.md").write_text(CARD)
    return folder


def lines(folder, broken=-1):
    """A repository of three shards of compressed lines below a folder, one of which may be cut short."""
    (folder / "below").mkdir(parents=True)
    for shard in range(3):
        content = gzip.compress("\n".join(map(json.dumps, rows(4 * shard, 4 * shard + 4))).encode())
        (folder / "below" / f"train-{shard}.jsonl.gz").write_bytes(
            content[: -30 if shard == broken else None]
        )
    return folder


def cut(path):
    """Leave out the end of a file."""
    path.write_bytes(path.read_bytes()[:-40])


PARQUET = {"path": "someone/some-set", "config": "sample"}
LINES = {"path": "someone/lines", "data_dir": "below"}
ASKED = {
    "parquet": PARQUET,
    "parquet, gone on with": {**PARQUET, "skip": 8},
    "lines": LINES,
    "lines, gone on with": {**LINES, "skip": 7},
    "unknown": {**PARQUET, "path": "someone/nothing"},
    "gated": {**PARQUET, "path": "someone/gated"},
    "revision": {**PARQUET, "revision": ELSEWHERE},
    "split": {**PARQUET, "split": "valid"},
    "split that was guessed": {**LINES, "split": "valid"},
    "config": {**PARQUET, "config": "simple"},
    "no config": {**PARQUET, "config": ""},
    "data_dir": {**LINES, "data_dir": "above"},
    "column": {**PARQUET, "at_least": {"length": 1}},
    "cut lines": {"path": "someone/cut-lines", "data_dir": "below"},
    "cut lines, left out": {"path": "someone/cut-lines", "data_dir": "below", "misfits": "skip"},
    "cut lines, gone on with": {
        "path": "someone/cut-lines",
        "data_dir": "below",
        "misfits": "skip",
        "skip": 5,
    },
    "cut first": {"path": "someone/cut-first", "data_dir": "below"},
    "cut first, left out": {"path": "someone/cut-first", "data_dir": "below", "misfits": "skip"},
    "cut parquet": {**PARQUET, "path": "someone/cut-parquet"},
    "cut parquet, left out": {**PARQUET, "path": "someone/cut-parquet", "misfits": "skip"},
}


@pytest.fixture(scope="module", params=[True, False], ids=["streaming", "downloaded"])
def answers(request, tmp_path_factory):
    """What is found of each of ASKED, read from the server."""
    root = tmp_path_factory.mktemp("far")
    folders = {
        "some_set": parquet(root / "a"),
        "lines": lines(root / "b"),
        "cut_lines": lines(root / "c", broken=1),
        "cut_first": lines(root / "d", broken=0),
        "cut_parquet": parquet(root / "e"),
    }
    cut(root / "e" / "sample" / "train-00000-of-00002.parquet")
    with hub(**folders, gated=root / "a") as server:
        server.gated.add("someone/gated")
        here = {
            "parquet here": {**PARQUET, "path": str(root / "a")},
            "lines here": {**LINES, "path": str(root / "b")},
        }
        asked = {name: {**one, "streaming": request.param} for name, one in {**ASKED, **here}.items()}
        found = dict(zip(asked, ask(server.url, root / "home", *asked.values()), strict=True))
    return {**found, "root": str(root)}


def test_rows_and_their_places_are_those_of_the_same_folder_here(answers):
    for name, folder in (("parquet", "a"), ("lines", "b")):
        here, far = answers[f"{name} here"]["rows"], answers[name]["rows"]
        path = ASKED[name]["path"]
        assert far == [[place.replace(f"{answers['root']}/{folder}", path), *rest] for place, *rest in here]
        assert [document for _, document, _ in far] == [f"text {n}" for n in range(12)]
    assert answers["parquet"]["rows"][8][0] == "someone/some-set/sample/train-00001-of-00002.parquet row 3"
    assert answers["lines"]["rows"][11][0] == "someone/lines/below/train-2.jsonl.gz row 4"
    assert answers["parquet, gone on with"]["rows"] == answers["parquet"]["rows"][8:]
    assert answers["lines, gone on with"]["rows"] == answers["lines"]["rows"][7:]


@pytest.mark.parametrize(
    "asked, says",
    [
        ("unknown", "someone/nothing: the Hub has no such data set, or it is private (set HF_TOKEN)"),
        ("gated", "someone/gated is a gated data set: accept its terms on its page at the Hub, then log in"),
        ("revision", f"HuggingFace.revision: someone/some-set has no commit {ELSEWHERE}"),
        ("split", "HuggingFace.split: someone/some-set has no split 'valid'; there are train, test"),
        ("split that was guessed", "HuggingFace.split: someone/lines has no split 'valid'; there are train"),
        (
            "config",
            "HuggingFace.config: someone/some-set has no configuration 'simple'; there are sample, other",
        ),
        (
            "no config",
            "someone/some-set has several configurations, of which one must be named: sample, other",
        ),
        (
            "data_dir",
            "HuggingFace.data_dir: someone/lines train: The directory at hf://datasets/someone/lines@",
        ),
        ("column", "train-00000-of-00002.parquet row 1: no column 'length'; there are text, score; mend it"),
        ("cut lines", "someone/cut-lines/below/train-1.jsonl.gz, after 0 rows: cannot be read on"),
        ("cut first", "someone/cut-first/below/train-0.jsonl.gz, after 0 rows: cannot be read on"),
        (
            "cut parquet",
            "someone/cut-parquet/sample/train-00000-of-00002.parquet, after 0 rows: cannot be read",
        ),
    ],
)
def test_what_is_not_there_or_broken_is_named_in_one_line(asked, says, answers):
    assert answers[asked]["error"] == "UserError" and says in answers[asked]["says"]


def test_a_shard_that_is_cut_short_is_counted_and_the_next_is_read(answers):
    for asked, lost, count, after in (
        ("cut lines, left out", "train-1.jsonl.gz", 4, [4, 5, 6, 7]),
        ("cut first, left out", "train-0.jsonl.gz", 0, [0, 1, 2, 3]),
        ("cut parquet, left out", "train-00000-of-00002.parquet", 0, [0, 1, 2, 3, 4, 5]),
    ):
        found = answers[asked]["rows"]
        assert [place.split("/")[-1] for place, _, problem in found if problem] == [f"{lost}, after 0 rows"]
        assert "the rest of the file is lost" in found[count][2]
        kept = [document for _, document, _ in found if document]
        assert kept == [f"text {n}" for n in range(12) if n not in after]
    assert answers["cut lines, gone on with"]["rows"] == answers["cut lines, left out"]["rows"][5:]


@pytest.fixture
def far(tmp_path):
    """A repository, and a folder for the caches of who reads it."""
    return parquet(tmp_path / "a"), tmp_path / "home"


@pytest.mark.parametrize("way", ["drops", "stops"])
def test_where_the_server_goes_the_same_command_goes_on(way, far):
    folder, home = far
    second = "sample/train-00001-of-00002.parquet"
    streamed, downloaded = {**PARQUET, "misfits": "skip"}, {**PARQUET, "misfits": "skip", "streaming": False}
    with hub(some_set=folder) as server:
        if way == "drops":
            server.drops[second] = 100
            gone, not_fetched = ask(server.url, home, streamed, downloaded)
            assert not_fetched["error"] == "Failure" and not_fetched["rows"] == []
            assert not_fetched["says"].startswith("someone/some-set sample train cannot be read: ")
            assert not_fetched["says"].endswith("; the same command tries again")
        else:
            server.stops_at = second
            (gone,) = ask(server.url, home, streamed)
    assert gone["error"] == "Failure"
    assert gone["says"].startswith(f"someone/some-set/{second}, after 0 rows: ")
    assert gone["says"].endswith("; the same command tries again")
    with hub(some_set=folder) as server:
        went_on, whole = ask(server.url, home, {**streamed, "skip": len(gone["rows"])}, downloaded)
    assert gone["rows"] + went_on["rows"] == whole["rows"]
    assert (len(gone["rows"]), len(whole["rows"])) == (6, 12)


def test_what_was_downloaded_is_read_without_a_network_at_its_commit_only(far, tmp_path):
    folder, home = far
    downloaded = [{**one, "streaming": False} for one in (PARQUET, LINES, {**LINES, "data_dir": ""})]
    downloaded += [{**one, "config": "default"} for one in downloaded[2:]]
    with hub(some_set=folder, lines=lines(tmp_path / "b")) as server:
        first = ask(server.url, home, *downloaded)
    asked = [
        *downloaded,
        {**PARQUET, "skip": 8},
        {**PARQUET, "revision": ELSEWHERE},
        {**PARQUET, "config": "other"},
        {**LINES, "data_dir": "above"},
        {**PARQUET, "split": "valid"},
        {**PARQUET, "path": "someone/other-set"},
    ]
    again = ask("http://127.0.0.1:9", home, *asked, HF_HUB_OFFLINE="1")
    assert [len(one["rows"]) for one in first] == [12] * 4
    assert [one["rows"] for one in again[:4]] == [one["rows"] for one in first]
    again = again[4:]
    assert again[0]["rows"] == first[0]["rows"][8:]
    for answer in again[1:]:
        assert answer["error"] == "UserError" and answer["rows"] == []
    for answer in (*again[1:4], again[5]):
        assert "HF_HUB_OFFLINE is set, and the library's cache has no copy of commit" in answer["says"]
    assert "HuggingFace.split: someone/some-set has no split 'valid'" in again[4]["says"]


def test_a_token_that_is_refused_and_a_hub_that_is_busy(far):
    folder, home = far
    with hub(some_set=folder) as server:
        server.fails = {f"/revision/{COMMIT}": [401, 503], "/README.md": [503]}
        refused, served = ask(server.url, home, PARQUET, PARQUET)
    assert refused["error"] == "UserError" and "the Hub refuses the token it was sent" in refused["says"]
    assert len(served["rows"]) == 12 and not served["error"]


def test_without_a_network_one_line_says_at_once_what_to_do(tmp_path):
    asked = [{**PARQUET, "streaming": streaming} for streaming in (True, False)]
    for answer in ask("http://127.0.0.1:9", tmp_path, *asked, arguments=["patient"]):
        assert answer["error"] == "UserError" and answer["seconds"] < 5
        assert "someone/some-set is no folder here, and cannot be reached at the Hub (" in answer["says"]
        assert "HF_HUB_OFFLINE=1" in answer["says"]
