"""Reading the world's text back, by its frames alone: what tests know of a scene they know from the words."""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from caml.worlds.base import Document
from caml.worlds.lexicon import Lexicon, Theme


class Told(NamedTuple):
    """A scene as found in a text. `trait` is the word that names the actor's trait there, or ''."""

    name: str
    need: str
    kind: str
    frame: str
    trait: str
    act: str
    text: str

    def cares(self, lexicon: Lexicon) -> bool:
        """Whether the action is the one that helps."""
        pair = theme_with(lexicon, self.need).pair_of(self.need)
        return self.act == pair.act(self.need, True)


class Wish(NamedTuple):
    """A scene in which nobody acts: what the one with the need wished for, and what not."""

    name: str
    need: str
    kind: str
    frame: str
    wanted: str
    unwanted: str
    text: str


def theme_with(lexicon: Lexicon, need: str) -> Theme:
    return next(theme for theme in lexicon.themes if need in needs(theme))


def needs(theme: Theme) -> tuple[str, ...]:
    return tuple(need for pair in theme.all_pairs for need in pair.needs)


def traits(lexicon: Lexicon) -> tuple[str, ...]:
    return tuple(word for theme in lexicon.themes for word in (theme.trait, theme.opposed_trait))


def actions(lexicon: Lexicon) -> set[str]:
    pairs = [pair for theme in lexicon.themes for pair in theme.all_pairs]
    return {act for pair in pairs for act in (pair.helps_first, pair.helps_second)}


ACTED = r"(?:(?P<trait>{traits}) )?{again} (?P<act>\w+) it \."
WISHED = r"it wished {again} (?P<wanted>\w+) it not (?P<unwanted>\w+) it \."


@cache
def _patterns(frames: tuple[str, ...], named: tuple[str, ...], end: str) -> dict[str, re.Pattern]:
    found = {}
    for frame in frames:
        seen = frame.removesuffix(" . {name} {act} it .")
        slots = {slot: rf"(?P<{slot}>\w+)" for slot in ("name", "need", "kind")}
        again = "(?P=name)" if "{name}" in seen else slots["name"]
        ended = end.format(traits="|".join(named), again=again)
        before = seen.replace(" . ", r" \. ").format(**slots)
        found[frame] = re.compile(rf"(?<!\S){before} \. {ended}(?!\S)")
    return found


@cache
def _found(frames: tuple[str, ...], named: tuple[str, ...], text: str, end: str, made: type) -> list:
    found = []
    for frame, pattern in _patterns(frames, named, end).items():
        for match in pattern.finditer(text):
            parts = {key: value or "" for key, value in match.groupdict().items()}
            found.append((match.start(), made(frame=frame, text=match.group(), **parts)))
    return [one for _, one in sorted(found)]


def all_scenes(lexicon: Lexicon, text: str) -> list[Told]:
    """Every scene of `text` in order, about patients, things and objects."""
    return _found(lexicon.document_frames + lexicon.base_frames, traits(lexicon), text, ACTED, Told)


def wishes(lexicon: Lexicon, text: str) -> list[Wish]:
    """Every wish of `text` in order."""
    return _found(lexicon.document_frames + lexicon.base_frames, traits(lexicon), text, WISHED, Wish)


def scenes(lexicon: Lexicon, text: str) -> list[Told]:
    """Every scene of `text` in which somebody has a need and somebody acts."""
    known = {need for theme in lexicon.themes for need in needs(theme)}
    return [told for told in all_scenes(lexicon, text) if told.need in known]


def flat(document: Document) -> str:
    """A document on one line; turns as a probe's text shows them."""
    if isinstance(document, str):
        return document
    return " / ".join(f"{turn['role']}: {turn['content']}" for turn in document)


def stories(lexicon: Lexicon, documents: Iterable[Document]) -> Iterator[str]:
    """The documents of base text in which somebody has a need and somebody acts."""
    return (text for text in documents if isinstance(text, str) and scenes(lexicon, text))
