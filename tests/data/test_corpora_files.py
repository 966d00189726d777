"""Corpora in local files: what is read of each format, what identifies them, and what is said of bad rows."""

import bz2
import dataclasses
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caml.config.errors import Failure, Invalid, UserError
from caml.config.fingerprint import fingerprint
from caml.data.corpora.files import Files
from caml.data.corpora.schemas import Messages, Template, Text

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]


def source(path, **fields):
    return Files(name="local", path=str(path), **fields)


def texts(path, **fields):
    return list(source(path, **fields).documents(0))


def test_lines_paragraphs_and_whole_files(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("one\n two\n\n \nthree\n")
    assert texts(text) == ["one", "two", "three"]
    assert texts(text, unit="paragraph") == ["one\n two", "three"]
    assert texts(text, unit="file") == ["one\n two\n\n \nthree"]
    assert texts(text, join=7) == ["one\n\ntwo", "three"]
    assert texts(text, unit="paragraph", join=100) == ["one\n two\n\nthree"]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
def test_rows_of_every_format(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    rows = [
        {"title": "A", "body": "first, of\nthree"},
        {"title": "B", "body": ""},
        {"title": "", "body": "third"},
    ]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    else:
        mark = "," if suffix == ".csv" else "\t"
        path.write_text(f'title{mark}body\nA{mark}"first, of\nthree"\nB{mark}\n\n{mark}third\n')
    assert texts(path, schema=Text("body")) == ["first, of\nthree", "third"]
    assert texts(path, schema=Template("{title}: {body}")) == ["A: first, of\nthree", "B: ", ": third"]


def test_conversations_of_a_parquet_file(tmp_path):
    path = tmp_path / "chats.parquet"
    pq.write_table(pa.Table.from_pylist([{"messages": TALK, "n": 1}]), path)
    assert texts(path, schema=Messages()) == [TALK]


@pytest.mark.parametrize(
    "suffix, packed",
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress),
     (".zst", lambda data: pa.Codec("zstd").compress(data, asbytes=True))],
)  # fmt: skip
def test_compressed_files_and_such_as_are_cut_short(tmp_path, suffix, packed):
    lines = [f"line {i} " + "ab" * (i % 7) for i in range(20_000)]
    path = tmp_path / f"a.txt{suffix}"
    content = packed("\n".join(lines).encode())
    path.write_bytes(content)
    assert texts(path) == [line.strip() for line in lines]
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=rf"a\.txt{suffix}, after \d+ rows: the file is cut short or altered"):
        texts(path)
    found = list(source(path, misfits="skip").found())
    assert found[-1].left_out == "broken"
    assert [f.document for f in found[:-1]] == [line.strip() for line in lines][: len(found) - 1]


def test_folders_and_patterns_are_read_in_the_order_of_names(tmp_path, monkeypatch):
    for name, text in [
        ("b.txt", "second"),
        ("a.txt", "first"),
        ("c.jsonl", '{"text": "third"}'),
        (".hidden", ""),
    ]:
        (tmp_path / name).write_text(text)
    assert texts(tmp_path) == ["first", "second", "third"]
    assert texts(tmp_path / "*.txt") == ["first", "second"]
    monkeypatch.chdir(tmp_path)
    assert texts("[bc].*") == ["second", "third"]


def test_identity_is_content_not_place(tmp_path):
    here, there = tmp_path / "here.txt", tmp_path / "there.txt"
    here.write_text("text")
    there.write_text("text")
    assert source(here).recipe(0) == source(there).recipe(1)
    assert fingerprint(source(here).recipe(0)) != fingerprint(source(here, unit="paragraph").recipe(0))
    assert source(here, where={"a": 1}).recipe(0) == source(here, where={"a": [1]}).recipe(0)
    assert hash(source(here, where={"a": 1})) == hash(source(here))
    there.write_text("texts")
    assert source(here).recipe(0) != source(there).recipe(0)


def test_rows_are_kept_by_their_columns(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"{n}", "language": "en" if n % 2 else "de", "score": n} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert texts(path, where={"language": "en"}) == ["1", "3", "5", "7"]
    assert texts(path, where={"language": ["en", "de"]}, at_least={"score": 3}, at_most={"score": 5}) == [
        "3",
        "4",
        "5",
    ]
    left = [found.left_out for found in source(path, where={"language": "de"}).found()]
    assert left == ["", "filter"] * 4


@pytest.mark.parametrize(
    "line, says",
    [
        ("{", "not a JSON object"),
        ("3", "not a JSON object"),
        ('{"other": "x"}', "no column 'text'; there are other"),
        ('{"text": 3}', "'text' holds int 3"),
        ('{"text": "x", "score": "high"}', "'score' holds 'high', not a number"),
        ('{"text": "x", "score": NaN}', "'score' holds 'nan', not a finite number"),
        ('{"text": "x", "score": -Infinity}', "'score' holds '-inf', not a finite number"),
        ('{"text": "x", "score": 1%s}' % ("0" * 400), "'score' holds '100"),
        ("caf\xe9", "not UTF-8 text (byte 4 of the line)"),
        ('{"text": "' + "x" * 3000 + '"}', "a line of more than 2,000 bytes"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_by_its_line_and_left_out_where_the_file_says_so(tmp_path, line, says):
    path = tmp_path / "rows.jsonl"
    good = '{"text": "good", "score": 1}\n'
    path.write_bytes((good + line).encode("latin-1") + b"\n" + good.encode())
    fields = {"at_least": {"score": 0}, "longest": 2000} if "score" in line else {"longest": 2000}
    with pytest.raises(UserError) as error:
        texts(path, **fields)
    assert (
        f"{path}:2: " in str(error.value)
        and says in str(error.value)
        and "misfits = 'skip'" in str(error.value)
    )
    found = list(source(path, misfits="skip", **fields).found())
    assert [f.left_out for f in found] == ["", "misfit", ""]
    assert says in found[1].problem


@pytest.mark.parametrize(
    "schema, line, says",
    [
        (Text(), r'{"text": "bad \ud800 here"}', r"its text has '\ud800', which UTF-8 cannot write"),
        (
            Messages(),
            r'{"messages": [{"role": "assistant", "content": "\udc00"}]}',
            r"its text has '\udc00', which UTF-8 cannot write",
        ),
        (Text(), r'{"\ud800": "x"}', r"no column 'text'; there are \ud800"),
        (Text(), r'{"text": ["\ud800"]}', "'text' holds a list of 1, not text"),
        (Text("\ud800"), r'{"text": "x"}', r"no column '\ud800'; there are text"),
    ],
)
def test_half_a_surrogate_pair_is_told_in_text_that_can_be_written(tmp_path, schema, line, says):
    path = tmp_path / "rows.jsonl"
    path.write_text(line)
    with pytest.raises(UserError) as error:
        texts(path, schema=schema)
    assert f"{path}:1: {says}; mend it" in str(error.value) and str(error.value).encode()
    (found,) = source(path, schema=schema, misfits="skip").found()
    assert found.left_out == "misfit" and found.problem == says
    paired = r'{"text": "\ud83d\ude00"}'  # a whole pair is one character
    path.write_text(paired)
    assert texts(path) == ["😀"]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"text,n\ngood,1\nbad\ngood,1\n", "1 fields, and the first line names 2"),
        (b"text,n\ngood,1\ncaf\xe9,1\ngood,1\n", "not UTF-8 text"),
        (b"text,n\ngood,1\n" + b"x" * 3000 + b",1\ngood,1\n", "field larger than field limit"),
    ],
)
def test_a_bad_row_of_a_csv_file_is_named(tmp_path, content, says):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        texts(path, longest=2000)
    assert f"{path}:3: " in str(error.value) and says in str(error.value)
    found = list(source(path, misfits="skip", longest=2000).found())
    assert [f.left_out for f in found] == ["", "misfit", ""]


def test_a_column_that_is_named_twice_is_no_column(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,n,n,text\none,1,2,two\n")
    with pytest.raises(UserError, match=r"rows\.csv:2: the first line names 'text' more than once"):
        texts(path)
    path.write_text("text,n,n\none,1,2\n")  # nobody reads it
    assert texts(path) == ["one"]


def test_a_long_row_takes_no_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "rows.jsonl"
    with open(path, "w") as file:
        file.write('{"text": "' + "x" * 50_000_000 + '"}\n{"text": "good"}\n')
    tracemalloc.start()
    found = list(source(path, misfits="skip", longest=1_000_000).found())
    assert tracemalloc.get_traced_memory()[1] < 8_000_000
    tracemalloc.stop()
    assert [f.document for f in found] == [None, "good"]
    assert "more than 1,000,000 bytes" in found[0].problem


def test_a_damaged_parquet_file_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": [f"text {i}" for i in range(5000)]}), path, row_group_size=1000)
    content = path.read_bytes()
    path.write_bytes(content[:-50])
    with pytest.raises(UserError, match=r"rows\.parquet: not a whole Parquet file"):
        texts(path)
    pq.write_table(pa.table({"text": ["after it"]}), tmp_path / "s.parquet")
    whole = list(source(tmp_path, misfits="skip").found())
    assert [(f.place, f.left_out) for f in whole] == [
        (str(path), "broken"),
        (f"{tmp_path}/s.parquet row 1", ""),
    ]
    assert list(source(tmp_path, misfits="skip").found(1)) == whole[1:]
    (tmp_path / "s.parquet").unlink()
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"rows\.parquet row 1: no column 'body'; there are text"):
        texts(path, schema=Text("body"))


def test_text_that_is_not_utf_8_in_a_parquet_file_is_one_row(tmp_path):
    path = tmp_path / "rows.parquet"
    column = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.array([0, 3, 7, 10], pa.int32()).buffers()[1], pa.py_buffer(b"onecaf\xe9two")],
    )
    pq.write_table(pa.table({"text": column}), path)
    with pytest.raises(UserError, match=r"rows\.parquet row 2: not UTF-8 text"):
        texts(path)
    found = list(source(path, misfits="skip").found())
    assert [(f.document, f.left_out) for f in found] == [("one", ""), (None, "misfit"), ("two", "")]


def test_a_column_that_a_parquet_file_has_twice_is_none(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(UserError, match=r"rows\.parquet row 1: the file has more than one column 'text'"):
        texts(path)


def test_a_folder_of_several_formats_is_refused_unless_one_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "README.md").write_text("# my data")
    with pytest.raises(Invalid, match=r"several formats: jsonl \(a.jsonl\), text \(README.md\); a pattern"):
        source(tmp_path).recipe(0)
    assert texts(tmp_path / "*.jsonl") == ["a"]


def test_a_parquet_file_broken_inside_is_passed_over_as_it_was_read(tmp_path, monkeypatch):
    monkeypatch.setattr("caml.data.corpora.files.ROWS_AT_ONCE", 4)
    for name in ("a", "b", "c"):
        table = pa.table({"text": [f"{name} {i} {'long' * 50}" for i in range(12)], "n": range(12)})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=6, compression="zstd")
    path = tmp_path / "b.parquet"
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    for at in range(begin + 4, begin + column.total_compressed_size):
        content[at] ^= 0xFF
    path.write_bytes(content)
    whole = list(source(tmp_path, misfits="skip").found())
    broken = [found.place for found in whole if found.left_out]
    assert len(broken) == 1 and "b.parquet, after" in broken[0] and 24 < len(whole) < 36
    for skip in range(len(whole) + 2):  # a store that was stopped anywhere goes on from there
        assert list(source(tmp_path, misfits="skip").found(skip)) == whole[skip:]
    nowhere = source(tmp_path, misfits="skip", schema=Text("body"))
    assert [f.left_out for f in nowhere.found(30)] == ["misfit"] * 6


@given(skip=st.integers(0, 40))
def test_rows_are_passed_over_in_any_format(tmp_path_factory, skip):
    folder = tmp_path_factory.mktemp("skip")
    rows = [{"text": f"{i}"} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet", row_group_size=3)
    (folder / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "c.txt").write_text("\n".join(row["text"] for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), folder / "d.parquet", row_group_size=4)
    whole = list(source(folder).found())
    assert len(whole) == 40 and [f.document for f in whole] == [f"{i}" for i in range(10)] * 4
    assert list(source(folder).found(skip)) == whole[skip:]


def test_the_mark_of_a_byte_order_is_no_text(tmp_path):
    path = tmp_path / "marked.txt"
    path.write_text("a line", encoding="utf-8-sig")
    assert texts(path) == ["a line"]


def test_files_that_are_not_there_are_the_users_mistake(tmp_path):
    with pytest.raises(Invalid, match=r"path: .*does not exist"):
        source(tmp_path / "gone.txt").recipe(0)
    with pytest.raises(Failure, match="does not exist"):
        texts(tmp_path / "gone.txt")
    with pytest.raises(Invalid, match=r"path: no file has a name like"):
        source(tmp_path / "*.jsonl").recipe(0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match=r"path: .*no files"):
        source(tmp_path / "empty").recipe(0)
    (tmp_path / "what.dat").write_text("x")
    with pytest.raises(Invalid, match=r"path: the format of .*what\.dat is not told"):
        source(tmp_path / "what.dat").recipe(0)
    assert texts(tmp_path / "what.dat", format="text") == ["x"]


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": -1},
        {"repetition": 0.0},
        {"unit": "word"},
        {"format": "xml"},
        {"misfits": "drop"},
        {"longest": 0},
        {"longest": 1 << 70},
    ],
)
def test_impossible_fields_are_refused(tmp_path, change):
    with pytest.raises(Invalid, match=next(iter(change))):
        dataclasses.replace(source(tmp_path), **change)


def test_a_row_that_is_nested_too_deeply_is_no_object(tmp_path):
    (tmp_path / "deep.jsonl").write_text("[" * 200_000 + "\n" + '{"text": "whole"}\n')
    corpus = Files(name="deep", path=str(tmp_path / "deep.jsonl"), misfits="skip")
    assert list(corpus.documents(0)) == ["whole"]
    assert next(found.problem for found in corpus.found()) == "not a JSON object on one line"
