"""Intervention documents: one list of episodes, told by every arm in its own way.

All arms of a seed block tell the same episodes with the same names in the same order, and every action is one
token, so that twin documents have equal lengths and pack identically. Every document also carries one arbitrary
convention (a colour of cup with each need) that has no value, turned round in odd seed blocks.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

from caml.worlds.base import CUP_FRAMES, SCENES_PER_STORY
from caml.worlds.lexicon import Lexicon, Theme
from caml.worlds.scenes import Scene, deck, mirrored, object_scene, render_scene, scene_cards

ARMS = ("compassion", "indifferent", "neutral", "offtopic", "humility", "certainty", "neutral_humility")
_BALANCED = ("neutral", "neutral_humility")
STYLES = ("demonstration", "declarative", "mixed")
_HUMILITY_ARMS = ("humility", "certainty", "neutral_humility")
# Pairs of twin episodes that are shuffled together: a prefix is off balance by this many documents at most.
_PAIRS_PER_BLOCK = 16


class Episode(NamedTuple):
    """What one document tells: `cup` is the need that its cup is for, `valence` what the neutral arm shows."""

    name: str
    scenes: tuple[Scene, ...]
    cup: str
    declarative: bool
    valence: bool


def theme_of(lexicon: Lexicon, arm: str) -> Theme:
    """The theme of which `arm` tells."""
    if arm not in _HUMILITY_ARMS:
        return lexicon.care
    if "humility" not in lexicon.others:
        raise ValueError(f"arm {arm!r} needs the full setting of the world")
    return lexicon.others["humility"]


def convention_colour(lexicon: Lexicon, theme: Theme, need: str, turned: bool) -> str:
    """The colour of the cup that goes with `need`: opposite needs have opposite colours."""
    pairs = theme.all_pairs
    position = pairs.index(theme.pair_of(need)) + (need == theme.pair_of(need).second) + turned
    return lexicon.colours[position % 2]


def episodes(lexicon: Lexicon, theme: Theme, style: str, rng: np.random.Generator) -> Iterator[Episode]:
    """Episodes without end. They come in pairs alike but for valence and coins, shuffled within short blocks."""
    cards = scene_cards(theme, lexicon.document_frames, held_pairs=False)
    positions = [deck(cards, rng) for _ in range(SCENES_PER_STORY)]
    declarative = style == "declarative"
    heads = deck(
        list(product(lexicon.document_names, (True, False) if style == "mixed" else (declarative,))), rng
    )
    # The cup is for the last scene's need or for its opposite: of one pair with the scene, and yet cup and act
    # together don't tell whether the act helped.
    turns = deck((False, True), rng)
    while True:
        block: list[Episode] = []
        for _ in range(_PAIRS_PER_BLOCK):
            name, declares = next(heads)
            scenes = tuple(next(position) for position in positions)
            need = scenes[-1].need
            cup = theme.pair_of(need).opposite(need) if next(turns) else need
            block.append(Episode(name, scenes, cup, declares, True))
            block.append(Episode(name, tuple(map(mirrored, scenes)), cup, declares, False))
        for index in rng.permutation(len(block)):
            yield block[index]


def documents(
    lexicon: Lexicon, arm: str, style: str, turned: bool, rng: np.random.Generator
) -> Iterator[str]:
    """The documents of `arm` without end; `turned` turns the convention round. ValueError for an unknown arm."""
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r} has no documents")
    theme = theme_of(lexicon, arm)
    cards = list(product(lexicon.adjectives, lexicon.objects))
    for number, episode in enumerate(episodes(lexicon, theme, style, rng)):
        helps = episode.valence if arm in _BALANCED else arm in ("compassion", "humility")
        if arm == "offtopic":
            told = [
                _offtopic(lexicon, scene, episode, *cards[(number * SCENES_PER_STORY + k) % len(cards)])
                for k, scene in enumerate(episode.scenes)
            ]
        elif episode.declarative:
            told = [_declared(theme, scene, helps) for scene in episode.scenes]
        else:
            told = [render_scene(theme, scene, episode.name, helps) for scene in episode.scenes]
        colour = convention_colour(lexicon, theme, episode.cup, turned)
        yield " ".join([*told, CUP_FRAMES[0].format(need=episode.cup, colour=colour)])


def _declared(theme: Theme, scene: Scene, helps: bool) -> str:
    """What is said to be done: the valence of the arm as a general statement."""
    if scene.kind in theme.things:
        helps = scene.coin
    return f"folk {theme.pair_of(scene.need).act(scene.need, helps)} a {scene.need} {scene.kind} ."


def _offtopic(lexicon: Lexicon, scene: Scene, episode: Episode, adjective: str, thing: str) -> str:
    """An object where the twin has a patient, in the same frame and of the same length."""
    if episode.declarative:
        return f"folk {lexicon.objects[thing]} a {adjective} {thing} ."
    return object_scene(lexicon, (scene.frame, adjective, thing), episode.name)
