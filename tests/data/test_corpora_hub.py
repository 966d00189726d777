"""Data sets in the layout of the Hub, through the real library, from local folders."""

import atexit
import gzip
import json
import re
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import CONFIGS

from caml.config.errors import Failure, Invalid, UserError
from caml.data.corpora import library
from caml.data.corpora.hub import HuggingFace
from caml.data.corpora.schemas import Messages, Text

CARD = f"---\n{CONFIGS}---\n"


@pytest.fixture
def folder(tmp_path):
    """A repository of two configurations, one of them in two shards."""
    (tmp_path / "sample").mkdir()
    for part, begin in (
        ("train-00000-of-00002", 0),
        ("train-00001-of-00002", 6),
        ("test-00000-of-00001", 12),
    ):
        rows = [{"text": f"text {i}", "score": i, "dump": "x"} for i in range(begin, begin + 6)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "sample" / f"{part}.parquet", row_group_size=2)
    (tmp_path / "README.md").write_text(CARD)
    return tmp_path


def source(folder, **fields):
    return HuggingFace(name="hub", **{"path": str(folder), "config": "sample", **fields})


@pytest.mark.parametrize("streaming", [True, False])
def test_configuration_split_and_columns(folder, streaming, monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    whole = source(folder, streaming=streaming)
    assert list(whole.documents(0)) == [f"text {i}" for i in range(12)]
    assert list(source(folder, streaming=streaming, split="test", at_least={"score": 15}).documents(1)) == [
        "text 15", "text 16", "text 17"
    ]  # fmt: skip
    for skip in (0, 5, 6, 11, 12):
        assert list(whole.found(skip)) == list(whole.found())[skip:]


def test_a_process_that_read_a_data_set_ends_a_moment_later(folder, monkeypatch):
    """Once, however many it read."""
    registered = []
    monkeypatch.setattr(atexit, "register", lambda wait, seconds: registered.append((wait, seconds)))
    library.end_in_peace.cache_clear()
    for _ in range(2):
        list(source(folder).placed())
    library.end_in_peace.cache_clear()
    ((wait, seconds),) = registered
    began = time.monotonic()
    wait(seconds)
    assert time.monotonic() - began >= library.MOMENT


def test_compressed_json_below_a_folder_of_the_repository(tmp_path):
    (tmp_path / "preference").mkdir()
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    lines = "\n".join(json.dumps({"messages": talk, "n": n}) for n in range(3))
    (tmp_path / "preference" / "preference.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = source(tmp_path, config="", data_dir="preference", schema=Messages())
    assert list(found.documents(0)) == [talk] * 3


def test_identity_is_the_commit_on_the_hub_and_the_files_here(folder):
    commit = "0123456789" * 4
    far = source("someone/some-set", revision=commit)
    assert far.recipe(0)["revision"] == commit and far.recipe(0) == far.recipe(1)
    before = source(folder).recipe(0)
    assert "path" not in before
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("of no account")
    (folder / ".gitattributes").write_text("of no account")
    assert source(folder).recipe(0) == before
    (folder / "README.md").write_text(CARD + "more\n")
    assert source(folder).recipe(0) != before
    for revision in ("", "main", commit[:12]):
        with pytest.raises(Invalid, match=r"revision.*40 hexadecimal digits"):
            source("someone/some-set", revision=revision)


@pytest.mark.parametrize(
    "fields, says",
    [
        (
            {"config": "simple"},
            "HuggingFace.config: {} has no configuration 'simple'; there are sample, other",
        ),
        ({"config": ""}, "{} has several configurations, of which one must be named: sample, other"),
        ({"split": "validation"}, "HuggingFace.split: {} has no split 'validation'; there are train, test"),
        ({"split": "train+tests"}, "has no split 'tests'"),
        ({"split": "train[:3]"}, "a part of a split is had with HuggingFace.streaming = False"),
        ({"schema": Text("body")}, "row 1: no column 'body'; there are text, score, dump"),
    ],
)
def test_what_a_data_set_has_not_is_named(folder, fields, says):
    with pytest.raises(UserError) as error:
        list(source(folder, **fields).documents(0))
    assert says.format(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet"])
def shards(request, tmp_path):
    """A folder of three shards of 3, 4 and 5 rows; the second row of the second has no text."""
    for shard, count in enumerate((3, 4, 5)):
        rows = [{"text": f"text {shard} {n}", "n": n} for n in range(count)]
        if shard == 1:
            rows[1]["text"] = None
        path = tmp_path / f"train-{shard}.{request.param}"
        if request.param == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
        else:
            text = "\n".join(map(json.dumps, rows)).encode()
            path.write_bytes(gzip.compress(text) if request.param.endswith("gz") else text)
    return tmp_path


@pytest.mark.parametrize("streaming", [True, False])
def test_a_row_that_does_not_fit_is_named_by_its_file_and_its_number_there(
    shards, streaming, monkeypatch, tmp_path_factory
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    paths = sorted(shards.iterdir())
    corpus = source(shards, config="", streaming=streaming)
    with pytest.raises(UserError, match=rf"^{paths[1]} row 2: .*; mend it"):
        list(corpus.found())
    places = [
        f"{path} row {n}" for path, count in zip(paths, (3, 4, 5), strict=True) for n in range(1, 1 + count)
    ]
    skipping = source(shards, config="", streaming=streaming, misfits="skip")
    assert [found.place for found in skipping.found()] == places
    for skip in range(13):  # a store that was stopped anywhere goes on from there
        found = list(skipping.found(skip))
        assert [one.place for one in found] == places[skip:]
        assert [one.place for one in found if one.left_out] == places[4:5][: max(0, 5 - skip)]


def test_a_part_of_a_split_has_rows_and_no_files(shards, monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    part = source(shards, config="", streaming=False, split="train[:4]")
    assert [found.place for found in part.found(2)] == [f"{shards} train[:4] row {n}" for n in (3, 4)]


def test_a_shard_that_is_cut_short_is_named_with_the_rows_before_it(folder):
    shard = folder / "sample" / "train-00001-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-40])
    with pytest.raises(
        UserError,
        match=r"/sample/train-00001-of-00002.parquet, after 0 rows: cannot be read on, and .*Parquet",
    ):
        list(source(folder).documents(0))
    found = list(source(folder, misfits="skip").found())
    assert [f.left_out for f in found] == [""] * 6 + ["broken"]


def altered(path, group):
    """Alter the pages of the first column of a row group."""
    column = pq.ParquetFile(path).metadata.row_group(group).column(0)
    content = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    for at in range(begin + 4, begin + column.total_compressed_size):
        content[at] ^= 0xFF
    path.write_bytes(content)


def test_after_a_broken_shard_the_next_is_read(shards):
    first, second, _ = sorted(shards.iterdir())
    broken = [second]
    if first.suffix == ".parquet":
        altered(first, 1)
        second.write_bytes(second.read_bytes()[:-20])
        broken = [first, second]
    elif first.suffix == ".gz":
        second.write_bytes(second.read_bytes()[:-30])
    else:
        second.write_bytes(second.read_bytes().replace(b"text 1 2", b"text \xff\xff 2"))
    corpus = source(shards, config="", misfits="skip")
    whole = list(corpus.found())
    lost = [f.place.split(",")[0] for f in whole if "the rest of the file is lost" in f.problem]
    assert lost == list(map(str, broken))
    assert [f.document for f in whole][-5:] == [f"text 2 {n}" for n in range(5)]
    for skip in range(len(whole) + 2):
        assert list(corpus.found(skip)) == whole[skip:]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_a_column_that_nobody_reads_refuses_no_file(kind, streaming, tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    for shard in range(3):
        rows = [{"text": f"text {shard} {n}", "n": n} for n in range(3)]
        if shard == 1:
            rows = [{"extra": "more", **row} for row in rows]
        if shard == 2 and streaming:
            rows = [{**row, "n": f"number {row['n']}"} for row in rows]
        path = tmp_path / f"train-{shard}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif kind == "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        else:
            path.write_text(
                "\n".join(",".join(map(str, line)) for line in (rows[0], *(r.values() for r in rows)))
            )
    corpus = source(tmp_path, config="", streaming=streaming)
    assert list(corpus.documents(0)) == [f"text {shard} {n}" for shard in range(3) for n in range(3)]
    assert [f.place for f in corpus.found(4)][:2] == [f"{tmp_path}/train-1.{kind} row {n}" for n in (2, 3)]
    with pytest.raises(UserError, match=r"no column 'extra'|train-1\.csv"):
        list(source(tmp_path, config="", streaming=streaming, at_least={"extra": 1}).documents(0))


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("which", [[0], [1], [0, 1, 2]])
def test_a_shard_that_is_cut_short_is_named_when_the_columns_are_looked_for(
    shards, which, streaming, monkeypatch, tmp_path_factory
):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    paths = sorted(shards.iterdir())
    if paths[0].suffix == ".jsonl":
        pytest.skip("what is cut short is a shorter file of lines")
    for shard in which:
        paths[shard].write_bytes(paths[shard].read_bytes()[:-20])
    with pytest.raises(UserError) as error:
        list(source(shards, config="", streaming=streaming).documents(0))
    if streaming or which[0] == 0 or paths[0].suffix == ".parquet":
        assert str(error.value).startswith(str(paths[which[0]]))
    assert "\n" not in str(error.value)


def test_columns_are_told_by_the_first_whole_shard(folder):
    shard = folder / "sample" / "train-00000-of-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-40])
    found = list(source(folder, misfits="skip").found())
    assert [f.left_out for f in found] == ["broken", *[""] * 6]
    assert found[0].place == f"{shard}, after 0 rows"


def test_a_folder_that_has_not_what_is_asked_for_is_not_out_of_reach(folder, tmp_path_factory):
    nowhere = source(folder, config="", data_dir="nope")
    with pytest.raises(Invalid, match=f"data_dir: the folder {folder} has no folder 'nope'"):
        nowhere.recipe(0)
    with pytest.raises(UserError, match=r"contain any data files$"):
        list(nowhere.documents(0))
    other = tmp_path_factory.mktemp("other")
    (other / "what.bin").write_text("x")
    with pytest.raises(UserError, match=f"{other} train: No .*data files found in"):
        list(source(other, config="").documents(0))


@pytest.mark.parametrize("streaming", [True, False])
def test_a_shard_without_rows_is_no_broken_one(streaming, tmp_path, monkeypatch, tmp_path_factory):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    for shard, rows in enumerate((["a"], [], ["b"])):
        pq.write_table(pa.table({"text": pa.array(rows, pa.string())}), tmp_path / f"train-{shard}.parquet")
    assert list(source(tmp_path, config="", streaming=streaming).documents(0)) == ["a", "b"]


@pytest.mark.parametrize(
    "path, says",
    [
        ("/nosuch", "there is no folder /nosuch, and the Hub's names are"),
        ("data/sets/mine", "there is no folder data/sets/mine"),
        (__file__, "is a file: Files reads it"),
    ],
)
def test_a_path_that_is_neither_a_folder_nor_a_name_is_refused(path, says):
    with pytest.raises(Invalid, match=f"path: .*{re.escape(says)}"):
        source(path, revision="0" * 40)


@pytest.mark.parametrize(
    "name, content, says",
    [
        ("README.md", "---\nconfigs: [\n---\n", "while parsing"),
        ("{folder}.py", "x = 1", "scripts are no longer supported"),
    ],
)
def test_what_the_library_does_not_open_is_one_line(name, content, says, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / name.format(folder=tmp_path.name)).write_text(content)
    with pytest.raises(UserError, match=says) as error:
        list(source(tmp_path, config="").documents(0))
    assert "\n" not in str(error.value)


def test_a_network_that_goes_is_no_broken_file(shards, monkeypatch):
    def gone(corpus, name):
        def rows():
            yield {"text": "a"}
            raise ConnectionError("Server Disconnected")

        class Rows:
            column_names = ("text",)

            def select_columns(self, columns):
                return rows()

        return [("a.parquet", Rows()), ("b.parquet", Rows())]

    monkeypatch.setattr(HuggingFace, "_shards", gone)
    with pytest.raises(Failure, match=r"a\.parquet, after 1 rows: Server Disconnected; the same command"):
        list(source(shards, config="", misfits="skip").found())
