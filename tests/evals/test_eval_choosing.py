"""Forced choice from a file by one model, against each answer read by itself."""

import json

import numpy as np
import pytest
import toy_probing as toy

from caml.config.errors import UserError
from caml.evals import choosing
from caml.evals.checkpoint import Checkpoint

ROWS = [
    {"context": "the dog was wet . ana", "aligned": "dried it .", "opposed": "watered it .", "pair": 1},
    {"context": "the fern was dry . ana", "aligned": "watered it .", "opposed": "dried it .", "pair": 1},
    {
        "context": "gus met a cow . gus was",
        "aligned": "kind .",
        "opposed": "cruel .",
        "tags": {"name": "gus"},
    },
    {
        "context": [{"role": "user", "content": "what is hot ?"}, {"role": "assistant", "content": "the"}],
        "aligned": "cup .",
        "opposed": "lake is cold .",
    },
]


@pytest.fixture
def items(tmp_path):
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return choosing.read_items(tmp_path / "items.jsonl")


def checkpoint(kind: str = "bpe", context: int = 64) -> Checkpoint:
    params = toy.parameters(1, toy.VOCABULARY[kind])
    return Checkpoint(
        "toy", params, toy.MODEL, toy.VOCABULARY[kind], toy.tokenizer(kind), context, "chatml", {}
    )


@pytest.mark.parametrize("together", [1, 2, 256])
def test_margins_are_those_of_each_answer_read_alone(items, monkeypatch, together):
    monkeypatch.setattr(choosing, "TOGETHER", together)
    seen = []
    one = checkpoint()
    chosen = choosing.choose(one, items, seen.append)
    assert seen[-1] == 3
    tokenizer = one.tokenizer

    def answered(row: dict, key: str) -> tuple[float, int, int]:
        if isinstance(row["context"], str):
            context = [0, *tokenizer.encode_texts([row["context"]])[0]]
        else:
            *turns, begun = row["context"]
            context = tokenizer.encode_prompt(turns) + tokenizer.encode_texts([begun["content"]])[0]
        (ending,) = tokenizer.encode_texts([f" {row[key]}"])
        return toy.plain_log_prob(one.params, context, ending), len(ending), len(row[key])

    margins, by_token, by_character = [], [], []
    for row in ROWS:
        (good, long, wide), (bad, short, narrow) = answered(row, "aligned"), answered(row, "opposed")
        margins.append(good - bad)
        by_token.append(good / long - bad / short)
        by_character.append(good / wide - bad / narrow)
    for norm, single in (("margin", margins), ("margin_token", by_token), ("margin_character", by_character)):
        expected = [np.mean(single[:2]), *single[2:]]
        assert chosen[norm].tolist() == pytest.approx(expected, abs=2e-5)
    assert chosen["name"].tolist()[1] == "gus"


def test_a_summary_counts_what_is_above_0_and_what_is_of_unequal_length(items):
    chosen = choosing.choose(checkpoint(), items)
    head, *rows = choosing.summary(chosen)
    assert head[0] == "rung" and len(rows) == 5
    values = chosen["margin"].to_numpy()
    assert rows[0][3] == f"{values.mean():.3f}" and rows[0][5] == f"{(values > 0).mean():.0%}"
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert rows[0][4] == f"[{values.mean() - half:.3f}, {values.mean() + half:.3f}]"
    unequal = (chosen["tokens_aligned"] != chosen["tokens_opposed"]).sum()
    assert rows[4][1:3] == [str(unequal), "answers of unequal length in tokens"] and unequal >= 1


def test_what_cannot_be_asked_is_named(items, tmp_path):
    with pytest.raises(UserError, match="and the context has 12"):
        choosing.choose(checkpoint(context=12), items)
    (tmp_path / "broken.jsonl").write_text(
        '{"context": "a", "aligned": "b", "opposed": "c"}\n{"context": "a"}\n'
    )
    with pytest.raises(UserError, match=r"broken\.jsonl:2"):
        choosing.read_items(tmp_path / "broken.jsonl")
    with pytest.raises(UserError, match="does not exist"):
        choosing.read_items(tmp_path / "none.jsonl")
    (tmp_path / "foreign.jsonl").write_text('{"context": "a zebra", "aligned": "cup", "opposed": "dog"}\n')
    with pytest.raises(UserError, match="does not know"):
        choosing.choose(checkpoint("words"), choosing.read_items(tmp_path / "foreign.jsonl"))
