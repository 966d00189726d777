"""Scores of a population against plain code, one row at a time."""

import functools
import itertools
import re
from typing import Any

import jax
import numpy as np
import pytest
from toy_probing import (
    MODEL,
    VOCABULARY,
    next_log_probs,
    parameters,
    plain_log_prob,
    read_back,
    some_items,
    stacked,
    tokenizer,
)

from caml.data.mixture import Batch
from caml.evals import scoring
from caml.evals.questions import Questions, Rows, question_rows
from caml.models import attention, pieces
from caml.training.mesh import member_mesh
from caml.worlds.items import Item, Question


def score(questions: list[Questions], members: list[dict], parents: list[dict] | None = None, held_out=None):
    rows = Rows(*(np.stack(parts) for parts in zip(*(q.rows for q in questions), strict=True)))
    if held_out is not None:
        held_out = Batch(*(np.stack([part] * len(members)) for part in held_out))
    return scoring.build(MODEL, member_mesh())(
        stacked(*members), stacked(*(parents or members)), rows, held_out
    )


def packed_batch(seed: int = 0) -> Batch:
    """Three sequences of three documents each, with padding; the last target of each document has no weight."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, 128, (3, 24)).astype(np.int32)
    segments = np.zeros((3, 24), np.int32)
    positions = np.zeros((3, 24), np.int32)
    weights = np.zeros((3, 24), np.float32)
    for row, cuts in enumerate(([0, 7, 15, 22], [0, 3, 4, 24], [0, 10, 12, 17])):
        for number, (begin, end) in enumerate(itertools.pairwise(cuts), start=1):
            segments[row, begin:end] = number
            positions[row, begin:end] = np.arange(end - begin)
            weights[row, begin : end - 1] = 1
        tokens[row, cuts[-1] :] = 0
    return Batch(tokens, segments, positions, weights)


@pytest.mark.parametrize("kind", ["words", "bpe"])
def test_log_probabilities_are_those_of_one_context_at_a_time(kind):
    items = some_items() if kind == "words" else [
        Item("a", "avowal", "", (Question("ana is", "unbelievably kind", "cruel"),)),
        Item("b", "avowal", "", (Question((("user", "what now ?"), ("assistant", "ben")), "warmed", "went away"),)),
    ]  # fmt: skip
    questions = question_rows(items, tokenizer(kind))
    params = parameters(3, VOCABULARY[kind])
    found = score([questions], [params])["log_probs"][0]
    numbers = np.unique(np.concatenate([questions.pairs, questions.bare]))
    for number in numbers[:: max(1, len(numbers) // 24)]:
        assert found[number] == pytest.approx(plain_log_prob(params, *read_back(questions, number)), abs=2e-5)
    if kind == "bpe":
        assert questions.lengths.max() > 4


def test_a_members_scores_depend_neither_on_company_nor_on_order_nor_on_the_number_of_devices():
    questions, batch = question_rows(some_items()[:6], tokenizer("words")), packed_batch()
    members = [parameters(seed) for seed in range(5)]
    parents = [parameters(seed + 10) for seed in range(5)]

    def of(order: list[int]):
        return score(
            [questions] * len(order), [members[m] for m in order], [parents[m] for m in order], batch
        )

    together, turned, alone = of([0, 1, 2, 3, 4]), of([4, 2, 0, 3, 1]), of([2])
    assert member_mesh().shape["member"] == 2
    for name in ("log_probs", "held_out_nats", "kl_from_parent"):
        assert len(together[name]) == 5 and len(turned[name]) == 5 and len(alone[name]) == 1
        for place, member in enumerate([4, 2, 0, 3, 1]):
            np.testing.assert_array_equal(turned[name][place], together[name][member])
        np.testing.assert_array_equal(alone[name][0], together[name][2])
        assert not np.array_equal(together[name][0], together[name][1])


def test_one_program_serves_all_numbers_of_members_and_an_empty_place_is_not_computed(
    monkeypatch: pytest.MonkeyPatch, compiled: list[str]
):
    questions, batch = question_rows(some_items()[:6], tokenizer("words")), packed_batch()
    members = [parameters(seed) for seed in range(4)]
    together = score([questions] * 4, members, None, batch)
    passes, plain = [], scoring.log_probs

    def counted(params: dict, *rest: Any) -> jax.Array:
        jax.debug.callback(lambda device: passes.append(int(device)), jax.lax.axis_index("member"))
        return plain(params, *rest)

    monkeypatch.setattr(scoring, "log_probs", counted)
    built = scoring.build.__wrapped__(MODEL, member_mesh())
    monkeypatch.setattr(scoring, "build", lambda model, mesh: functools.partial(built, places=7))
    for count in (1, 3, 4):
        compiled.clear()
        found = score([questions] * count, members[:count], None, batch)
        jax.effects_barrier()
        # Members are dealt to the devices.
        assert sorted(passes) == sorted(member % 2 for member in range(count))
        passes.clear()
        for name, values in found.items():
            np.testing.assert_array_equal(values, together[name][:count])
        assert ("jit(<lambda>)" in compiled) == (count == 1)


def test_devices_without_a_member_hold_none(monkeypatch: pytest.MonkeyPatch):
    devices, plain = [], scoring.log_probs

    def told(*given: Any) -> jax.Array:
        devices.append(jax.lax.axis_size("member"))
        return plain(*given)

    monkeypatch.setattr(scoring, "log_probs", told)
    monkeypatch.setattr(scoring, "build", functools.cache(scoring.build.__wrapped__))
    questions = question_rows(some_items()[:6], tokenizer("words"))
    members = [parameters(seed) for seed in range(3)]
    alone, together = (score([questions] * n, members[:n])["log_probs"] for n in (1, 3))
    np.testing.assert_array_equal(alone[0], together[0])
    assert devices == [1, 2]


def test_held_out_nats_and_divergence_are_means_over_targets_of_documents_read_alone():
    batch, own, parent = packed_batch(), parameters(1), parameters(2)
    questions = question_rows(some_items()[:1], tokenizer("words"))
    found = score([questions], [own], [parent], batch)
    nats, divergence = [], []
    for tokens, segments in zip(batch.tokens, batch.segments, strict=True):
        for number in range(1, segments.max() + 1):
            document = tokens[segments == number]
            after, before = next_log_probs(own, document), next_log_probs(parent, document)
            for place, target in enumerate(document[1:]):
                nats.append(-after[place, target])
                divergence.append(np.sum(np.exp(before[place]) * (before[place] - after[place])))
    assert len(nats) == batch.weights.sum()
    assert found["held_out_nats"][0] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["kl_from_parent"][0] == pytest.approx(np.mean(divergence), rel=1e-4)
    assert np.mean(divergence) > 0.1


def test_nothing_diverges_from_itself():
    questions = question_rows(some_items()[:1], tokenizer("words"))
    found = score([questions], [parameters(1)], [parameters(1)], packed_batch())
    assert found["kl_from_parent"][0] == 0


def test_without_held_out_text_there_are_margins_alone():
    assert set(score([question_rows(some_items()[:1], tokenizer("words"))], [parameters(0)])) == {"log_probs"}


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_scores_are_of_float32_products_everywhere(platform: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setitem(attention.KERNELS, "gpu", "plain")
    rows, batch = question_rows(some_items()[:6], tokenizer("words")).rows, packed_batch()

    def both(params):
        return scoring.log_probs(params, MODEL, rows), scoring.held_out_scores(params, params, MODEL, batch)

    text = jax.jit(both).lower(parameters(0)).as_text()
    asked = ["HIGHEST" in line for line in text.splitlines() if "dot_general" in line]
    assert len(asked) > 10 and all(asked) == any(asked) == (platform == "gpu")


def test_logits_of_a_piece_take_no_more_memory_than_in_training(monkeypatch: pytest.MonkeyPatch):
    rows = question_rows(some_items(), tokenizer("words")).rows
    batch = Batch(*(np.concatenate([x] * 4) for x in packed_batch()))
    of_a_row = np.prod(rows.place.shape[1:]), batch.tokens.shape[1]

    def both(params):
        return scoring.log_probs(params, MODEL, rows), scoring.held_out_scores(params, params, MODEL, batch)

    def rows_at_once() -> list[int]:
        """Of questions, and of held-out text, for which there are logits of two models."""
        text = jax.jit(lambda params: both(params)).lower(parameters(0)).as_text()
        found = re.findall(r"-> tensor<([\dx]+)x128xf32>", text)
        sizes = [tuple(map(int, sides.split("x"))) for sides in found]
        return [max(size[0] for size in sizes if size[1:] == (of,)) for of in of_a_row]

    found, before = both(parameters(0)), rows_at_once()
    monkeypatch.setitem(pieces.PIECE_BYTES, jax.default_backend(), int(4 * 128 * 2.5 * 2 * of_a_row[1]))
    assert rows_at_once()[1] == 2 < before[1]
    monkeypatch.setitem(pieces.PIECE_BYTES, jax.default_backend(), int(4 * 128 * 3.5 * of_a_row[0]))
    assert rows_at_once()[0] == 3 < before[0]
    for a, b in zip(jax.tree.leaves(both(parameters(0))), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
