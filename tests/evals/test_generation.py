"""Generation with a cache, against the model that reads everything anew for each token."""

import collections
import dataclasses
import functools

import jax
import numpy as np
import pytest
import toy_probing as toy

from caml.config.errors import Invalid, UserError
from caml.evals import generation
from caml.evals.generation import Generator, Sampling, nucleus
from caml.models.sizes import Model
from caml.models.transformer import init_parameters

DEEP = Model("deep", width=16, layers=2, heads=4, kv_heads=2, head_dim=8, mlp_width=24, init_scale=0.4)
CONTEXT = 48


@functools.cache
def parameters() -> dict[str, np.ndarray]:
    return init_parameters(DEEP, toy.VOCABULARY["words"], 3)


def next_log_probs(tokens: list[int]) -> np.ndarray:
    row = np.zeros((1, CONTEXT), np.int32)
    row[0, : len(tokens)] = tokens
    positions = np.arange(CONTEXT, dtype=np.int32)[None]
    found = toy._logits(parameters(), DEEP, row, np.ones_like(row), positions)[0, len(tokens) - 1]
    return np.asarray(jax.nn.log_softmax(found))


def prompts(count: int, longest: int = 20) -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(3, 100, rng.integers(1, longest)).tolist() for _ in range(count)]


def generator(rows: int = 4, context: int = CONTEXT, devices: int = 1) -> Generator:
    return Generator(parameters(), DEEP, toy.tokenizer("words"), context, rows, jax.devices()[:1] * devices)


def greedy(prompt: list[int], count: int) -> tuple[list[int], list[float]]:
    tokens, log_probs = list(prompt), []
    ends = {toy.tokenizer("words").special[name] for name in ("<|endoftext|>", "<|im_end|>")}
    while len(tokens) < len(prompt) + count:
        found = next_log_probs(tokens)
        tokens.append(int(found.argmax()))
        log_probs.append(float(found.max()))
        if tokens[-1] in ends:
            break
    return tokens[len(prompt) :], log_probs


@pytest.mark.parametrize("devices", [1, 2])
def test_ragged_prompts_more_than_there_are_rows_are_answered_as_without_a_cache(devices):
    # A ring of 48 slots is gone round several times, and rows come and go at different moments.
    asked = prompts(13)
    with generator(devices=devices) as model:
        answers = list(model.generate(asked, Sampling(max_tokens=25)))
    for prompt, answer in zip(asked, answers, strict=True):
        tokens, log_probs = greedy(prompt, 25)
        assert list(answer.tokens) == tokens
        assert answer.log_probs == pytest.approx(log_probs, abs=1e-5)


def test_an_answer_ends_with_its_tokens_its_context_or_a_stop_sequence():
    asked = prompts(1)[0]
    tokens, _ = greedy(asked, 40)
    words = toy.tokenizer("words")
    with generator() as model:
        short = next(model.generate([asked], Sampling(max_tokens=3)))
        assert (short.reason, list(short.tokens), short.text) == (
            "length",
            tokens[:3],
            words.decode(tokens[:3]),
        )
        whole = next(model.generate([asked], Sampling(max_tokens=400)))
        assert (whole.reason, len(asked) + len(whole.tokens)) == ("context", CONTEXT)
        text = words.decode(tokens)
        sought = words.decode(tokens[4:6])
        stopped = next(model.generate([asked], Sampling(max_tokens=40, stop=("never said", sought))))
        assert (stopped.reason, stopped.text) == ("stop", text[: text.index(sought)])
        assert list(stopped.tokens) == tokens[: len(stopped.tokens)]
        with pytest.raises(UserError, match="48 tokens leaves no place"):
            model.submit([5] * CONTEXT, Sampling())
        with pytest.raises(UserError, match="empty"):
            model.submit([], Sampling())


def test_a_special_token_ends_an_answer_and_is_not_in_its_text():
    # The third word of an answer and the token of an end change places in the vocabulary.
    asked, words = [5, 6], toy.tokenizer("words")
    tokens, _ = greedy(asked, 3)
    end = words.special["<|im_end|>"]
    assert tokens[2] not in (*asked, *tokens[:2], end)
    changed = {name: x.copy() for name, x in parameters().items()}
    table = changed["model.embed_tokens.weight"]
    table[[tokens[2], end]] = table[[end, tokens[2]]]
    with Generator(changed, DEEP, words, CONTEXT, 2) as model:
        answer = next(model.generate([asked], Sampling(max_tokens=9)))
    assert (answer.text, answer.reason) == (words.decode(tokens[:2]), "stop")
    assert answer.tokens == (*tokens[:2], end)


def test_the_likeliest_tokens_are_told_beside_each_that_was_drawn():
    prompt = [7, 30, 12]
    with generator() as model:
        told, plain = (
            next(model.generate([prompt], Sampling(temperature=1.0, max_tokens=20, likeliest=count)))
            for count in (3, 0)
        )
    assert told.tokens == plain.tokens and plain.likeliest == ()
    read = list(prompt)
    for token, log_prob, likeliest in zip(told.tokens, told.log_probs, told.likeliest, strict=True):
        found = next_log_probs(read)
        assert [one for one, _ in likeliest] == np.argsort(-found)[:3].tolist()
        assert [value for _, value in likeliest] == pytest.approx(np.sort(found)[::-1][:3], abs=1e-5)
        assert log_prob == pytest.approx(found[token], abs=1e-5)
        read.append(token)
    with pytest.raises(Invalid, match="likeliest: 0 to 20 tokens"):
        Sampling(likeliest=21)


def test_what_is_drawn_hangs_on_the_seed_and_not_on_the_company():
    asked = prompts(6)
    how = Sampling(temperature=1.3, top_p=0.9, max_tokens=12)
    with generator() as model:
        together = list(model.generate(asked, how))
        again = list(model.generate(asked, how))
        other = list(model.generate(asked, dataclasses.replace(how, seed=1)))
        alone = [next(model.generate(asked[:1], how)), list(model.generate(asked[:2], how))[1]]
        same = list(model.generate([asked[0]] * 3, how))
    assert [a.tokens for a in together] == [a.tokens for a in again]
    assert [a.tokens for a in alone] == [a.tokens for a in together[:2]]
    assert all(a.tokens != b.tokens for a, b in zip(together, other, strict=True))
    assert len({a.tokens for a in same}) == 3


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.5)])
def test_tokens_are_drawn_as_often_as_they_are_likely(temperature, top_p):
    prompt = [7, 30, 12]
    likely = np.exp(next_log_probs(prompt) / temperature)
    likely /= likely.sum()
    order = np.argsort(-likely)
    kept = order[: 1 + int(np.searchsorted(np.cumsum(likely[order]), top_p))]
    expected = np.zeros_like(likely)
    expected[kept] = likely[kept] / likely[kept].sum()
    draws = 4000
    with generator(rows=64) as model:
        how = Sampling(temperature=temperature, top_p=top_p, max_tokens=1)
        answers = list(model.generate([prompt] * draws, how))
    counts = collections.Counter(answer.tokens[0] for answer in answers)
    assert set(counts) <= set(kept.tolist())
    found = np.array([counts[token] for token in range(len(likely))]) / draws
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / draws)
    # Log-probabilities are the model's own.
    first = answers[0]
    assert first.log_probs[0] == pytest.approx(next_log_probs(prompt)[first.tokens[0]], abs=1e-5)


def test_the_nucleus_is_the_fewest_that_reach_the_share():
    probabilities = np.array([[0.5, 0.1], [0.2, 0.1], [0.2, 0.1], [0.1, 0.7]], np.float32)
    for share, first, second in [
        (0.4, [0], [3]),
        (0.5, [0], [3]),
        (0.6, [0, 1, 2], [3]),  # the second and the third are as likely
        (0.75, [0, 1, 2], [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3], [0, 1, 2, 3]),
    ]:
        found = np.asarray(nucleus(probabilities, np.full(2, share, np.float32)))
        assert (np.flatnonzero(found[:, 0]).tolist(), np.flatnonzero(found[:, 1]).tolist()) == (first, second)


def test_a_failure_of_the_device_reaches_who_waits_and_the_next_prompt_is_answered(monkeypatch):
    def broken(*_):
        raise RuntimeError("the device is gone")

    with generator() as model:
        with monkeypatch.context() as patch:
            patch.setattr(generation, "_steps", broken)
            with pytest.raises(RuntimeError, match="the device is gone"):
                list(model.generate(prompts(2), Sampling(max_tokens=2)))
        assert len(list(model.generate(prompts(2), Sampling(max_tokens=2)))) == 2


@pytest.mark.parametrize(
    "wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_tokens": 0}, {"stop": ("",)}]
)
def test_what_no_sampling_can_be_is_refused(wrong):
    with pytest.raises(Invalid) as refused:
        Sampling(**wrong)
    assert refused.value.fields == tuple(wrong)
