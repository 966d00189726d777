"""Where documents come from: the protocol of a source, and the source that reads local text files."""

import dataclasses
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from caml.config.errors import Failure, Invalid, UserError, require
from caml.config.fingerprint import runtime
from caml.data.files import digest_file

Message = dict[str, str]
"""One turn of a conversation: its `role` (system, user or assistant) and its `content`."""

Document = str | list[Message]
"""Plain text, or a conversation that the tokenizer puts through the chat template."""


class Source(Protocol):
    """A maker of documents, configured as a frozen dataclass.

    `tokens` is the size of the token store to make, `repetition` how many times a stage may go through
    it. A `seeded` source draws its documents from the seed and yields them in the order of the seed
    block; the others yield a corpus that is the same for all seeds and that each seed block permutes.
    """

    seeded: ClassVar[bool]

    @property
    def name(self) -> str:
        """What the store is called: letters, digits, `-`, `_` and `.`."""
        ...

    @property
    def tokens(self) -> int:
        """Tokens to write, special tokens included; the document that reaches them is the last."""
        ...

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

    def recipe(self, seed: int) -> dict[str, Any]:
        """Identity of the text that `documents(seed)` makes, as JSON data; does not depend on paths."""
        ...

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents, endless or not, in a fixed order."""
        ...


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A text or JSONL file, or a folder of them (read in the order of their names).

    `unit` says what one document is: a `line` of a text file, a `paragraph` (lines up to a blank one;
    its line breaks are kept), or a `row` of a JSONL file, whose field `column` holds either text or a list
    of messages. Empty documents are left out. The recipe holds the digests of the files, so a file that
    moved is the same corpus and a file that changed is another.
    """

    name: str
    tokens: int
    path: str = runtime()
    repetition: float = 1.0
    unit: str = "line"
    column: str = "text"
    origin: str = runtime("")
    revision: str = runtime("")
    licence: str = runtime("")

    seeded: ClassVar[bool] = False
    units: ClassVar[tuple[str, ...]] = ("line", "paragraph", "row")

    def __post_init__(self) -> None:
        require(self.tokens > 0, "tokens", "the number of tokens to take from the file, at least 1")
        require(self.repetition > 0, "repetition", "a number of epochs above 0")
        require(self.unit in self.units, "unit", f"one of {', '.join(self.units)}, not {self.unit!r}")

    def recipe(self, seed: int) -> dict[str, Any]:
        """Digests of the files and how they are cut; the same for every seed. Raises Invalid without files."""
        return {
            "source": "TextFile",
            "files": [_digest(path, path.stat().st_size, path.stat().st_mtime_ns) for path in self._files()],
            "unit": self.unit,
            "column": self.column if self.unit == "row" else "",
        }

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents in the order of the files. Raises UserError naming file and line of a bad row."""
        try:
            files = self._files()
        except Invalid as gone:
            raise Failure(f"{self.name}: {gone.message}") from None
        for path in files:
            with open(path, encoding="utf-8-sig") as file:
                try:
                    if self.unit == "line":
                        yield from (text for line in file if (text := line.strip()))
                    elif self.unit == "paragraph":
                        yield from _paragraphs(file)
                    else:
                        yield from _rows(path, file, self.column)
                except UnicodeDecodeError as error:
                    raise UserError(f"{path}: not UTF-8 text (byte {error.start} of a block)") from None

    def _files(self) -> list[Path]:
        path = Path(self.path)
        require(path.exists(), "path", f"{path} does not exist; it names a text file or a folder of them")
        files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
        require(bool(files), "path", f"the folder {path} holds no files")
        return files


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    """The digest of a file, read once for all cells of a grid unless its size or time changes."""
    return digest_file(path)


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line.rstrip())
        elif paragraph:
            yield "\n".join(paragraph)
            paragraph = []
    if paragraph:
        yield "\n".join(paragraph)


def _rows(path: Path, lines: Iterator[str], column: str) -> Iterator[Document]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise UserError(f"{path}:{number}: not a JSON object on one line") from None
        if not isinstance(row, dict) or column not in row:
            raise UserError(
                f"{path}:{number}: no field {column!r}; `column` names the one that holds the document"
            )
        document = row[column]
        if not isinstance(document, str) and not _is_conversation(document):
            raise UserError(
                f"{path}:{number}: {column!r} is neither text nor a list of messages (`role`, `content`)"
            )
        if document:
            yield document


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in value
    )
