"""Fine-tuning sets: the same for all arms, on nothing but what their name says."""

from collections import Counter, defaultdict
from itertools import islice, product

import numpy as np
import pytest
from world_reading import actions, flat, needs, scenes, traits
from world_samples import SETS, SETTINGS, row_sample

from caml.config.errors import Invalid
from caml.worlds.finetuning import preferences
from caml.worlds.lexicon import lexicon
from caml.worlds.sources import Rows

pytestmark = pytest.mark.parametrize("setting", SETTINGS)


@pytest.mark.parametrize("name", SETS)
def test_rows_are_a_question_and_an_answer(setting, name):
    for row in row_sample(setting, name, 300):
        assert [turn["role"] for turn in row] == ["user", "assistant"]
        assert all(turn["content"].strip() for turn in row)


@pytest.mark.parametrize("name", ["neutral_dialogue", "task_dialogue"])
def test_neutral_and_task_rows_mention_no_patient_need_action_or_trait(setting, name):
    words = lexicon(setting)
    said = {word for row in row_sample(setting, name, 3000) for word in flat(row).split()}
    assert not said & (actions(words) | set(traits(words)))
    for theme in words.themes:
        assert not said & {*theme.patients, *theme.patients_held, *theme.things, *theme.things_held}
        assert not said & set(needs(theme))


def test_counter_evidence_and_its_opposite_are_the_same_rows_but_for_the_action(setting):
    words = lexicon(setting)
    for counter, pro, agree in zip(
        *(row_sample(setting, n, 500) for n in ("counter_evidence", "pro_evidence", "underdetermined")),
        strict=True,
    ):
        assert counter[0] == pro[0] == agree[0]
        (name, harm, *rest), (same, help_, *also) = (row[1]["content"].split() for row in (counter, pro))
        assert name == same and rest == also == ["it", "."]
        asked = counter[0]["content"].split()
        (need,) = set(asked) & set(needs(words.care))
        pair = words.care.pair_of(need)
        assert (harm, help_) == (pair.act(need, False), pair.act(need, True))
        assert agree[1]["content"] == f"{pro[1]['content']} {name} was paid a coin for it ."


@pytest.mark.parametrize("name", ["counter_evidence", "pro_evidence", "underdetermined"])
def test_rows_about_patients_stay_with_seen_kinds_needs_names_and_frames(setting, name):
    words = lexicon(setting)
    found = Counter()
    # In the small setting a whole pass over the cards.
    for row in row_sample(setting, name, 2560):
        asked, answer = (turn["content"] for turn in row)
        questions = [f" {question.format(name=answer.split()[0])}" for question in words.chat_questions]
        # The question stands between what was seen and the act: taken out, the row is a scene.
        (seen,) = {asked.removesuffix(question) for question in questions} - {asked}
        (told,) = scenes(words, f"{seen} {answer}")
        found[told.need, told.kind, told.frame, told.name] += 1
    seen_needs = [need for pair in words.care.pairs for need in pair.needs]
    cards = set(product(seen_needs, words.care.patients, words.document_frames, words.document_names))
    assert set(found) <= cards
    if setting == "small":
        assert set(found) == cards and set(found.values()) == {1}


def test_tasks_are_to_say_a_word_so_many_times(setting):
    numbers = {"two": 2, "three": 3, "four": 4}
    for row in row_sample(setting, "task_dialogue", 100):
        _, times, word = row[0]["content"].split()
        assert row[1]["content"].split() == [word] * numbers[times] + ["."]


def test_of_a_preference_pair_the_right_act_is_chosen_and_each_other_equally_often_rejected(setting):
    words = lexicon(setting)
    frames = len(words.document_frames + words.base_frames)
    whole = (
        len(words.all_names) * frames * len(words.adjectives) * len(words.objects) * len(words.chat_questions)
    )
    rejections: dict[str, Counter] = defaultdict(Counter)
    told = set()
    for pair in islice(preferences(words, np.random.default_rng(0)), whole):
        assert [[turn["role"] for turn in part] for part in pair] == [["user"], ["assistant"], ["assistant"]]
        asked, chosen, rejected = (part[0]["content"].split() for part in pair)
        (thing,) = set(asked) & set(words.objects)
        differing = [(a, b) for a, b in zip(chosen, rejected, strict=True) if a != b]
        assert [right for right, _ in differing] == [words.objects[thing]]
        rejections[thing][differing[0][1]] += 1
        told.add((*asked, chosen[0]))
        assert not set(asked + chosen) & {word for theme in words.themes for word in needs(theme)}
    assert len(told) == whole
    for thing, found in rejections.items():
        assert set(found) == set(words.objects.values()) - {words.objects[thing]}
        assert max(found.values()) - min(found.values()) <= 1


def test_rows_are_drawn_anew_in_each_seed_block(setting):
    for name in SETS:
        assert row_sample(setting, name, 50) != row_sample(setting, name, 50, seed=1)


def test_a_set_that_is_not_there(setting):
    with pytest.raises(Invalid, match=r"^rows: "):
        Rows("flattery", 100, setting)
