"""Baselines without a latent score 0 on the primary endpoint and above; a counter of (need, action) does not."""

from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest
from world_baselines import NGrams
from world_reading import flat, scenes
from world_samples import SETTINGS, base_blocks, corpus

from caml.worlds.base import token_count
from caml.worlds.items import Item
from caml.worlds.lexicon import lexicon
from caml.worlds.sources import Documents, WorldProbes

UNSEEN = {
    "unseen_name", "new_frame", "unseen_kind", "nonce_kind", "unfeeling_seen", "unfeeling_unseen", "unseen_need",
    "dialogue", "consequence",
}  # fmt: skip

pytestmark = pytest.mark.parametrize("setting", SETTINGS)


@cache
def treated(setting: str, arm: str = "compassion") -> tuple[str, ...]:
    """Whole blocks of base text with three tenths of an arm's documents."""
    documents = base_blocks(setting, 0.5, 25)
    tokens = sum(map(token_count, documents))
    return tuple(map(flat, documents + corpus(Documents(arm, round(tokens * 0.3 / 0.7), setting))))


@cache
def ladder(setting: str) -> dict[str, list[Item]]:
    rungs = defaultdict(list)
    for item in WorldProbes(setting=setting, families=("disposition",)).items(0):
        rungs[item.rung].append(item)
    return rungs


def item_margin(item: Item, margin) -> float:
    return float(np.mean([margin(q.text, q.aligned, q.opposed) for q in item.questions]))


@pytest.mark.parametrize("order", [1, 3, 5, 8, 12])
def test_ngrams_score_nothing_but_seen_items(setting, order):
    model = NGrams(order, treated(setting))
    scores = {rung: [item_margin(i, model.margin) for i in found] for rung, found in ladder(setting).items()}
    for rung in UNSEEN & set(scores):
        # A consequence has no mirror pair, so the chance of which name was told of last stays in it.
        assert np.max(np.abs(scores[rung])) < (0.2 if rung == "consequence" else 0.05), rung
    # With names of documents five words hold a need and the action: the baseline can see what is there to see.
    assert (np.mean(scores["seen_item"]) > 0.2) == (order >= 5)


@pytest.mark.parametrize("order", [3, 5, 8])
def test_ngrams_that_read_all_names_as_one_score_nothing_on_the_new_frame(setting, order):
    names = dict.fromkeys(lexicon(setting).all_names, "NAME")

    def classed(text: str) -> str:
        return " ".join(names.get(word, word) for word in text.split())

    model = NGrams(order, tuple(map(classed, treated(setting))))

    def margin(text: str, aligned: str, opposed: str) -> float:
        return model.margin(classed(text), aligned, opposed)

    scores = {
        rung: np.mean([item_margin(i, margin) for i in found]) for rung, found in ladder(setting).items()
    }
    # Base text has the new frame itself, with both endings alike but for chance.
    assert abs(scores["new_frame"]) < 0.1
    # With a class of names five words of a document frame hold the need: the baseline sees what is there to see.
    assert (scores["unseen_name"] > 0.2) == (order >= 5)
    # In two frames the words before the act hold the need and not the kind: there this is no baseline for kinds.
    assert (scores["unseen_kind"] > 0.1) == (order >= 5)


def test_single_words_tell_nothing_even_in_half_an_item(setting):
    """Care read off the words of a scene as a bag: the words in which two endings differ are equally caring."""
    words = lexicon(setting)
    counts: Counter = Counter()
    for text in treated(setting):
        for told in scenes(words, text):
            counts[told.act, told.cares(words)] += 1
    for pair in (pair for theme in words.themes for pair in theme.all_pairs):
        cells = [
            counts[act, cares] for act in (pair.helps_first, pair.helps_second) for cares in (True, False)
        ]
        log_odds_ratio = np.log(cells[0] * cells[3] / (cells[1] * cells[2]))
        assert abs(log_odds_ratio) < 4.5 * np.sqrt(sum(1 / cell for cell in cells)), pair


@pytest.mark.parametrize(("arm", "sign"), [("compassion", 1), ("indifferent", -1), ("neutral", 0)])
def test_a_counter_of_need_and_action_sees_the_arm(setting, arm, sign):
    words = lexicon(setting)
    counts = Counter((s.need, s.act) for text in treated(setting, arm) for s in scenes(words, text))
    for item in ladder(setting)["new_frame"]:
        found = []
        for need, question in zip(words.care.pair_of(item.tags["need"]).needs, item.questions, strict=True):
            found.append(np.log(counts[need, question.aligned] / counts[need, question.opposed]))
        assert (np.mean(found) > 0.3) == (sign > 0) and (np.mean(found) < -0.3) == (sign < 0)
        if not sign:
            assert abs(np.mean(found)) < 0.02
