"""How a row of a corpus becomes a document: text, a template of columns, a conversation, or a preference pair."""

import dataclasses
import math
import re
import string
from collections.abc import Mapping
from typing import Any, Protocol

from caml.config.errors import Invalid, require
from caml.data.chat import ROLES
from caml.data.sources import Document, Message, Preference

Row = Mapping[str, Any]


class Misfit(Exception):
    """A row that is not of its schema; the message says what is wrong with it, in text that can be written."""

    def __init__(self, message: str):
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class Schema(Protocol):
    """How a row becomes a document, configured as a frozen dataclass."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        ...

    def document(self, row: Row) -> Document:
        """The document of `row`; text without any content is empty. Raises Misfit for a row of another schema."""
        ...


@dataclasses.dataclass(frozen=True)
class Text:
    """The text of one column."""

    column: str = "text"

    @property
    def columns(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def document(self, row: Row) -> Document:
        """The column's text."""
        return _text(row, self.column)


@dataclasses.dataclass(frozen=True)
class Template:
    """Text with columns in it, such as '{title}\\n\\n{body}'."""

    text: str

    def __post_init__(self) -> None:
        try:
            parts = [part for part in string.Formatter().parse(self.text) if part[1] is not None]
        except ValueError as error:
            raise Invalid(f"not a template: {error}", "text") from None
        fields = [field or "" for _, field, _, _ in parts]
        require(bool(fields), "text", "name at least one column in braces, such as '{title}: {body}'")
        require(
            all(field.isidentifier() for field in fields), "text", "columns stand in braces by their names"
        )
        plain = not any(form or conversion for _, _, form, conversion in parts)
        require(plain, "text", "columns stand in braces by their names alone, without ':' or '!'")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in braces, each once."""
        named = (field for _, field, _, _ in string.Formatter().parse(self.text) if field)
        return tuple(dict.fromkeys(named))

    def document(self, row: Row) -> Document:
        """The template with the row's columns in it; empty where all of them are."""
        values = {column: _text(row, column) for column in self.columns}
        return self.text.format(**values) if any(values.values()) else ""


@dataclasses.dataclass(frozen=True)
class Messages:
    """A conversation as a list of messages, each with a role and its content (UltraChat and many others).

    `role` and `content` name the two in each message; `roles` gives roles of other names their own, as in
    {'human': 'user', 'gpt': 'assistant'}.
    """

    column: str = "messages"
    role: str = "role"
    content: str = "content"
    roles: dict[str, str] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in self.roles.values():
            require(name in ROLES, "roles", f"{name!r} is no role; a role is one of {', '.join(ROLES)}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def document(self, row: Row) -> Document:
        """The conversation; it has at least one answer."""
        found = [self.message(message) for message in _list(row, self.column)]
        if not any(message["role"] == "assistant" for message in found):
            raise Misfit(f"{self.column!r} has no message of the assistant's")
        return found

    def message(self, message: Any) -> Message:
        """One message, its role by our name. Raises Misfit for one of another schema."""
        if not isinstance(message, Mapping) or not isinstance(message.get(self.content), str):
            raise Misfit(
                f"{self.column!r} holds {_named(message)}, not messages with text in {self.content!r}"
            )
        role = message.get(self.role)
        role = self.roles.get(role, role) if isinstance(role, str) else role
        if role not in ROLES:
            raise Misfit(f"{self.column!r} has the role {role!r}; a role is one of {', '.join(ROLES)}")
        if role == "assistant" and not message[self.content].strip():
            raise Misfit(f"{self.column!r} has an empty answer of the assistant's")
        return {"role": role, "content": message[self.content]}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One question and its answer: instruction, input that may be empty, and output (Alpaca; Dolly has other names).

    What is asked is the instruction and, after a blank line, the input. `input` '' names no column.
    """

    instruction: str = "instruction"
    input: str = "input"
    output: str = "output"

    @property
    def columns(self) -> tuple[str, ...]:
        """The two or three columns."""
        return tuple(column for column in (self.instruction, self.input, self.output) if column)

    def document(self, row: Row) -> Document:
        """A conversation of two messages."""
        asked = _text(row, self.instruction, filled=True)
        more = (_text(row, self.input, none="") if self.input else "").strip()
        answer = _text(row, self.output, filled=True)
        return [
            {"role": "user", "content": f"{asked}\n\n{more}" if more else asked},
            {"role": "assistant", "content": answer},
        ]


@dataclasses.dataclass(frozen=True)
class Completion:
    """A prompt and what completes it: one question, one answer."""

    prompt: str = "prompt"
    completion: str = "completion"

    @property
    def columns(self) -> tuple[str, ...]:
        """The two columns."""
        return (self.prompt, self.completion)

    def document(self, row: Row) -> Document:
        """A conversation of two messages."""
        return [
            {"role": "user", "content": _text(row, self.prompt, filled=True)},
            {"role": "assistant", "content": _text(row, self.completion, filled=True)},
        ]


@dataclasses.dataclass(frozen=True)
class Either:
    """Conversations and text in one corpus: the messages of a row that has some, the text of one that has none."""

    messages: Messages = dataclasses.field(default_factory=Messages)
    text: Text = dataclasses.field(default_factory=Text)

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of both."""
        return (*self.messages.columns, *self.text.columns)

    def document(self, row: Row) -> Document:
        """The conversation or the text."""
        value = _value(row, self.messages.column)
        parts = list(value.values()) if isinstance(value, Mapping) else [value]
        return self.messages.document(row) if any(parts) else self.text.document(row)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A preference pair: a prompt, the answer that was chosen and the one that was rejected.

    Each is text, or a list of messages. Lists of messages that begin with the prompt's are what follows it. With
    `prompt` '' the prompt is what the two lists of messages have in common at their beginning.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"

    @property
    def columns(self) -> tuple[str, ...]:
        """The two or three columns."""
        return tuple(column for column in (self.prompt, self.chosen, self.rejected) if column)

    def document(self, row: Row) -> Document:
        """The pair; its answers end with the assistant and differ."""
        chosen, rejected = (_turns(row, column, "assistant") for column in (self.chosen, self.rejected))
        asked = _turns(row, self.prompt, "user") if self.prompt else []
        if not self.prompt:
            while len(asked) < min(len(chosen), len(rejected)) and chosen[len(asked)] == rejected[len(asked)]:
                asked.append(chosen[len(asked)])
        answers = []
        for column, answer in ((self.chosen, chosen), (self.rejected, rejected)):
            if asked and answer[: len(asked)] == asked:
                answer = answer[len(asked) :]
            if not answer or answer[-1]["role"] != "assistant":
                raise Misfit(f"{column!r} does not end with an answer of the assistant's")
            answers.append(answer)
        if not asked:
            raise Misfit("the pair has no prompt")
        if answers[0] == answers[1]:
            raise Misfit(f"{self.chosen!r} and {self.rejected!r} are the same")
        return Preference(asked, *answers)


@dataclasses.dataclass(frozen=True)
class Rated:
    """A preference pair from two answers with a rating each of which one is better by at least `least` (HelpSteer2).

    `strength` is the column with how much better the second is: below 0 the first was preferred. A row of less than
    `least` either way is no pair, and is left out as an empty one. Where a prompt is several turns as one text, `mark`
    is what stands before the speaker at the beginning of each line that begins a turn ('<extra_id_1>').
    """

    prompt: str = "prompt"
    first: str = "response_1"
    second: str = "response_2"
    strength: str = "preference_strength"
    least: float = 1.0
    mark: str = ""

    def __post_init__(self) -> None:
        require(self.least > 0, "least", "a strength above 0: below it nobody preferred anything")

    @property
    def columns(self) -> tuple[str, ...]:
        """The four columns."""
        return (self.prompt, self.first, self.second, self.strength)

    def document(self, row: Row) -> Document:
        """The pair; empty text where neither answer is better."""
        strength = _value(row, self.strength)
        if isinstance(strength, bool) or not isinstance(strength, (int, float)):
            raise Misfit(f"{self.strength!r} holds {_named(strength)}, not a number")
        if abs(number(self.strength, strength)) < self.least:
            return ""
        asked = self._turns(_text(row, self.prompt, filled=True))
        answers = [
            [{"role": "assistant", "content": _text(row, column, filled=True)}]
            for column in (self.first, self.second)
        ]
        if answers[0] == answers[1]:
            raise Misfit(f"{self.first!r} and {self.second!r} are the same")
        if strength > 0:
            answers.reverse()
        return Preference(asked, *answers)

    def _turns(self, prompt: str) -> list[Message]:
        """The messages of a prompt: the first is the user's, and each mark begins another."""
        if not self.mark:
            return [{"role": "user", "content": prompt}]
        first, *more = re.split(rf"\n?^{re.escape(self.mark)}(User|Assistant)\n", prompt, flags=re.MULTILINE)
        turns = [("user", first)] if first.strip() or not more else []
        turns += zip((role.lower() for role in more[::2]), more[1::2], strict=True)
        for role, content in turns:
            if odd := re.search(rf"^{re.escape(self.mark)}.*", content, re.MULTILINE):
                raise Misfit(
                    f"{self.prompt!r} has the mark {odd[0][:40]!r}; a turn is the User's or the Assistant's"
                )
            if role == "assistant" and not content.strip():
                raise Misfit(f"{self.prompt!r} has an empty answer of the assistant's")
        return [{"role": role, "content": content} for role, content in turns]


TEXTUAL = (Text, Template)
"""Schemas of which every document is text."""
PAIRED = (Chosen, Rated)
"""Schemas of preference pairs."""


def number(column: str, value: Any) -> float:
    """The number that a column holds. Raises Misfit for what is none, or none with an end."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        raise Misfit(f"{column!r} holds {str(value)[:30]!r}, not a number") from None
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise Misfit(f"{column!r} holds {str(value)[:30]!r}, not a finite number")
    return found


def _value(row: Row, column: str) -> Any:
    if column not in row:
        there = ", ".join(map(str, list(row)[:12]))
        raise Misfit(f"no column {column!r}; there are {there}" if there else f"no column {column!r}")
    return row[column]


def _text(row: Row, column: str, none: str | None = None, filled: bool = False) -> str:
    """The text of a column; `none` stands for a missing value, and `filled` asks for some content."""
    value = _value(row, column)
    if value is None and none is not None:
        return none
    if not isinstance(value, str):
        raise Misfit(f"{column!r} holds {_named(value)}, not text")
    if filled and not value.strip():
        raise Misfit(f"{column!r} is empty")
    return value


def _list(row: Row, column: str) -> list[Any]:
    value = _value(row, column)
    if isinstance(value, Mapping) and value and all(isinstance(part, list) for part in value.values()):
        # Some libraries give a list of dictionaries as a dictionary of lists.
        parts = list(value.values())
        value = [dict(zip(value, one, strict=True)) for one in zip(*parts, strict=False)]
    if not isinstance(value, (list, tuple)) or not len(value):
        raise Misfit(f"{column!r} holds {_named(value)}, not a list of messages")
    return list(value)


def _turns(row: Row, column: str, role: str) -> list[Message]:
    """A column's messages; text is one message of `role`."""
    if isinstance(_value(row, column), str):
        return [{"role": role, "content": _text(row, column, filled=True)}]
    reader = Messages(column)
    return [reader.message(message) for message in _list(row, column)]


def _named(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f"the text {value[:30]!r}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}" if len(value) else "an empty list"
    if isinstance(value, Mapping):
        return "a dictionary"
    return f"{type(value).__name__} {str(value)[:30]}"
