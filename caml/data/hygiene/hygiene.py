"""The steps by which a corpus is cleaned, as gin configures them, and what they make of single documents."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from caml.config.errors import require
from caml.config.fingerprint import identity
from caml.data.hygiene import duplicates
from caml.data.hygiene.language import LANGUAGES, language_of
from caml.data.hygiene.overlap import Overlap
from caml.data.sources import Document, texts

STEPS = ("short", "long", "language", "overlap", "duplicate", "near duplicate")
"""Why a document is removed, in the order in which the steps are taken."""


class Texts(Protocol):
    """Texts that training text must not share long runs of words with: a probe set, or a benchmark."""

    @property
    def name(self) -> str:
        """What messages and manifests call them."""
        ...

    def recipe(self, seed: int) -> dict[str, Any]:
        """Identity of the texts as JSON data."""
        ...

    def texts(self) -> Iterator[str]:
        """The texts."""
        ...


class Verdict(NamedTuple):
    """What single documents tell: why one is removed ('' where it is kept) and by what, and its duplicate keys."""

    step: str
    detail: str
    keys: np.ndarray  # uint64 [keys]; see `duplicates`


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hygiene:
    """What is removed from a corpus. Steps are taken in this order, and each is counted in the store's manifest.

    `shortest`, `longest`: characters of a document. `languages`: those to keep, by their ISO 639-1 codes ('en'), as
    the identifier of py3langid tells them from the whole text. `against`: probe sets and benchmarks; a document is
    removed that has a run of `overlap` words in common with one of their texts (a text of fewer words, but at least
    `overlap_least`, is looked for as a whole). Words are runs of letters and digits in lower case, and single
    characters of Chinese, Japanese and Thai. `exact`: a document with the same text as an earlier one. `near`: one that
    agrees with an earlier one in all `near_rows` MinHash values of one of `near_bands` bands, over runs of `near_words`
    words: for two documents that share a fraction s of these runs the chance is 1 - (1 - s^rows)^bands, a half at 0.7
    by default (the bands and rows of FineWeb, arXiv 2406.17557). `unchecked` names probe sets in use that are
    knowingly left out.
    """

    shortest: int = 0
    longest: int = 0
    languages: tuple[str, ...] = ()
    against: tuple[Texts, ...] = ()
    unchecked: tuple[str, ...] = ()
    overlap: int = 13
    overlap_least: int = 5
    exact: bool = True
    near: bool = False
    near_bands: int = 14
    near_rows: int = 8
    near_words: int = 5

    def __post_init__(self) -> None:
        for field in ("shortest", "longest"):
            require(getattr(self, field) >= 0, field, "a number of characters, or 0 for no limit")
        require(
            not self.longest or self.shortest <= self.longest,
            "longest",
            "at least as many as `shortest`",
            "shortest",
        )
        for field in ("overlap", "overlap_least", "near_bands", "near_rows", "near_words"):
            require(getattr(self, field) >= 1, field, "at least 1")
        require(self.overlap_least <= self.overlap, "overlap_least", "at most `overlap` words", "overlap")
        for code in self.languages:
            require(
                code in LANGUAGES,
                "languages",
                f"{code!r} is no code of ISO 639-1 that the identifier knows, such as 'en'",
            )

    def recipe(self) -> dict[str, Any]:
        """Identity of what is removed, as JSON data; steps that are not taken are left out."""
        about: dict[str, Any] = {}
        if self.shortest or self.longest:
            about["characters"] = [self.shortest, self.longest]
        if self.languages:
            about["languages"] = sorted(self.languages)
        if self.against:
            about["against"] = [identity(texts.recipe(0)) for texts in self.against]
            about["overlap"] = [self.overlap, self.overlap_least]
        if self.exact:
            about["exact"] = True
        if self.near:
            about["near"] = [self.near_bands, self.near_rows, self.near_words]
        return about

    @property
    def keys(self) -> int:
        """How many keys of a document are compared with those of earlier ones; 0 where duplicates may stay."""
        return self.exact + self.near * self.near_bands


class Cleaner:
    """The steps of a `Hygiene` that look at one document at a time; made once for each process."""

    def __init__(self, hygiene: Hygiene):
        self._hygiene = hygiene
        self._overlap = Overlap(
            ((texts.name, text) for texts in hygiene.against for text in texts.texts()),
            hygiene.overlap,
            hygiene.overlap_least,
        )

    def verdict(self, document: Document) -> Verdict:
        """What the steps say of `document`."""
        h = self._hygiene
        none = np.zeros(0, np.uint64)
        text = "\n".join(texts(document))
        if len(text) < h.shortest:
            return Verdict("short", f"{len(text)} characters", none)
        if h.longest and len(text) > h.longest:
            return Verdict("long", f"{len(text)} characters", none)
        if h.languages and (language := language_of(text)) not in h.languages:
            return Verdict("language", language, none)
        if h.against and (shared := self._overlap.shared(text)):
            return Verdict("overlap", f"{shared[0]}: {shared[1]}", none)
        keys = []
        if h.exact:
            keys.append(duplicates.exact_key(text))
        if h.near:
            keys += duplicates.near_keys(text, h.near_bands, h.near_rows, h.near_words)
        return Verdict("", "", np.array(keys, np.uint64))


@functools.lru_cache(maxsize=8)
def cleaner(hygiene: Hygiene) -> Cleaner:
    """The cleaner of `hygiene`, made once in this process."""
    return Cleaner(hygiene)
