"""The tokenizers: one token per word, bytes without loss, reserved tokens that no text can forge."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_corpora import TOKENIZER, TRAINED, WORDS, Toy

from caml.config.errors import Failure, Invalid, UserError
from caml.data.chat import TEMPLATE_WORDS
from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TrainedTokenizer, prepare_tokenizer, tokenizer_folder, train_tokenizer

BYTES = train_tokenizer(TrainedTokenizer("bpe", 300, Toy()))
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TALK = [{"role": "user", "content": "word1 word2"}, {"role": "assistant", "content": "word3"}]


def test_special_tokens_have_the_first_ids():
    for tokenizer in (TOKENIZER, BYTES):
        assert tokenizer.decode([0, 1, 2]).replace(" ", "") == "".join(SPECIAL)


@given(st.lists(st.lists(st.sampled_from(WORDS + list(TEMPLATE_WORDS)), max_size=12), max_size=8))
def test_each_word_is_one_token(documents):
    texts = [" ".join(words) for words in documents]
    for words, text, ids in zip(documents, texts, TOKENIZER.encode_texts(texts), strict=True):
        assert len(ids) == len(words) and TOKENIZER.decode(ids) == text
        assert TOKENIZER.unknown not in ids


@given(st.lists(st.text(), max_size=5))
def test_bytes_lose_nothing(texts):
    assert [BYTES.decode(ids) for ids in BYTES.encode_texts(texts)] == texts


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["words", "bpe"])
@pytest.mark.parametrize("special", SPECIAL)
def test_text_cannot_forge_a_special_token(tokenizer, special):
    (ids,) = tokenizer.encode_texts([f"word1 {special} word2{special}"])
    assert min(ids) > 2
    content = {"role": "user", "content": f"word1 {special} word2"}
    (forged, _), (honest, _) = tokenizer.encode_batch([[content], [{**content, "content": "word1"}]])
    assert [i for i in forged if i < 3] == [i for i in honest if i < 3]


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["words", "bpe"])
def test_a_text_document_stands_between_ends_of_text_and_bears_loss(tokenizer):
    (ids, loss) = tokenizer.encode_batch(["word1 word2"])[0]
    assert ids == [0, *tokenizer.encode_texts(["word1 word2"])[0], 0]
    assert loss == [0] + [1] * (len(ids) - 1)


@pytest.mark.parametrize("tokenizer", [TOKENIZER, BYTES], ids=["words", "bpe"])
@pytest.mark.parametrize("template", ["chatml", "plain"])
def test_a_conversation_bears_loss_on_answers_and_begins_as_its_prompt(tokenizer, template):
    ids, loss = tokenizer.encode_batch(["word1", TALK, "word2"], template)[1]
    answer = tokenizer.decode([i for i, bears in zip(ids, loss, strict=True) if bears])
    assert answer.replace(" ", "") == "word3" + {"chatml": "<|im_end|>", "plain": "<|endoftext|>"}[template]
    asked = tokenizer.encode_prompt(TALK[:1], template)
    assert ids[0] == 0 and ids[: len(asked)] == asked and not any(loss[: len(asked)])


def test_documents_are_encoded_alike_in_any_company():
    documents = ["word1", TALK, "word2 word3", "", "unheard"]
    together = TOKENIZER.encode_batch(documents)
    assert together == [TOKENIZER.encode_batch([document])[0] for document in documents]
    assert TOKENIZER.unknown in together[-1][0]


def test_the_vocabulary_must_hold_every_word():
    with pytest.raises(UserError, match=r"40 words of toy .* at least 50"):
        train_tokenizer(dataclasses.replace(TRAINED, vocabulary=49))
    assert train_tokenizer(dataclasses.replace(TRAINED, vocabulary=50)).size == 50
    with pytest.raises(Invalid, match="vocabulary"):
        dataclasses.replace(TRAINED, kind="bpe", vocabulary=100)
    with pytest.raises(Invalid, match="kind"):
        dataclasses.replace(TRAINED, kind="letters")


def test_training_twice_and_loading_give_the_same(tmp_path):
    for tokenizer, trained in [(TOKENIZER, TRAINED), (BYTES, TrainedTokenizer("bpe", 300, Toy()))]:
        tokenizer.save(tmp_path / "tokenizer.json")
        loaded = Tokenizer.load(tmp_path / "tokenizer.json")
        assert tokenizer.digest == loaded.digest == train_tokenizer(trained).digest
        assert loaded.encode_batch([TALK, "word1 <|im_end|>"]) == tokenizer.encode_batch(
            [TALK, "word1 <|im_end|>"]
        )


def test_a_prepared_tokenizer_is_trained_once_and_checked(tmp_path):
    first = prepare_tokenizer(tmp_path, TRAINED)
    folder = tokenizer_folder(tmp_path, TRAINED)
    written = (folder / "tokenizer.json").stat().st_mtime_ns
    assert prepare_tokenizer(tmp_path, TRAINED).digest == first.digest
    assert (folder / "tokenizer.json").stat().st_mtime_ns == written
    content = (folder / "tokenizer.json").read_bytes()
    for damaged in (content[:-20], content.replace(b"word1", b"word7", 1), None):
        (folder / "tokenizer.json").unlink()
        if damaged:
            (folder / "tokenizer.json").write_bytes(damaged)
        with pytest.raises(Failure, match=r"tokenizer\.json .* delete"):
            prepare_tokenizer(tmp_path, TRAINED)
        (folder / "tokenizer.json").write_bytes(content)
