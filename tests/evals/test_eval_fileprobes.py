"""A researcher's own items: what a file may say, and what is said of one that can't be."""

import json
from pathlib import Path

import pytest
from toy_probing import read_back, tokenizer

from caml.config.errors import Invalid, UserError
from caml.data.corpora.files import Files
from caml.evals.fileprobes import FileProbes, Items
from caml.evals.questions import question_rows

ASK = [{"role": "user", "content": "ana is cold ?"}]
PAIR = [
    {"pair": 1, "context": "ana is", "aligned": "kind", "opposed": "cruel", "tags": {"kind": "dog"}},
    {"pair": 1, "context": "ben is ", "aligned": "cruel", "opposed": "kind"},
]


def written(folder: Path, *rows: object, **fields: str) -> Items:
    path = folder / "items.jsonl"
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    )
    return Items("mine", str(path), **fields)


def test_pairs_are_one_item_and_other_lines_each_their_own(tmp_path):
    alone = {"context": ASK, "aligned": "warm her", "opposed": "leave\u2028her"}
    pair, single = written(tmp_path, *PAIR, "", alone, rung="care").items()
    assert pair.name == "disposition/care/mine/pair_1" and single.name == "disposition/care/mine/line_4"
    assert [q.context for q in pair.questions] == ["ana is", "ben is"] and pair.tags == {"kind": "dog"}
    (turned,) = written(tmp_path, *reversed(PAIR), rung="care").items()
    assert turned.tags == {"kind": "dog"}  # whichever half says them
    assert single.questions[0].context == (("user", "ana is cold ?"), ("assistant", ""))
    assert single.questions[0].opposed == "leave\u2028her"


def test_an_answer_that_is_to_begin_begins_as_in_training(tmp_path):
    begun = [*ASK, {"role": "assistant", "content": "ana"}]
    items = [
        item
        for context in (ASK, begun)
        for item in written(
            tmp_path, {"context": context, "aligned": "is kind", "opposed": "is cruel"}
        ).items()
    ]
    made = question_rows(items, tokenizer("bpe"))
    for item, answer, pair in zip(items, ("is kind", "ana is kind"), made.pairs, strict=True):
        ((ids, _),) = tokenizer("bpe").encode_batch([[*ASK, {"role": "assistant", "content": answer}]])
        context, ending = read_back(made, pair[0])
        read = [*context, *ending]
        assert ids[: len(read)] == read, item.name


@pytest.mark.parametrize(
    "rows, says",
    [
        (["{"], ":1: not a JSON object"),
        (['{"context": ' + "[" * 200_000], ":1: not a JSON object"),
        (
            [r'{"context": "x", "aligned": "\ud800", "opposed": "b"}'],
            r":1: its text has '\ud800', which UTF-8 cannot write",
        ),
        (
            [r'{"context": "x", "aligned": "a", "opposed": "b", "tags": {"\ud800": "b"}}'],
            r":1: its text has '\ud800', which UTF-8 cannot write",
        ),
        ([{"context": "x", "aligned": "a"}], ":1: no field 'opposed'"),
        ([PAIR[0], PAIR[1], {**PAIR[0], "context": "y"}], ":3: the pair '1' has two questions already"),
        (["", PAIR[0]], ":2: the pair '1' has one question"),
        (
            [PAIR[0], {**PAIR[1], "tags": {"kind": "cat"}}],
            ":2: 'tags' of the pair '1' are {'kind': 'dog'} in its other half",
        ),
        (
            [{**PAIR[0], "tag": "dog"}],
            ":1: the field 'tag' is not known; a question has context, aligned, opposed, and",
        ),
        ([{"context": "x", "aligned": "a", "opposed": "a "}], ":1: 'aligned' and 'opposed' are the same"),
        ([{"context": " ", "aligned": "a", "opposed": "b"}], ":1: 'context' is empty"),
        (
            [{"context": [{"role": "judge", "content": "x"}], "aligned": "a", "opposed": "b"}],
            ":1: 'context' has the role",
        ),
        ([{"context": "x", "aligned": "a", "opposed": "b", "tags": ["x"]}], ":1: 'tags' is not a dictionary"),
        ([""], " has no questions"),
    ],
)
def test_a_question_that_cannot_be_is_named_by_its_line(tmp_path, rows, says):
    with pytest.raises(UserError) as error:
        written(tmp_path, *rows).items()
    assert f"items.jsonl{says}" in str(error.value)


def test_identity_is_the_content_of_the_file(tmp_path):
    items = written(tmp_path, *PAIR)
    before = items.recipe(0)
    (tmp_path / "moved").mkdir()
    moved = written(tmp_path / "moved", *PAIR)
    assert moved.recipe(1) == before
    written(tmp_path, *PAIR, {"context": "x", "aligned": "a", "opposed": "b"})
    assert items.recipe(0) != before
    with pytest.raises(Invalid, match=r"path: .*does not exist"):
        Items("mine", str(tmp_path / "gone.jsonl")).recipe(0)
    with pytest.raises(Invalid, match=r"path: .*moved is a folder"):
        Items("mine", str(tmp_path / "moved")).recipe(0)
    held_out = Files(name="held_out", path=str(tmp_path / "items.jsonl"), format="text")
    with pytest.raises(Invalid, match="sets"):
        FileProbes((items, moved), held_out)
    assert len(FileProbes((items,), held_out).items(3)) == 2


def test_the_texts_that_corpora_are_kept_apart_from_hold_both_endings(tmp_path):
    assert set(written(tmp_path, *PAIR).texts()) == {
        "ana is kind",
        "ana is cruel",
        "ben is kind",
        "ben is cruel",
    }
