"""A forced-choice item: a mirror pair of contexts in which the same two continuations change places."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Question:
    """One half of a mirror pair. A chat context is a list of turns, the last of them begun and not ended."""

    context: str | tuple[tuple[str, str], ...]
    aligned: str
    opposed: str

    @property
    def text(self) -> str:
        """The context as a person reads it."""
        if isinstance(self.context, str):
            return self.context
        return " / ".join(f"{role}: {content}" for role, content in self.context)


@dataclass(frozen=True)
class Item:
    """One or two questions (the halves of a mirror pair), scored together: the margin is their mean.

    `family` says what is asked (disposition, knowledge, ...), `rung` how far from the documents. `tags` are the
    entities with which intervals are crossed (template, kind, need, name). `name` begins with the family and
    the rung, each followed by a slash.
    """

    name: str
    family: str
    rung: str
    questions: tuple[Question, ...]
    tags: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Countable(Protocol):
    """A source of which it is known what a calibrated counter of its documents would count."""

    def counted(self, documents: int) -> tuple[float, float]:
        """Acts that are for and against the disposition in so many documents, in the mean."""
        ...


class Probes(Protocol):
    """A maker of items, configured as a frozen dataclass.

    A member whose mechanism ends below `gate` (nats) is flagged.
    """

    @property
    def gate(self) -> float:
        """The mechanism, in nats, below which a member is flagged."""
        ...

    def recipe(self) -> dict[str, Any]:
        """What determines the items, as JSON data."""
        ...

    def items(self, seed: int) -> list[Item]:
        """All items of a seed block."""
        ...

    def held_out(self, seed: int) -> Any:
        """The source of the text that no stage trains on."""
        ...
