"""A forced-choice item: a mirror pair of contexts in which the same two continuations change places."""

from dataclasses import dataclass, field

Turn = dict[str, str]


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
    entities with which intervals are crossed (template, kind, need, name).
    """

    name: str
    family: str
    rung: str
    questions: tuple[Question, ...]
    tags: dict[str, str] = field(default_factory=dict)
