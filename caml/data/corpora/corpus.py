"""What corpora of other people's text have in common: fields, filters on columns, and rows that do not fit."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from caml.config.errors import Refused, require
from caml.config.fingerprint import identity, runtime
from caml.data.corpora.schemas import Misfit, Row, Schema, Text, number
from caml.data.hygiene.hygiene import Hygiene
from caml.data.sources import Document, require_name, texts, unwritable

MISFITS = ("refuse", "skip")
LONGEST = 1 << 30
"""Characters of a document, or bytes of its line: more than every reader takes."""


class Placed(NamedTuple):
    """A row as it stands in its file: where, and its columns, or what is wrong with it.

    `lost`: the rest of the file cannot be read either.
    """

    place: str
    row: Row | None
    problem: str = ""
    lost: bool = False


class Found(NamedTuple):
    """What became of a row: a document, or why there is none.

    `left_out` is 'filter' or 'empty', or with what is wrong in `problem` 'misfit', or 'broken' for the rest of a file;
    '' where there is a document.
    """

    place: str
    document: Document | None
    left_out: str = ""
    problem: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Fields of every corpus.

    `tokens` are taken from its beginning (0: all of it), and a stage may go through them `repetition` times.
    `schema` says how a row becomes a document. Rows are kept whose columns have one of the values in `where`, and
    at least or at most the numbers in `at_least` and `at_most`. A row that does not fit is refused by its file and
    row, or with `misfits` 'skip' counted, named beside the store and left out, as the rest of a broken file is; one of
    more than `longest` characters fits nowhere. `hygiene` is what else is removed.
    """

    name: str
    tokens: int = 0
    schema: Schema = dataclasses.field(default_factory=Text)
    where: dict[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    at_least: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    at_most: dict[str, float] = dataclasses.field(default_factory=dict, hash=False)
    misfits: str = "refuse"
    longest: int = 1 << 24
    hygiene: Hygiene = dataclasses.field(default_factory=Hygiene)
    repetition: float = 1.0
    origin: str = runtime("")
    revision: str = ""
    licence: str = runtime("")

    seeded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_name(self.name)
        if not self.origin:
            object.__setattr__(self, "origin", self.place())
        require(self.tokens >= 0, "tokens", "the number of tokens to take, or 0 for all")
        require(self.repetition > 0, "repetition", "a number of epochs above 0")
        require(
            0 < self.longest <= LONGEST,
            "longest",
            f"the most characters of a document, from 1 to {LONGEST:,}",
        )
        require(self.misfits in MISFITS, "misfits", f"one of {', '.join(MISFITS)}, not {self.misfits!r}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read, each once."""
        return tuple(dict.fromkeys((*self.schema.columns, *self.where, *self.at_least, *self.at_most)))

    def place(self) -> str:
        """Where it is read from, in words: the origin of a corpus of which nothing else is stated."""
        raise NotImplementedError

    def recipe(self, seed: int) -> dict[str, Any]:
        """Identity of the documents, hygiene included, as JSON data; the same for every seed."""
        return {**self.read_from(), **self.described(), "hygiene": self.hygiene.recipe()}

    def read_from(self) -> dict[str, Any]:
        """Identity of what is read, as JSON data. Raises Invalid where it is not there."""
        raise NotImplementedError

    def placed(self, skip: int = 0) -> Iterator[Placed]:
        """The rows in their order, less the first `skip`."""
        raise NotImplementedError

    def texts(self) -> Iterator[str]:
        """What is written in the documents, for who is to be kept apart from them."""
        return (text for document in self.documents(0) for text in texts(document))

    def found(self, skip: int = 0) -> Iterator[Found]:
        """What becomes of each row, less the first `skip`. Raises Refused for one that does not fit."""
        for place, row, problem, lost in self.placed(skip):
            try:
                if row is None:
                    raise Misfit(problem)
                if not self._asked_for(row):
                    yield Found(place, None, "filter")
                    continue
                document = self.schema.document(row)
                if (size := characters(document)) > self.longest:
                    raise Misfit(f"a document of {size:,} characters; the longest has {self.longest:,}")
                if odd := unwritable(texts(document)):
                    raise Misfit(f"its text has {odd}, which UTF-8 cannot write")
                if isinstance(document, str) and not document.strip():
                    yield Found(place, None, "empty")
                else:
                    yield Found(place, document)
            except Misfit as misfit:
                if self.misfits == "refuse":
                    what = "the rest of such files" if lost else "such rows"
                    raise Refused(
                        f"{place}: {misfit}; mend it, or count and leave out {what} with "
                        f"{type(self).__name__}.misfits = 'skip'"
                    ) from None
                yield Found(place, None, "broken" if lost else "misfit", str(misfit))

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents in their order; the same for every seed. Raises Refused for a row that does not fit."""
        return (found.document for found in self.found() if found.document is not None)

    def described(self) -> dict[str, Any]:
        """Identity of what becomes of rows, whatever corpus they are of, as JSON data."""
        return {
            "schema": identity(self.schema),
            "where": identity({column: _several(value) for column, value in self.where.items()}),
            "at_least": identity(self.at_least),
            "at_most": identity(self.at_most),
            "misfits": self.misfits,
            "longest": self.longest,
        }

    def _asked_for(self, row: Row) -> bool:
        return (
            all(_cell(row, column) in _several(value) for column, value in self.where.items())
            and all(_number(row, column) >= least for column, least in self.at_least.items())
            and all(_number(row, column) <= most for column, most in self.at_most.items())
        )


def characters(document: Document) -> int:
    """Characters of a document's text."""
    return sum(map(len, texts(document)))


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _cell(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        there = ", ".join(map(str, list(row)[:12]))
        raise Misfit(f"no column {column!r}; there are {there}" if there else f"no column {column!r}")
    return row[column]


def _number(row: Mapping[str, Any], column: str) -> float:
    return number(column, _cell(row, column))
