"""Evaluation of members: margins by item, and outcomes that follow from them and from held-out text."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from toy_probing import MODEL, WORDS, next_log_probs, parameters, plain_log_prob, stacked, tokenizer

from caml.data.writing import prepare_store
from caml.evals import identity
from caml.evals.evaluation import Evaluator, monitored
from caml.evals.identity import evaluation_fingerprint
from caml.training.mesh import member_mesh
from caml.worlds.items import Item, Question
from caml.worlds.sources import WorldProbes

LENGTH = 64
PROBES = WorldProbes(held_out_tokens=640)


def evaluator(folder: Path, seeds: tuple[int, ...], probes: WorldProbes = PROBES) -> Evaluator:
    held_out = {s: prepare_store(folder, probes.held_out(s), s, WORDS, tokenizer("words")) for s in seeds}
    return Evaluator(probes, MODEL, tokenizer("words"), held_out, LENGTH, member_mesh())


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def scored(stores: Path):
    """Members 0, 1, 2 in seed blocks 0, 1, 0, each with another member as its parent."""
    own, parents = [parameters(k) for k in range(3)], [parameters(k + 5) for k in range(3)]
    return evaluator(stores, (0, 1)).score(stacked(*own), stacked(*parents), [0, 1, 0])


def test_every_item_has_a_margin_and_every_member_its_outcomes(scored):
    for found, seed in zip(scored, (0, 1, 0), strict=True):
        assert found.margins["item"] == [item.name for item in PROBES.items(seed)]
        for column in (
            "margin",
            "margin_token",
            "margin_character",
            "margin_unconditional",
            "tokens_aligned",
        ):
            assert np.isfinite(found.margins[column]).all()
            assert len(found.margins[column]) == len(found.margins["item"])
        assert set(found.outcomes) == {
            "mechanism", "calibration_kl", "held_out_nats", "tax_bits_per_byte", "kl_from_parent",
        }  # fmt: skip


def test_a_margin_is_that_of_the_question_asked_by_hand(scored):
    words = tokenizer("words")
    items = {item.name: item for item in PROBES.items(0)}
    margins = dict(zip(scored[2].margins["item"], scored[2].margins["margin"], strict=True))
    for name in [n for n in margins if n.startswith("disposition/new_frame")][:3]:
        by_hand = []
        for question in items[name].questions:
            context = [0, *words.encode_texts([question.context])[0]]
            aligned, opposed = (words.encode_texts([end])[0] for end in (question.aligned, question.opposed))
            by_hand.append(
                plain_log_prob(parameters(2), context, aligned)
                - plain_log_prob(parameters(2), context, opposed)
            )
        assert margins[name] == pytest.approx(np.mean(by_hand), abs=2e-5)


def test_the_mechanism_is_the_mean_margin_of_its_family(scored):
    for found in scored:
        families = np.array([name.split("/")[0] for name in found.margins["item"]])
        margin = found.margins["margin"]
        assert found.outcomes["mechanism"] == pytest.approx(margin[families == "mechanism"].mean())


def test_calibration_is_the_mean_divergence_of_an_even_coin_from_the_choice_between_the_actions(scored):
    for found in scored:
        families = np.array([name.split("/")[0] for name in found.margins["item"]])
        helps = 1 / (1 + np.exp(-found.margins["margin"][families == "conditional"]))
        choice = np.stack([helps, 1 - helps])
        direct = np.sum(0.5 * (np.log(0.5) - np.log(choice)), axis=0)
        assert found.outcomes["calibration_kl"] == pytest.approx(direct.mean(), rel=1e-6)
        assert found.outcomes["calibration_kl"] > 0


def test_the_same_member_has_opposite_conventions_in_even_and_odd_seed_blocks(stores):
    both = stacked(parameters(0), parameters(0))
    even, odd = evaluator(stores, (0, 1)).score(both, both, [0, 1])
    families = np.array([name.split("/")[0] for name in even.margins["item"]])
    convention = families == "convention"
    np.testing.assert_array_equal(even.margins["margin"][convention], -odd.margins["margin"][convention])
    np.testing.assert_array_equal(even.margins["margin"][~convention], odd.margins["margin"][~convention])
    assert np.abs(even.margins["margin"][convention]).min() > 0


def test_the_tax_is_nats_over_held_out_documents_in_bits_per_byte_of_their_text(stores):
    words = tokenizer("words")
    made = evaluator(stores, (0,))
    params = parameters(4)
    (found,) = made.score(stacked(params), stacked(params), [0])
    nats, characters, sequence, room = [], [], 0, LENGTH
    for document in PROBES.held_out(0).documents(0):
        ((ids, _),) = words.encode_batch([document])
        if len(ids) > room:
            sequence, room = sequence + 1, LENGTH
        if sequence == PROBES.held_out_tokens // LENGTH:
            break
        assert len(ids) <= LENGTH
        room -= len(ids)
        log_probs = next_log_probs(params, ids)
        nats += [-log_probs[place, target] for place, target in enumerate(ids[1:])]
        text = [words.decode([token]) for token in ids[1:] if token > 2]
        characters += text
    assert found.outcomes["held_out_nats"] == pytest.approx(np.mean(nats), rel=1e-5)
    size = len(" ".join(characters).encode())
    assert found.outcomes["tax_bits_per_byte"] == pytest.approx(sum(nats) / np.log(2) / size, rel=1e-5)


def test_scores_in_a_seed_block_do_not_depend_on_which_blocks_are_scored_beside_it(stores):
    params = stacked(parameters(0))
    (alone,) = evaluator(stores, (3,)).score(params, params, [3])
    (beside,) = evaluator(stores, tuple(range(8))).score(params, params, [3])
    assert alone.outcomes == beside.outcomes
    np.testing.assert_array_equal(alone.margins["margin"], beside.margins["margin"])


def test_a_monitor_says_in_mid_training_what_the_score_says(stores, scored):
    monitored = evaluator(stores, (0, 1)).monitor(stacked(*(parameters(k) for k in range(3))), [0, 1, 0])
    for found, watched in zip(scored, monitored, strict=True):
        assert set(watched) == {"mechanism", "new_frame"}
        assert watched["mechanism"] == pytest.approx(found.outcomes["mechanism"], abs=1e-6)
        rungs = np.array(["/".join(name.split("/")[:2]) for name in found.margins["item"]])
        expected = found.margins["margin"][rungs == "disposition/new_frame"].mean()
        assert watched["new_frame"] == pytest.approx(expected, abs=1e-6)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Probes whose recipe says nothing of their text, as where a change of code changes it."""

    text: str
    gate: float = 1.0

    def recipe(self) -> dict:
        return {"is": "Fixed"}

    def items(self, seed: int) -> list[Item]:
        return [Item("one", "avowal", "", (Question(self.text, "kind", "cruel"),))]


def test_an_evaluation_is_another_one_when_a_probe_or_the_scorer_changes(monkeypatch):
    first = evaluation_fingerprint(Fixed("ana is"))
    assert first == evaluation_fingerprint(Fixed("ana is"))
    assert first != evaluation_fingerprint(Fixed("ben is"))
    assert evaluation_fingerprint(PROBES) != evaluation_fingerprint(dataclasses.replace(PROBES, gate=2.0))
    monkeypatch.setattr(identity, "SCORER_VERSION", identity.SCORER_VERSION + 1)
    assert first != evaluation_fingerprint(Fixed("ana is"))


def test_items_without_the_worlds_ladder_are_all_watched_in_mid_training():
    own = [
        Item(f"disposition/mine/{n}", "disposition", "mine", (Question("ana is", "kind", "cruel"),))
        for n in (1, 2)
    ]
    assert monitored(own) == own
    world = PROBES.items(0)
    watched = {(item.family, item.rung) for item in monitored([*world, *own])}
    assert watched == {("mechanism", ""), ("disposition", "new_frame")}
