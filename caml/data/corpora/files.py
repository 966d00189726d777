"""A corpus in files of this machine: Parquet, JSONL, CSV and text, plain or compressed."""

import bz2
import csv
import dataclasses
import functools
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from caml.config.errors import Failure, Invalid, require
from caml.data.corpora.corpus import Corpus, Placed
from caml.data.files import digest_file

FORMATS = {
    "parquet": (".parquet", ".pq"),
    "jsonl": (".jsonl", ".ndjson", ".json"),
    "csv": (".csv",),
    "tsv": (".tsv",),
    "text": (".txt", ".text", ".md"),
}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
UNITS = ("line", "paragraph", "file")
ROWS_AT_ONCE = 256
"""Rows of a Parquet file that are held as Python objects."""

# What the readers of compressed files raise where one is cut short or altered.
_BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files(Corpus):
    """A file, a folder of files, or those that a pattern such as 'data/*.jsonl.gz' matches, by order of their names.

    `format`, one for all files, is told by their names unless it is given: parquet, jsonl (an object on each line),
    csv and tsv (with a line of names), text. Of a text, `unit` is what one document is: a line, a paragraph (lines up
    to a blank one, their breaks kept) or the whole file; its only column is 'text'. With `join`, units that follow each
    other are one document, a blank line between them, until it has so many characters or the file ends. The recipe
    holds the digests of the files, so files that moved are the same corpus and files that changed are another.
    """

    path: str
    format: str = ""
    unit: str = "line"
    join: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.path), "path", "a file, a folder of files, or a pattern of names")
        require(
            self.format in ("", *FORMATS),
            "format",
            f"one of {', '.join(FORMATS)}, or '' to go by the names of the files; not {self.format!r}",
        )
        require(self.join >= 0, "join", "the least characters of a document of a text, or 0")
        require(self.unit in UNITS, "unit", f"one of {', '.join(UNITS)}, not {self.unit!r}")

    def place(self) -> str:
        """Where it is read from, in words."""
        return self.path

    def read_from(self) -> dict[str, Any]:
        """Digests of the files and how they are cut. Raises Invalid without files, or where formats are mixed."""
        files = [(path, self._format(path)) for path in self._files()]
        firsts = {kind: path.name for path, kind in reversed(files)}
        if len(firsts) > 1:
            named = ", ".join(f"{kind} ({name})" for kind, name in sorted(firsts.items()))
            raise Invalid(
                f"{self.path} has files of several formats: {named}; a pattern such as '*.jsonl' names those of one",
                "path",
            )
        text = any(kind == "text" for _, kind in files)
        return {
            "source": "Files",
            "files": [
                [kind, _digest(path, path.stat().st_size, path.stat().st_mtime_ns)] for path, kind in files
            ],
            "unit": [self.unit, self.join] if text else "",
        }

    def placed(self, skip: int = 0) -> Iterator[Placed]:
        """The rows of the files in their order, less the first `skip`."""
        try:
            files = [(path, self._format(path)) for path in self._files()]
        except Invalid as gone:
            raise Failure(f"{self.name}: {gone.message}") from None
        for path, kind in files:
            if kind == "parquet":
                skip -= yield from _parquet(path, self.columns, skip)
                continue
            for placed in self._read(path, kind):
                if skip:
                    skip -= 1
                else:
                    yield placed

    def _read(self, path: Path, kind: str) -> Iterator[Placed]:
        count = 0
        try:
            with _opened(path) as file:
                if kind == "jsonl":
                    rows = _json_rows(path, file, self.longest)
                elif kind == "text":
                    rows = _text_rows(path, file, self.unit, self.longest)
                    rows = _joined(rows, self.join, self.longest) if self.join else rows
                else:
                    rows = _csv_rows(path, file, "\t" if kind == "tsv" else ",", self.columns, self.longest)
                for count, placed in enumerate(rows, start=1):  # noqa: B007 (told below)
                    yield placed
        except _BROKEN as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise Failure(f"{path} cannot be read: {error.strerror}") from None
            yield Placed(
                f"{path}, after {count} rows", None, f"the file is cut short or altered ({error})", lost=True
            )

    def _files(self) -> list[Path]:
        path = Path(self.path)
        if path.is_dir():
            files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            require(bool(files), "path", f"the folder {path} holds no files")
            return files
        if any(mark in self.path for mark in "*?[") and not path.exists():
            root = Path(path.anchor) if path.is_absolute() else Path()
            files = sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())
            require(bool(files), "path", f"no file has a name like {path}")
            return files
        require(
            path.exists(), "path", f"{path} does not exist; it names a file, a folder of files or a pattern"
        )
        return [path]

    def _format(self, path: Path) -> str:
        if self.format:
            return self.format
        plain = path.with_suffix("") if path.suffix in COMPRESSED else path
        for kind, suffixes in FORMATS.items():
            if plain.suffix in suffixes:
                return kind
        known = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
        raise Invalid(f"the format of {path} is not told by its name ({known}); give it by `format`", "path")


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    """The digest of a file, read once for all cells of a grid unless its size or time changes."""
    return digest_file(path)


def _opened(path: Path) -> IO[bytes]:
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    if path.suffix == ".zst":
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    return openers.get(path.suffix, open)(path, "rb")


def _lines(file: IO[bytes], longest: int) -> Iterator[bytes | None]:
    """Lines of at most `longest` bytes; None for one that is longer, which is passed over in pieces."""
    while line := file.readline(longest + 1):
        if len(line) <= longest or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(1 << 20)
        yield None


def _decoded(path: Path, file: IO[bytes], longest: int) -> Iterator[tuple[str, str, str]]:
    """Of each line its place, its text, and what is wrong with it ('' where nothing is)."""
    for number, line in enumerate(_lines(file, longest), start=1):
        place = f"{path}:{number}"
        if line is None:
            yield place, "", f"a line of more than {longest:,} bytes"
            continue
        try:
            yield place, line.decode("utf-8-sig" if number == 1 else "utf-8"), ""
        except UnicodeDecodeError as error:
            yield place, "", f"not UTF-8 text (byte {error.start + 1} of the line)"


def _json_rows(path: Path, file: IO[bytes], longest: int) -> Iterator[Placed]:
    for place, line, problem in _decoded(path, file, longest):
        if problem:
            yield Placed(place, None, problem)
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                yield Placed(place, row)
            else:
                yield Placed(place, None, "not a JSON object on one line")


def _text_rows(path: Path, file: IO[bytes], unit: str, longest: int) -> Iterator[Placed]:
    held: list[str] = []
    size, begun = 0, ""
    for place, line, problem in _decoded(path, file, longest):
        if problem:
            yield Placed(place, None, problem)
        elif unit == "line":
            if line.strip():
                yield Placed(place, {"text": line.strip()})
        elif line.strip() or unit == "file":
            begun = begun or place
            size += len(line)
            if size <= longest:
                held.append(line.rstrip() if unit == "paragraph" else line)
        elif begun:
            yield _held(begun, held, size, longest, "\n")
            held, size, begun = [], 0, ""
    if begun:
        yield _held(begun, held, size, longest, "\n" if unit == "paragraph" else "")


def _joined(rows: Iterator[Placed], least: int, longest: int) -> Iterator[Placed]:
    """Documents of at least `least` characters, but for the last."""
    held: list[str] = []
    size, begun = 0, ""
    for placed in rows:
        if placed.row is None:
            yield placed
            continue
        begun = begun or placed.place
        held.append(placed.row["text"])
        size += len(held[-1]) + 2
        if size >= least:
            yield _held(begun, held, size, longest, "\n\n")
            held, size, begun = [], 0, ""
    if begun:
        yield _held(begun, held, size, longest, "\n\n")


def _held(place: str, held: list[str], size: int, longest: int, between: str) -> Placed:
    if size > longest:
        return Placed(place, None, f"a document of more than {longest:,} characters")
    return Placed(place, {"text": between.join(held).strip()})


def _csv_rows(
    path: Path, file: IO[bytes], delimiter: str, columns: tuple[str, ...], longest: int
) -> Iterator[Placed]:
    # A byte that is not UTF-8 comes through as a surrogate, so that the rows after it are read all the same.
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
    csv.field_size_limit(longest)
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    twice = ""
    while True:
        place = f"{path}:{reader.line_num + 1}"
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Placed(place, None, f"not a row of a CSV file ({error})")
            continue
        if not values:
            continue
        if names is None:
            names = values
            twice = next((column for column in columns if names.count(column) > 1), "")
            continue
        if len(values) != len(names):
            yield Placed(place, None, f"{len(values)} fields, and the first line names {len(names)}")
            continue
        if twice:
            yield Placed(place, None, f"the first line names {twice!r} more than once")
            continue
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            yield Placed(place, None, "not UTF-8 text")
            continue
        yield Placed(place, dict(zip(names, values, strict=True)))


def not_whole(file: Path | IO[bytes]) -> str:
    """What keeps a Parquet file from being opened: it is cut short, or none; '' where nothing does.

    Raises OSError where that is not the file's fault.
    """
    try:
        pq.ParquetFile(file).close()
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, (ConnectionError, TimeoutError)) or getattr(error, "errno", None) is not None:
            raise
        return f"not a whole Parquet file ({' '.join(str(error).split())})"
    return ""


def _parquet(path: Path, columns: tuple[str, ...], skip: int) -> Generator[Placed, None, int]:
    """The rows of a file less the first `skip`; returns how many were passed over.

    They are read to be counted: a file that is broken inside has fewer than it states.
    """
    try:
        problem = not_whole(path)
    except OSError as error:
        raise Failure(f"{path} cannot be read: {error.strerror}") from None
    if problem:
        if skip:
            return 1
        yield Placed(str(path), None, problem, lost=True)
        return 0
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    wanted = [name for name in columns if name in names]
    missing = [name for name in columns if name not in names]
    twice = [name for name in wanted if names.count(name) > 1]
    problem = f"no column {missing[0]!r}; there are {', '.join(names[:12])}" if missing else ""
    problem = f"the file has more than one column {twice[0]!r}" if twice else problem
    number = 0
    try:
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=wanted):
            passed = min(max(0, skip - number), len(batch))
            number += passed
            for row in _rows_of(batch.slice(passed)):
                number += 1
                wrong = problem or ("" if row else "not UTF-8 text")
                yield Placed(f"{path} row {number}", None if wrong else row, wrong)
    except (pa.ArrowException, OSError) as error:
        if skip > number:
            return number + 1
        yield Placed(
            f"{path}, after {number} rows",
            None,
            f"the file is altered ({' '.join(str(error).split())[:200]})",
            lost=True,
        )
    return min(skip, number)


def _rows_of(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one whose text is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for number in range(len(batch)):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except UnicodeDecodeError:
                yield None
