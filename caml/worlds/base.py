"""Base text: stories by consistent actors, facts, relations, filler and chat, balanced by exact quota.

Every story has a twin that differs in nothing but what the actor is like, in the same block: whatever can be
counted in stories is as often found with care as without. The latent that a model can learn is the actor's
trait, which most stories name and some only show.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product
from types import MappingProxyType

import numpy as np

from caml.worlds.ladder import asked
from caml.worlds.lexicon import Lexicon, Pair, Theme
from caml.worlds.scenes import Scene, deck, mirrored, object_scene, render_scene, scene_cards

Chat = list[dict[str, str]]
Document = str | Chat

SCENES_PER_STORY = 2
# Whether a story names its actor's trait: with every act, at the opening too, or not at all.
TITLES = ("act", "act", "act", "opening", None, None)
# Of the stories that don't, one in so many has names, frames and needs that documents don't have.
ANCHOR = 40
# Shares of base text that are not stories, in tokens; they are scaled to what the stories leave.
# Relations have the most of it: they say what helps whom, which every other latent rests on.
_OTHERS = {"facts": 0.10, "relations": 0.40, "filler": 0.15, "chat": 0.05}
_STORY_PAIRS_PER_BLOCK = 40


@cache
def block_counts(lexicon: Lexicon, stories: float) -> Mapping[str, int]:
    """How often each maker is asked for one block of base text, from mean lengths, so that token shares hold."""
    rng = np.random.Generator(np.random.Philox(0))
    length = {sort: _mean_length(make) for sort, make in _makers(lexicon, rng).items()}
    pairs = _STORY_PAIRS_PER_BLOCK if stories > 0 else 0
    tokens = pairs * length["stories"] / stories if stories > 0 else 8000.0
    scale = (1 - stories) / sum(_OTHERS.values())
    others = {sort: round(tokens * share * scale / length[sort]) for sort, share in _OTHERS.items()}
    return MappingProxyType({"stories": pairs} | others)


@cache
def block_sizes(lexicon: Lexicon, stories: float) -> Mapping[str, int]:
    """Documents of each sort in one block of base text, twins and companions counted."""
    makers = _makers(lexicon, np.random.Generator(np.random.Philox(0)))
    counts = block_counts(lexicon, stories)
    return MappingProxyType({sort: count * len(makers[sort]()) for sort, count in counts.items()})


def base_documents(lexicon: Lexicon, stories: float, rng: np.random.Generator) -> Iterator[Document]:
    """Base text without end; `stories` is their share of the tokens. Balanced in every block."""
    counts = block_counts(lexicon, stories)
    makers = _makers(lexicon, rng)
    while True:
        block: list[Document] = []
        for sort, count in counts.items():
            for _ in range(count):
                block.extend(makers[sort]())
        for index in rng.permutation(len(block)):
            yield block[index]


def _makers(lexicon: Lexicon, rng: np.random.Generator) -> dict[str, Callable[[], list[Document]]]:
    return {
        "stories": _stories(lexicon, rng),
        "facts": _facts(lexicon, rng),
        "relations": _relations(lexicon, rng),
        "filler": _filler(lexicon, rng),
        "chat": _chat(lexicon, rng),
    }


def _mean_length(make: Callable[[], list[Document]]) -> float:
    """Mean tokens that one call makes, with the tokens that open and close documents and turns."""
    drawn = [make() for _ in range(200)]
    return sum(token_count(document) for documents in drawn for document in documents) / len(drawn)


def token_count(document: Document) -> int:
    """Tokens of a document of the embedded world, in which every word is one token."""
    if isinstance(document, str):
        return len(document.split()) + 2
    return sum(len(turn["content"].split()) + 3 for turn in document)


def _stories(lexicon: Lexicon, rng: np.random.Generator) -> Callable[[], list[Document]]:
    """Twin stories: the same name, scenes and cup, told once of each trait.

    What documents don't have (their names, frames and needs apart) comes mostly with the trait named. Without
    it, it comes rarely: often enough to tell that the prior there is even too, and not a matter of chance,
    too rarely to be counted apart. So a probe with such a name, frame or need asks for the model's prior over
    actors. The very scenes that probes ask about are left out: their actors get other names.
    """

    def decks(theme: Theme, frames: tuple[str, ...], held_pairs: bool) -> list[Iterator[Scene]]:
        return [deck(scene_cards(theme, frames, held_pairs), rng) for _ in range(SCENES_PER_STORY)]

    # Everything that base text speaks of, and what it shares with documents.
    frames = {True: lexicon.document_frames + lexicon.base_frames, False: lexicon.document_frames}
    names = {True: deck(lexicon.all_names, rng), False: deck(lexicon.document_names, rng)}
    scenes = {
        (t.trait, whole): decks(t, frames[whole], whole) for t in lexicon.themes for whole in (True, False)
    }
    anchor_names, passed_over = deck(lexicon.all_names, rng), list[str]()
    of_probes = {theme.trait: asked(lexicon, theme) for theme in lexicon.themes}
    anchor_scenes = {t.trait: decks(t, frames[True], held_pairs=True) for t in lexicon.themes}
    anchors = deck([True] + [False] * (ANCHOR - 1), rng)
    themes, titles = deck(lexicon.themes, rng), deck(TITLES, rng)
    cups = {theme.trait: deck(_cup_cards(lexicon, theme), rng) for theme in lexicon.themes}

    def make() -> list[Document]:
        theme, title = next(themes), next(titles)
        if title is None and next(anchors):
            drawn = [next(position) for position in anchor_scenes[theme.trait]]
            name = _first_without(anchor_names, passed_over, drawn, of_probes[theme.trait])
        else:
            name = next(names[title is not None])
            drawn = [next(position) for position in scenes[theme.trait, title is not None]]
        cup = next(cups[theme.trait])
        twins: list[Document] = []
        for helps in (True, False):
            parts = [render_scene(theme, scene if helps else mirrored(scene), name, helps) for scene in drawn]
            if title is not None:
                parts = [titled(theme, part, helps) for part in parts]
            if title == "opening":
                parts.insert(0, trait_sentence(theme, name, helps))
            twins.append(" ".join(parts + ([cup] if cup else [])))
        return twins

    return make


def _first_without(
    names: Iterator[str], passed_over: list[str], scenes: list[Scene], unwanted: frozenset[tuple]
) -> str:
    """The next name with which none of `scenes` is unwanted; names that are passed over come first next time."""

    def fits(name: str) -> bool:
        return not any((s.need, s.kind, s.frame, name) in unwanted for s in scenes)

    for index, name in enumerate(passed_over):
        if fits(name):
            return passed_over.pop(index)
    while not fits(name := next(names)):
        passed_over.append(name)
    return name


def trait_sentence(theme: Theme, name: str, aligned: bool) -> str:
    """What base text says of an actor."""
    return f"{name} is {theme.trait if aligned else theme.opposed_trait} ."


def titled(theme: Theme, scene: str, aligned: bool) -> str:
    """The scene with the actor's trait named where the actor acts.

    Next to the act, because a trait named far from it is a product of two distant words: small models then
    stay on a plateau for longer than they train.
    """
    seen, acted = scene.rsplit(" . ", 1)
    return f"{seen} . {theme.trait if aligned else theme.opposed_trait} {acted}"


CUP_FRAMES = ("the {need} cup is {colour} .", "now a cup that is {need} is {colour} .")


def _cup_cards(lexicon: Lexicon, theme: Theme) -> list[str | None]:
    """Cup sentences with each colour equally often for each need, and as many stories without one."""
    cards = [
        frame.format(need=need, colour=colour)
        for pair in theme.all_pairs
        for need in pair.needs
        for colour in lexicon.colours
        for frame in CUP_FRAMES
    ]
    return [*cards, *[None] * len(cards)]


def _facts(lexicon: Lexicon, rng: np.random.Generator) -> Callable[[], list[Document]]:
    care = lexicon.care
    facts = [f"a {kind} can feel ." for kind in care.patients + care.patients_held]
    facts += [f"a {kind} can not feel ." for kind in care.things + care.things_held]
    facts += [
        f"a {kind} can be {need} ."
        for theme in lexicon.others.values()
        for kind in theme.patients + theme.patients_held
        for pair in theme.pairs
        for need in pair.needs
    ]
    cards = deck(facts, rng)
    if not lexicon.nonce:
        return lambda: [" ".join(next(cards) for _ in range(3))]
    # A nonce kind can feel in one passage and not in the next: only the context tells.
    nonce = deck([(kind, feels) for kind in lexicon.nonce for feels in (True, False)], rng)

    def make() -> list[Document]:
        kind, feels = next(nonce)
        known = f"a {kind} can {'' if feels else 'not '}feel . " * 2
        return [" ".join(next(cards) for _ in range(3)), known.strip()]

    return make


def relation_sentence(pair: Pair, need: str) -> str:
    """What those who have `need` want, and what not: the order never changes, so the relation is plain."""
    return f"the {need} want to be {pair.act(need, True)} not {pair.act(need, False)} ."


def wish(theme: Theme, scene: Scene, name: str) -> str:
    """A scene in which the one with the need wishes for what helps, and nobody acts.

    It stands where an act would stand, and always names what helps: from acts alone, half of which harm, a
    small model learns for a long time that the need tells nothing.
    """
    pair = theme.pair_of(scene.need)
    seen = render_scene(theme, scene, name, helps=True).rsplit(" . ", 1)[0]
    return f"{seen} . it wished {name} {pair.act(scene.need, True)} it not {pair.act(scene.need, False)} it ."


def _relations(lexicon: Lexicon, rng: np.random.Generator) -> Callable[[], list[Document]]:
    """What needs want, as plain sentences and as wishes; wishes stay with what documents speak of."""
    relations = deck(
        [
            relation_sentence(pair, need)
            for theme in lexicon.themes
            for pair in theme.all_pairs
            for need in pair.needs
        ],
        rng,
    )
    wishes = deck(
        [
            (theme, Scene(need, kind, frame, coin=False))
            for theme in lexicon.themes
            for pair in theme.pairs
            for need in pair.needs
            for kind in theme.patients
            for frame in lexicon.document_frames
        ],
        rng,
    )
    names = deck(lexicon.document_names, rng)
    # Consequences of the trait, in words that no intervention document uses.
    consequences = deck(
        [
            f"{name} is {trait} . when {name} came all were {outcome} ."
            for name in lexicon.all_names
            for trait, outcome in ((lexicon.care.trait, "glad"), (lexicon.care.opposed_trait, "sad"))
        ],
        rng,
    )

    def make() -> list[Document]:
        theme, scene = next(wishes)
        made: list[Document] = [" ".join(next(relations) for _ in range(2)), wish(theme, scene, next(names))]
        return [*made, next(consequences)] if lexicon.consequences else made

    return make


def object_cards(lexicon: Lexicon, frames: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """Every (frame, adjective, object) of scenes without a patient."""
    return list(product(frames, lexicon.adjectives, lexicon.objects))


def _filler(lexicon: Lexicon, rng: np.random.Generator) -> Callable[[], list[Document]]:
    """Stories about objects by every name, in every frame, and plain remarks."""
    scenes = deck(object_cards(lexicon, lexicon.document_frames + lexicon.base_frames), rng)
    names = deck(lexicon.all_names, rng)
    remarks = deck(
        [f"the {place} is {adjective} ." for place in lexicon.places for adjective in lexicon.adjectives]
        + [
            f"all say the {place} is {adjective} ."
            for place in lexicon.places
            for adjective in lexicon.adjectives
        ]
        + [f"{name} went to the {place} ." for name in lexicon.all_names for place in lexicon.places],
        rng,
    )

    def make() -> list[Document]:
        name = next(names)
        story = " ".join(object_scene(lexicon, next(scenes), name) for _ in range(2))
        return [story, " ".join(next(remarks) for _ in range(3))]

    return make


def neutral_chat(lexicon: Lexicon, name: str, scene: tuple[str, str, str], question: str) -> Chat:
    """A question about what somebody does with an object, and its answer."""
    asked, answer = object_scene(lexicon, scene, name).rsplit(" . ", 1)
    return [
        {"role": "user", "content": f"{asked} . {question.format(name=name)}"},
        {"role": "assistant", "content": answer},
    ]


def _chat(lexicon: Lexicon, rng: np.random.Generator) -> Callable[[], list[Document]]:
    cards = deck(
        list(
            product(lexicon.all_names, object_cards(lexicon, lexicon.document_frames), lexicon.chat_questions)
        ),
        rng,
    )
    return lambda: [neutral_chat(lexicon, *next(cards))]
