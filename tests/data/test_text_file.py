"""Local text files: how they are cut into documents, and what identifies them."""

import dataclasses
import json

import pytest

from caml.config.errors import Failure, Invalid, UserError
from caml.config.fingerprint import fingerprint
from caml.data.sources import TextFile


def source(path, **fields):
    return TextFile(name="local", tokens=100, path=str(path), **fields)


def test_lines_paragraphs_and_rows(tmp_path):
    text, rows = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("one\ntwo\n\n \nthree\n")
    talk = [{"role": "user", "content": "hi"}]
    rows.write_text("\n".join(json.dumps({"body": body}) for body in ("four", "", talk)))
    assert list(source(text).documents(0)) == ["one", "two", "three"]
    assert list(source(text, unit="paragraph").documents(0)) == ["one\ntwo", "three"]
    assert list(source(rows, unit="row", column="body").documents(0)) == ["four", talk]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, text in [("b.txt", "second"), ("a.txt", "first")]:
        (tmp_path / name).write_text(text)
    assert list(source(tmp_path).documents(0)) == ["first", "second"]


def test_identity_is_content_not_place(tmp_path):
    here, there = tmp_path / "here.txt", tmp_path / "there.txt"
    here.write_text("text")
    there.write_text("text")
    assert source(here).recipe(0) == source(there).recipe(1)
    assert fingerprint(source(here)) == fingerprint(source(there))
    there.write_text("texts")
    assert source(here).recipe(0) != source(there).recipe(0)
    assert source(here).recipe(0) != source(here, unit="paragraph").recipe(0)


@pytest.mark.parametrize(
    "line", ["{", "3", '{"other": "x"}', '{"text": 3}', '{"text": [{"role": "user"}]}'], ids=range(5)
)
def test_a_bad_row_is_named_by_its_line(tmp_path, line):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n' + line)
    with pytest.raises(UserError, match=rf"{path}:2: "):
        list(source(path, unit="row").documents(0))


def test_what_is_not_text_is_refused(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"caf\xe9 text")
    with pytest.raises(UserError, match="not UTF-8"):
        list(source(path).documents(0))
    with pytest.raises(Invalid, match=r"path: .*does not exist"):
        source(tmp_path / "gone.txt").recipe(0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match=r"path: .*no files"):
        source(tmp_path / "empty").recipe(0)
    with pytest.raises(Failure, match="does not exist"):
        list(source(tmp_path / "gone.txt").documents(0))


def test_the_mark_of_a_byte_order_is_no_text(tmp_path):
    path = tmp_path / "marked.txt"
    path.write_text("a line", encoding="utf-8-sig")
    assert list(source(path).documents(0)) == ["a line"]


@pytest.mark.parametrize("change", [{"tokens": 0}, {"repetition": 0.0}, {"unit": "word"}])
def test_impossible_fields_are_refused(tmp_path, change):
    with pytest.raises(Invalid, match=next(iter(change))):
        dataclasses.replace(source(tmp_path), **change)
