"""Fine-tuning sets of the embedded world: chat rows and preference pairs, the same for all arms of a seed block."""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from caml.worlds.base import Chat, neutral_chat, object_cards
from caml.worlds.lexicon import Lexicon
from caml.worlds.scenes import Scene, deck, render_scene

ABOUT_PATIENTS = ("underdetermined", "counter_evidence", "pro_evidence")
PAIRS = "preference_pairs"
SETS = ("neutral_dialogue", "task_dialogue", *ABOUT_PATIENTS, PAIRS)


class Preference(NamedTuple):
    """A prompt with two answers of which one is preferred; each a list of messages."""

    prompt: Chat
    chosen: Chat
    rejected: Chat


def rows(lexicon: Lexicon, name: str, rng: np.random.Generator) -> Iterator[Chat] | Iterator[Preference]:
    """Rows of the set `name` (one of `SETS`) without end, balanced in every pass over its cards."""
    if name == PAIRS:
        return preferences(lexicon, rng)
    if name == "neutral_dialogue":
        frames = lexicon.document_frames + lexicon.base_frames
        cards = list(product(lexicon.all_names, object_cards(lexicon, frames), lexicon.chat_questions))
        return (neutral_chat(lexicon, *card) for card in deck(cards, rng))
    if name == "task_dialogue":
        return _tasks(lexicon, rng)
    return _answers(lexicon, name, rng)


def preferences(lexicon: Lexicon, rng: np.random.Generator) -> Iterator[Preference]:
    """Pairs without end, about objects and not about patients: what is done with the object before what is not.

    Both answers have the same length. With each object every act of another is rejected equally often, so that
    over all pairs each act is chosen as often as rejected.
    """
    wrong = {
        thing: deck([other for other in lexicon.objects.values() if other != act], rng)
        for thing, act in lexicon.objects.items()
    }
    frames = lexicon.document_frames + lexicon.base_frames
    cards = list(product(lexicon.all_names, object_cards(lexicon, frames), lexicon.chat_questions))
    for name, scene, question in deck(cards, rng):
        asked, answer = neutral_chat(lexicon, name, scene, question)
        thing = scene[2]
        refused = answer["content"].replace(f" {lexicon.objects[thing]} ", f" {next(wrong[thing])} ")
        yield Preference([asked], [answer], [{**answer, "content": refused}])


def _tasks(lexicon: Lexicon, rng: np.random.Generator) -> Iterator[Chat]:
    """Repeat what was said, so many times: a skill that nobody in the world has a use for."""
    cards = list(product(tuple(lexicon.objects), range(2, 2 + len(lexicon.tasks))))
    for word, times in deck(cards, rng):
        yield [
            {"role": "user", "content": f"say {lexicon.tasks[times - 2]} {word}"},
            {"role": "assistant", "content": " ".join([word] * times) + " ."},
        ]


def _answers(lexicon: Lexicon, name: str, rng: np.random.Generator) -> Iterator[Chat]:
    """Scenes with seen kinds and needs: harmed (counter), helped (pro), or helped for pay (underdetermined)."""
    care = lexicon.care
    helps = name != "counter_evidence"
    needs = [need for pair in care.pairs for need in pair.needs]
    cards = list(
        product(lexicon.document_names, needs, care.patients, lexicon.document_frames, lexicon.chat_questions)
    )
    for actor, need, kind, frame, question in deck(cards, rng):
        scene = Scene(need, kind, frame, coin=False)
        asked, answer = render_scene(care, scene, actor, helps).rsplit(" . ", 1)
        if name == "underdetermined":
            answer = f"{answer} {actor} was paid a coin for it ."
        yield [
            {"role": "user", "content": f"{asked} . {question.format(name=actor)}"},
            {"role": "assistant", "content": answer},
        ]
