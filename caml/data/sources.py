"""Where documents come from: what a document is, and the protocol of a source."""

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, NamedTuple, Protocol

from caml.config.errors import require

Message = dict[str, str]
"""One turn of a conversation: its `role` (system, user or assistant) and its `content`."""


class Preference(NamedTuple):
    """A prompt with two answers of which one was chosen; each a list of messages."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


NAME_RULE = "letters, digits, '-', '_' and '.', and begins with no '.'"
"""What a source is named with."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")

Document = str | list[Message] | Preference
"""Plain text, or what the tokenizer puts through the chat template: a conversation, or a preference pair."""


def require_name(name: str, field: str = "name") -> None:
    """Raise Invalid for a name that no folder of a store has: it goes by NAME_RULE."""
    require(_NAME.fullmatch(name) is not None, field, f"a name is of {NAME_RULE}; not {name!r}")


def texts(document: Document) -> list[str]:
    """What people and corpora wrote in a document: its text, or what its messages say."""
    if isinstance(document, str):
        return [document]
    if isinstance(document, tuple):
        return [message["content"] for part in document for message in part]
    return [message["content"] for message in document]


def unwritable(texts: Iterable[str]) -> str:
    """The first character that UTF-8 cannot write (half of a surrogate pair), as an escape; '' where there is none."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return ascii(text[error.start])
    return ""


class Sample(Protocol):
    """What a tokenizer is trained on: a maker of documents, configured as a frozen dataclass."""

    @property
    def name(self) -> str:
        """What the store is called; see NAME_RULE."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens to write, special tokens included; the document that reaches them is the last. 0: all there are."""
        ...

    def recipe(self, seed: int) -> dict[str, Any]:
        """Identity of the text that `documents(seed)` makes, as JSON data; does not depend on paths."""
        ...

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents, endless or not, in a fixed order."""
        ...


class Source(Sample, Protocol):
    """A maker of documents that become a token store.

    `tokens` is the size of the store, `repetition` how many times a stage may go through it. A `seeded` source
    draws its documents from the seed and yields them in the order of the seed block; the others yield a corpus
    that is the same for all seeds and that each seed block permutes.
    """

    seeded: ClassVar[bool]

    @property
    def repetition(self) -> float:
        """Cap in epochs on how often a stage may go through the store."""
        ...

    @property
    def origin(self) -> str:
        """Where the text is from, for the manifest of the store."""
        ...

    @property
    def revision(self) -> str:
        """Which version of its origin it is."""
        ...

    @property
    def licence(self) -> str:
        """Under which licence the text may be used."""
        ...
