"""The embedded world as gin sees it: its corpora, fine-tuning sets and probes, deterministic from a seed block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from caml.config.errors import require
from caml.config.fingerprint import identity
from caml.config.seeds import generator
from caml.worlds import base, counting, documents, finetuning, probes
from caml.worlds.items import Item
from caml.worlds.lexicon import SETTINGS, lexicon

# By setting; raised when a change of code changes any of its text that a seed gives.
WORLD_VERSIONS = {"small": 6, "full": 7}


def _check_corpus(source: Any) -> None:
    require(source.setting in SETTINGS, "setting", f"one of {', '.join(SETTINGS)}")
    require(source.tokens > 0, "tokens", "the size of the corpus in tokens, above 0")
    require(
        source.repetition > 0, "repetition", "the most epochs over the corpus that a stage may take, above 0"
    )


class _Seeded:
    """A corpus that is drawn anew for each seed block, already in the block's order."""

    setting: str
    seeded: ClassVar[bool] = True
    licence: ClassVar[str] = "CC0-1.0"
    origin: ClassVar[str] = "caml embedded world"

    @property
    def revision(self) -> str:
        """The version of the world's text."""
        return str(WORLD_VERSIONS[self.setting])

    def recipe(self, seed: int) -> dict[str, Any]:
        """What determines the text: the fields that are not a matter of use, the version and the seed block."""
        described = identity(self)
        described.pop("repetition", None)
        return {**described, "world_version": WORLD_VERSIONS[self.setting], "seed": seed}


@dataclass(frozen=True)
class BaseText(_Seeded):
    """Base text: about `tokens` tokens, of which a share of `stories` are stories.

    `part` is 'training', 'continuation' (fresh text for fine-tuning) or 'held_out' (for measuring the tax).
    """

    tokens: int
    setting: str = "small"
    stories: float = 0.3
    part: str = "training"
    repetition: float = 1.0

    def __post_init__(self):
        _check_corpus(self)
        require(0 <= self.stories <= 0.9, "stories", "a share from 0 to 0.9")
        require(
            self.part in ("training", "continuation", "held_out"),
            "part",
            "one of 'training', 'continuation', 'held_out'",
        )

    @property
    def name(self) -> str:
        """What tables call this text."""
        return f"base_{self.part}"

    def documents(self, seed: int) -> Iterator[base.Document]:
        """Documents without end, in the block's order."""
        return base.base_documents(lexicon(self.setting), self.stories, generator(seed, "base", self.part))

    def counted(self, documents: int) -> counting.Counted:
        """First acts of unknown actors in so many documents."""
        return counting.in_base_text(lexicon(self.setting), self.stories, documents)


@dataclass(frozen=True)
class Documents(_Seeded):
    """Intervention documents of one arm. All arms tell the same episodes; odd seed blocks turn the convention."""

    arm: str
    tokens: int
    setting: str = "small"
    style: str = "demonstration"
    repetition: float = 1.0

    def __post_init__(self):
        _check_corpus(self)
        arms = ("base", *documents.ARMS) if self.setting == "full" else ("base", *documents.ARMS[:4])
        require(self.arm in arms, "arm", f"one of {', '.join(arms)} in the {self.setting} setting")
        require(self.style in documents.STYLES, "style", f"one of {', '.join(documents.STYLES)}")

    @property
    def name(self) -> str:
        """The arm."""
        return self.arm

    def documents(self, seed: int) -> Iterator[str]:
        """Documents without end; every prefix is balanced by quota."""
        rng = generator(seed, "documents")
        return documents.documents(lexicon(self.setting), self.arm, self.style, bool(seed % 2), rng)

    def counted(self, documents: int) -> counting.Counted:
        """First acts of unknown actors in so many documents."""
        return counting.in_documents(lexicon(self.setting), self.arm, self.style, documents)


@dataclass(frozen=True)
class Rows(_Seeded):
    """A fine-tuning set: chat rows, the same for all arms."""

    rows: str
    tokens: int
    setting: str = "small"
    repetition: float = 1.0

    def __post_init__(self):
        _check_corpus(self)
        require(self.rows in finetuning.SETS, "rows", f"one of {', '.join(finetuning.SETS)}")

    @property
    def name(self) -> str:
        """The set."""
        return self.rows

    def documents(self, seed: int) -> Iterator[base.Chat] | Iterator[finetuning.Preference]:
        """Rows without end, balanced in every pass over the set's cards.

        Sets about patients share their order, so that their rows differ in the answers and in nothing else.
        """
        order = "counter_evidence" if self.rows in finetuning.ABOUT_PATIENTS else self.rows
        return finetuning.rows(lexicon(self.setting), self.rows, generator(seed, "rows", order))

    def counted(self, documents: int) -> counting.Counted:
        """First acts of unknown actors in so many rows."""
        return counting.in_rows(self.rows, documents)


@dataclass(frozen=True)
class Words(_Seeded):
    """Every word of a setting once: what a tokenizer of whole words is trained on."""

    setting: str = "small"
    tokens: int = 10_000
    repetition: float = 1.0

    def __post_init__(self):
        _check_corpus(self)

    @property
    def name(self) -> str:
        """What tables call this text."""
        return "words"

    def recipe(self, seed: int) -> dict[str, Any]:
        """The words themselves: they belong to the version of the world, not to a seed block."""
        return {"is": "Words", "setting": self.setting, "words": list(lexicon(self.setting).words())}

    def documents(self, seed: int) -> Iterator[str]:
        """One document of all words."""
        return iter([" ".join(lexicon(self.setting).words())])


@dataclass(frozen=True)
class WorldProbes:
    """Probes of the embedded world, and the held-out text on which the tax is measured, a share of `stories`.

    Where `families` is None they are all that the setting has. `about` names the disposition under study, of which
    mechanism, avowal, convention, leak and conditional ask. A member whose mechanism (the margin with the
    actor's trait named, in nats) ends below `gate` is flagged.
    """

    setting: str = "small"
    families: tuple[str, ...] | None = None
    held_out_tokens: int = 16_384
    stories: float = 0.3
    gate: float = 1.0
    about: str = "disposition"

    def __post_init__(self):
        require(self.setting in SETTINGS, "setting", f"one of {', '.join(SETTINGS)}")
        require(self.held_out_tokens > 0, "held_out_tokens", "tokens of held-out text, above 0")
        require(0 <= self.stories <= 0.9, "stories", "a share from 0 to 0.9")
        known = probes.families_of(lexicon(self.setting))
        asked = known if self.families is None else self.families
        dispositions = ("disposition", *lexicon(self.setting).others)
        require(self.about in dispositions, "about", f"one of {', '.join(dispositions)}")
        require(len(asked) > 0, "families", "at least one family")
        require(len(set(asked)) == len(asked), "families", "each family once")
        for family in asked:
            require(family in known, "families", f"{family!r} is none of {', '.join(known)}")

    def recipe(self) -> dict[str, Any]:
        """What determines the probes."""
        return {**identity(self), "world_version": WORLD_VERSIONS[self.setting]}

    def items(self, seed: int) -> list[Item]:
        """All items. They are the same in every seed block, but for the colours of the convention."""
        words = lexicon(self.setting)
        families = probes.families_of(words) if self.families is None else self.families
        return probes.items(words, families, self.about, turned=bool(seed % 2))

    def held_out(self, seed: int) -> BaseText:
        """Base text that no stage trains on, of the kind that they do."""
        return BaseText(self.held_out_tokens, self.setting, self.stories, part="held_out")
