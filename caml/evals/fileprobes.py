"""Forced-choice items of a researcher's own, from JSONL files."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caml.config.errors import Failure, Invalid, UserError, require
from caml.config.fingerprint import identity
from caml.data.chat import ROLES
from caml.data.files import digest_file
from caml.data.sources import Source, require_name, unwritable
from caml.worlds.items import Item, Question

FIELDS = ("context", "aligned", "opposed")
MORE = ("tags", "pair")


@dataclasses.dataclass(frozen=True)
class Items:
    """The items of a JSONL file, all of one family and rung.

    Each line is one question: `context` (text, or a list of messages: the last is the assistant's and goes on, or
    the assistant's is to begin), `aligned` and `opposed` (what may follow; after a context of text, or a begun
    answer, a space stands between), and if you like `tags` (a dictionary of texts: entities with which intervals are
    crossed, such as template, kind, need, name) and `pair`: questions of one pair are the halves of a mirror pair, and
    have the same tags, said by one of them or both.
    """

    name: str
    path: str
    family: str = "disposition"
    rung: str = "items"

    def __post_init__(self) -> None:
        require(bool(self.path), "path", "a JSONL file with a question on each line")
        for field in ("name", "family", "rung"):
            require_name(getattr(self, field), field)

    def recipe(self, seed: int) -> dict[str, Any]:
        """What determines the items: the digest of the file, family and rung. Raises Invalid without the file."""
        path = Path(self.path)
        wrong = "is a folder" if path.is_dir() else "does not exist"
        require(path.is_file(), "path", f"{path} {wrong}; it names a JSONL file with a question on each line")
        return {"items": digest_file(path), "family": self.family, "rung": self.rung}

    def items(self) -> list[Item]:
        """The items. Raises UserError naming file and line of a question that cannot be."""
        halves: dict[str, list[tuple[Question, dict[str, str]]]] = {}
        for number, question, tags, pair in self._questions():
            halves.setdefault(self._named(number, pair), []).append((question, tags))
        return [
            Item(
                name=name,
                family=self.family,
                rung=self.rung,
                questions=tuple(question for question, _ in found),
                tags=next((tags for _, tags in found if tags), {}),
            )
            for name, found in halves.items()
        ]

    def lines(self) -> dict[str, int]:
        """The line of the file on which each item begins, by its name; raises as `items`."""
        found: dict[str, int] = {}
        for number, _, _, pair in self._questions():
            found.setdefault(self._named(number, pair), number)
        return found

    def _named(self, number: int, pair: str | None) -> str:
        key = f"line_{number}" if pair is None else f"pair_{pair}"
        return f"{self.family}/{self.rung}/{self.name}/{key}"

    def texts(self) -> Iterator[str]:
        """Each question with either of its endings, for who is to be kept apart from them."""
        for item in self.items():
            for question in item.questions:
                for ending in (question.aligned, question.opposed):
                    yield f"{question.text} {ending}"

    def _questions(self) -> Iterator[tuple[int, Question, dict[str, str], str | None]]:
        path = Path(self.path)
        try:
            lines = path.read_text(encoding="utf-8-sig").split(
                "\n"
            )  # not at every mark that ends a line of prose
        except UnicodeDecodeError:
            raise UserError(f"{path}: not UTF-8 text") from None
        except FileNotFoundError:
            raise Failure(f"{path} is gone") from None
        first: dict[str, dict[str, str]] = {}  # tags, by pair
        begun: dict[str, int] = {}  # the line of its first half
        count: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                odd = unwritable([json.dumps(row, ensure_ascii=False)])
            except (ValueError, RecursionError):
                row, odd = None, ""
            if not isinstance(row, dict):
                raise UserError(f"{path}:{number}: not a JSON object on one line")
            if odd:
                raise UserError(f"{path}:{number}: its text has {odd}, which UTF-8 cannot write")
            try:
                question, tags, pair = _question(row), _tags(row), row.get("pair")
            except Invalid as invalid:
                raise UserError(f"{path}:{number}: {invalid.message}") from None
            if pair is not None:
                pair = str(pair)
                count[pair] = count.get(pair, 0) + 1
                begun.setdefault(pair, number)
                if count[pair] > 2:
                    raise UserError(
                        f"{path}:{number}: the pair {pair!r} has two questions already; a pair has two"
                    )
                if tags and first.setdefault(pair, tags) != tags:
                    raise UserError(
                        f"{path}:{number}: 'tags' of the pair {pair!r} are {first[pair]} in its other half; give "
                        "one of them, or both the same"
                    )
            yield number, question, tags, pair
        if not count and not any(line.strip() for line in lines):
            raise UserError(
                f"{path} has no questions; a line is one, such as "
                '{"context": "The dog was cold. Ana", "aligned": "warmed it", "opposed": "left it"}'
            )
        for pair, halves in count.items():
            if halves == 1:
                raise UserError(f"{path}:{begun[pair]}: the pair {pair!r} has one question; a pair has two")


@dataclasses.dataclass(frozen=True)
class FileProbes:
    """Probes of files: `sets` of items, and `held_out_text` that no stage trains on, for bits per byte.

    A member whose items of the family 'mechanism', where there are such, end below `gate` (nats) is flagged.
    """

    sets: tuple[Items, ...]
    held_out_text: Source
    gate: float = 0.0

    def __post_init__(self) -> None:
        require(len(self.sets) > 0, "sets", "at least one set of items")
        names = [(items.family, items.rung, items.name) for items in self.sets]
        require(len(set(names)) == len(names), "sets", "two sets have the same family, rung and name")

    def recipe(self) -> dict[str, Any]:
        """What determines the items and the held-out text."""
        return {
            "sets": [{"name": items.name, **items.recipe(0)} for items in self.sets],
            "held_out": self.held_out_text.recipe(0),
            "held_out_tokens": self.held_out_text.tokens,
            "gate": identity(self.gate),
        }

    def items(self, seed: int) -> list[Item]:
        """All items; the same in every seed block."""
        return [item for items in self.sets for item in items.items()]

    def held_out(self, seed: int) -> Source:
        """The held-out text; the same in every seed block."""
        return self.held_out_text


def _question(row: dict[str, Any]) -> Question:
    for field in FIELDS:
        if field not in row:
            raise Invalid(f"no field {field!r}; a question has {', '.join(FIELDS)}", field)
    for field in row:
        if field not in (*FIELDS, *MORE):
            known = f"{', '.join(FIELDS)}, and if you like {' and '.join(MORE)}"
            raise Invalid(f"the field {field!r} is not known; a question has {known}", field)
    for field in ("aligned", "opposed"):
        if not isinstance(row[field], str) or not row[field].strip():
            raise Invalid(f"{field!r} is not text with something in it", field)
    if row["aligned"].strip() == row["opposed"].strip():
        raise Invalid("'aligned' and 'opposed' are the same", "aligned", "opposed")
    return Question(_context(row["context"]), row["aligned"].strip(), row["opposed"].strip())


def _context(value: Any) -> str | tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        if not value.strip():
            raise Invalid("'context' is empty", "context")
        return value.rstrip()
    turns = []
    for message in value if isinstance(value, list) else [None]:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise Invalid("'context' is neither text nor a list of messages (`role`, `content`)", "context")
        if message.get("role") not in ROLES:
            raise Invalid(
                f"'context' has the role {message.get('role')!r}; one of {', '.join(ROLES)}", "context"
            )
        turns.append((message["role"], message["content"]))
    if not turns:
        raise Invalid("'context' is empty", "context")
    if turns[-1][0] != "assistant":
        turns.append(("assistant", ""))
    return tuple(turns)


def _tags(row: dict[str, Any]) -> dict[str, str]:
    tags = row.get("tags", {})
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise Invalid("'tags' is not a dictionary of texts", "tags")
    return tags
