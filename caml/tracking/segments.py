"""Segments: immutable Parquet files that each hold the rows measured between two training steps."""

import hashlib
import io
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caml.data import files

_NAME = re.compile(r"(\d{8,})-(\d{8,})\.parquet")


@dataclass(frozen=True)
class Segment:
    """A segment file and the training it covers: the updates from step `begin` up to step `end`."""

    path: Path
    begin: int
    end: int


@dataclass(frozen=True)
class Content:
    """What a segment holds: its rows, and when it was closed (milliseconds since 1970)."""

    table: pa.Table
    written: int


def find(folder: Path) -> list[Segment]:
    """The segments in `folder`, by where they begin; none where the folder is missing."""
    if not folder.is_dir():
        return []
    found = [parse(path) for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda segment: (segment.begin, segment.end))


def parse(path: Path) -> Segment:
    """The segment at `path`, whose name says what it covers."""
    match = _NAME.fullmatch(path.name)
    if not match:
        raise ValueError(f"{path} is not named like a segment")
    return Segment(path, int(match[1]), int(match[2]))


def gap(segments: Sequence[Segment], step: int) -> str | None:
    """Where `segments`, in order, fail to cover the training from step 0 to `step` exactly once."""
    reached = 0
    for segment in segments:
        if segment.begin != reached:
            return f"{reached:08d}-{segment.begin:08d}.parquet"
        reached = segment.end
    if reached != step:
        return f"{min(reached, step):08d}-{max(reached, step):08d}.parquet"
    return None


def write(folder: Path, begin: int, end: int, columns: Mapping[str, Sequence | np.ndarray]) -> Path:
    """Write the rows measured from step `begin` to step `end` as one closed segment, and return its path.

    `columns` are of equal length, one of them `step`, in order and within the bounds. The file carries a
    digest of its own content, since a StageRun that is not finished has no marker that could hold it.
    """
    steps = np.asarray(columns["step"], dtype=np.int64)
    if not 0 <= begin < end or len(steps) == 0:
        raise ValueError(f"a segment needs rows and steps in order, not {len(steps)} rows, {begin}-{end}")
    if steps[0] < begin or steps[-1] > end or np.any(np.diff(steps) < 0):
        raise ValueError(f"rows of the segment {begin}-{end} lie outside it or out of order: {steps}")
    table = pa.table({name: pa.array(_plain(name, values)) for name, values in columns.items()})
    written = int(time.time() * 1000)
    marks = {"caml.digest": _digest(table, begin, end, written), "caml.written": str(written)}
    path = folder / f"{begin:08d}-{end:08d}.parquet"
    files.write_bytes(path, parquet(table.replace_schema_metadata(marks)), durable=False)
    return path


def parquet(table: pa.Table) -> bytes:
    """`table` as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="snappy", use_dictionary=False, write_statistics=False)
    return buffer.getvalue()


def read_parquet(data: bytes) -> pa.Table:
    """The table in `data`, a Parquet file; a quarter of the time that `pyarrow.parquet.read_table` takes."""
    return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)


def decode(segment: Segment, data: bytes) -> Content | None:
    """The rows in `data`, the bytes of the file of `segment`; None where they are not what was written."""
    try:
        table = read_parquet(data)
    except (pa.ArrowException, OSError, ValueError):
        return None
    marks = table.schema.metadata or {}
    try:
        written = int(marks.get(b"caml.written", b""))
    except ValueError:
        return None
    table = table.replace_schema_metadata(None)
    try:
        found = _digest(table, segment.begin, segment.end, written)
    except (pa.ArrowException, ValueError):  # text that is no UTF-8
        return None
    return Content(table, written) if marks.get(b"caml.digest") == found.encode() else None


def _plain(name: str, values: Sequence | np.ndarray) -> np.ndarray | list[str]:
    """Whole numbers as int64, other numbers as float64, text as text: one schema in every segment."""
    array = np.asarray(values)
    if array.dtype.kind == "U":
        return [str(value) for value in array]
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"column {name} holds {array.dtype}, which is neither numbers nor text")
    return array.astype(np.int64 if array.dtype.kind in "biu" else np.float64)


def _digest(table: pa.Table, begin: int, end: int, written: int) -> str:
    """SHA-256 over the bounds, the time, and the names, types and values of the columns."""
    digest = hashlib.sha256(f"{begin}-{end} {written} {table.num_rows}".encode())
    for name, column in zip(table.column_names, table.columns, strict=True):
        digest.update(f"\n{name}:{column.type}:{column.null_count}\n".encode())
        if pa.types.is_string(column.type):
            digest.update("\0".join(map(str, column.to_pylist())).encode())
        else:
            digest.update(column.to_numpy().tobytes())
    return digest.hexdigest()
