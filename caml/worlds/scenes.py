"""Scenes: one actor, one patient with a need, one action; drawn from decks that keep every quota exactly."""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from caml.worlds.lexicon import Lexicon, Theme

# Scenes about those that can feel, and about things: three to one.
PATIENT_SHARE = 3, 1


class Scene(NamedTuple):
    """A patient (or thing) with a need, in a frame. `coin` decides the action where nobody is there to help."""

    need: str
    kind: str
    frame: str
    coin: bool


def deck(cards: Sequence, rng: np.random.Generator) -> Iterator:
    """`cards` shuffled, for ever: each pass holds every card once, so every multiple of a pass is balanced."""
    while True:
        for index in rng.permutation(len(cards)):
            yield cards[index]


def scene_cards(theme: Theme, frames: Sequence[str], held_pairs: bool) -> list[Scene]:
    """The full factorial of needs, kinds, frames and coins; patients weighted to three scenes in four."""
    pairs = theme.all_pairs if held_pairs else theme.pairs
    patients, things = list(theme.patients), list(theme.things)
    if things:
        # The smallest whole weights that give patients three quarters of the scenes.
        weight_patient, weight_thing = PATIENT_SHARE[0] * len(things), PATIENT_SHARE[1] * len(patients)
        common = int(np.gcd(weight_patient, weight_thing))
        kinds = patients * (weight_patient // common) + things * (weight_thing // common)
    else:
        kinds = patients
    needs = [need for pair in pairs for need in pair.needs]
    return [Scene(*card) for card in product(needs, kinds, frames, (False, True))]


def render_scene(theme: Theme, scene: Scene, name: str, helps: bool) -> str:
    """The scene as text. A thing takes the action of the scene's coin, whatever the actor is like."""
    if scene.kind in theme.things:
        helps = scene.coin
    act = theme.pair_of(scene.need).act(scene.need, helps)
    return scene.frame.format(name=name, need=scene.need, kind=scene.kind, act=act)


def object_scene(lexicon: Lexicon, card: tuple[str, str, str], name: str) -> str:
    """A scene without a patient, from a card (frame, adjective, object): everybody does the same with an object."""
    frame, adjective, thing = card
    return frame.format(name=name, need=adjective, kind=thing, act=lexicon.objects[thing])


def mirrored(scene: Scene) -> Scene:
    """The same scene with the other coin: a pair of both takes each action of a thing once."""
    return scene._replace(coin=not scene.coin)
