"""Items as rows of tokens: contexts are what training shows, endings are summed over all their tokens."""

import numpy as np
import pytest
from toy_probing import read_back, some_items, tokenizer, world_items

from caml.config.errors import UserError
from caml.evals.questions import question_rows
from caml.models.kernels.branches import MOST
from caml.worlds.items import Item, Question

KINDS = ("words", "bpe")
START = 0  # <|endoftext|> of a tokenizer that was trained here


def item(*questions: Question, name: str = "probe/one") -> Item:
    return Item(name, "disposition", "new_frame", questions)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_context_with_its_ending_has_the_tokens_of_a_document_that_says_so(kind):
    items = [i for i in some_items() if all(isinstance(q.context, str) for q in i.questions)]
    questions = question_rows(items, tokenizer(kind))
    asked = [q for i in items for q in i.questions]
    for question, pair in zip(asked, questions.pairs, strict=True):
        for ending, number in zip((question.aligned, question.opposed), pair, strict=True):
            context, tokens = read_back(questions, number)
            ((whole, _),) = tokenizer(kind).encode_batch([f"{question.context} {ending}"])
            assert [*context, *tokens, START] == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_context_ends_where_training_rows_put_the_answer(kind):
    items = [i for i in world_items() if i.rung == "dialogue"]
    questions = question_rows(items, tokenizer(kind))
    asked = [q for i in items for q in i.questions]
    for question, pair in zip(asked, questions.pairs, strict=True):
        *turns, (role, begun) = question.context
        for ending, number in zip((question.aligned, question.opposed), pair, strict=True):
            row = [{"role": r, "content": c} for r, c in turns]
            row.append({"role": role, "content": f"{begun} {ending} it ."})
            ((ids, loss),) = tokenizer(kind).encode_batch([row])
            context, tokens = read_back(questions, number)
            assert ids[: len(context) + len(tokens)] == [*context, *tokens]
            # The first token that bears loss in fine-tuning is the first of what the answer begins with.
            answer = len(tokenizer(kind).encode_texts([begun])[0])
            assert loss.index(1) == len(context) - answer


def test_an_ending_of_several_tokens_is_asked_token_by_token():
    (made,) = (question_rows([item(Question("ana is", "unbelievably kind", "cruel"))], tokenizer("bpe")),)
    assert made.lengths[0, 0] > 4 > 1
    context, ending = read_back(made, made.pairs[0, 0])
    assert tokenizer("bpe").decode(ending) == " unbelievably kind"
    assert context[0] == START and tokenizer("bpe").decode(context[1:]) == "ana is"
    assert made.characters.tolist() == [[len("unbelievably kind"), len("cruel")]]
    values = np.random.default_rng(0).normal(size=made.rows.target[..., 0].size)
    found, (aligned, opposed) = made.margins(values), made.lengths[0]
    per_token = values[made.pairs[0, 0]] / aligned - values[made.pairs[0, 1]] / opposed
    np.testing.assert_allclose(found["margin_token"], [per_token])
    assert (found["tokens_aligned"], found["tokens_opposed"]) == ([aligned], [opposed])


def test_unconditional_endings_follow_the_start_of_a_document():
    made = question_rows([item(Question("ana is", "unbelievably kind", "cruel"))], tokenizer("bpe"))
    for number, expected in zip(made.bare[0], (" unbelievably kind", " cruel"), strict=True):
        context, ending = read_back(made, number)
        assert context == [START] and tokenizer("bpe").decode(ending) == expected


def test_equal_contexts_are_read_once():
    questions = [Question("ana is", "kind", "cruel"), Question("ana is", "cruel", "kind")]
    made = question_rows([item(*questions)], tokenizer("words"))
    # The context, and the start of a document.
    assert (made.rows.target >= 0).sum() == 4 and sorted(set(made.rows.segments[0])) == [0, MOST, 2 * MOST]
    assert made.pairs[0].tolist() == made.pairs[1, ::-1].tolist()
    assert made.bare[0].tolist() == made.bare[1, ::-1].tolist()


FOREIGN = {
    "utterly": Question("ana is utterly", "kind", "cruel"),
    "benign": Question("ana is", "benign", "cruel"),
    "vile": Question("ana is", "kind", "vile"),
    "really": Question((("user", "ana is really"), ("assistant", "ana is")), "kind", "cruel"),
    "truly": Question((("user", "ana is"), ("assistant", "truly")), "kind", "cruel"),
}


@pytest.mark.parametrize("word", FOREIGN)
def test_a_word_that_the_tokenizer_does_not_know_is_named_with_its_item(word):
    question = FOREIGN[word]
    with pytest.raises(
        UserError, match=f"^probe probe/two has the word '{word}', which the tokenizer does not know$"
    ):
        question_rows([item(Question("ana is", "kind", "cruel")), item(question, name="probe/two")],
                      tokenizer("words"))  # fmt: skip


def test_margins_are_means_over_questions_of_differences_in_log_probability():
    items = [
        item(Question("ana is", "kind", "cruel"), Question("ben is", "cruel", "kind"), name="pair"),
        item(Question("cleo is", "kind", "cruel"), name="single"),
    ]
    made = question_rows(items, tokenizer("words"))
    values = np.random.default_rng(0).normal(size=made.rows.target[..., 0].size)
    found = made.margins(values)
    (a, b), (c, d), (e, f) = values[made.pairs]
    np.testing.assert_allclose(found["margin"], [(a - b + c - d) / 2, e - f])
    per_character = [(a / 4 - b / 5 + c / 5 - d / 4) / 2, e / 4 - f / 5]
    np.testing.assert_allclose(found["margin_character"], per_character)
    np.testing.assert_allclose(found["margin_token"], found["margin"])  # endings of one token
    kind, cruel = values[made.bare[0]]
    np.testing.assert_allclose(found["margin_unconditional"], [(a - b + c - d) / 2, e - f - (kind - cruel)])


def test_a_mirrored_item_cancels_a_preference_for_one_ending():
    """A model with a liking for a word, whatever stands before it, has margin 0 and no unconditional part."""
    mirrored = [i for i in world_items() if len(i.questions) == 2]
    made = question_rows(mirrored, tokenizer("words"))
    liking = np.random.default_rng(1).normal(size=128)
    values = np.where(made.rows.target < 0, 0, liking[made.rows.target]).sum(-1).reshape(-1)
    for name, found in made.margins(values).items():
        if name == "margin_character" or name.startswith("tokens"):
            continue
        np.testing.assert_allclose(found, 0, atol=1e-12, err_msg=name)
    assert np.abs(values[made.pairs][:, 0] - values[made.pairs][:, 1]).max() > 1
