"""The benchmarks that a model sat: a folder for each, below one of the model's, with a marker of its own."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from caml.config.errors import Failure
from caml.data import files
from caml.tracking import markers, segments
from caml.tracking.markers import MARKER, Damaged

if TYPE_CHECKING:  # whoever launches an ablation need not wait for it
    import pandas as pd

BENCHMARKS = "benchmarks"
OVERALL = "overall"
"""The dimension that a benchmark's own overall score stands under."""
SCORES, SAMPLES = "scores.json", "samples.parquet"


def benchmarks(shelf: Path) -> list[str]:
    """The folders below `shelf` that have their marker, in order."""
    return sorted(x.name for x in shelf.iterdir() if (x / MARKER).exists()) if shelf.is_dir() else []


def write(
    folder: Path, scores: Mapping[str, Any], samples: "pd.DataFrame", params: str, others: Sequence[str] = ()
) -> None:
    """Write a benchmark's summary and samples, and the marker last, over these and `others`, files that are there.

    `params`: the digest of the parameters that were asked.
    """
    table = pa.Table.from_pandas(samples, preserve_index=False)
    files.write_bytes(folder / SAMPLES, segments.parquet(table))
    files.write_json(folder / SCORES, scores)
    markers.write(folder, [SAMPLES, SCORES, *others], {"params": params})


def read(shelf: Path, benchmark: str, name: str, params: str = "") -> tuple[dict[str, Any], int]:
    """The summary of a benchmark of the model `name`, and when it was written (milliseconds since 1970).

    Raises Failure for a file that is not what was written, or where the model's parameters have the digest `params` and
    the benchmark is of others.
    """
    with _told(shelf, benchmark):
        marker = _marker(shelf, benchmark, name, params)
        return json.loads(marker.read(SCORES)), marker.written


def require_whole(shelf: Path, benchmark: str, name: str) -> None:
    """Raise Failure, as `read`, for any file of a benchmark that is not what was written, the library's log too."""
    with _told(shelf, benchmark):
        if damage := markers.read(shelf / benchmark, name, benchmark).damage(content=True):
            raise damage


def read_samples(shelf: Path, benchmark: str, name: str, params: str = "") -> "pd.DataFrame":
    """What each sample scored: `sample, item, language, epoch, dimension, value, unscored, error`; raises as `read`."""
    with _told(shelf, benchmark):
        return segments.read_parquet(_marker(shelf, benchmark, name, params).read(SAMPLES)).to_pandas()


def _marker(shelf: Path, benchmark: str, name: str, params: str) -> markers.Marker:
    marker = markers.read(shelf / benchmark, name, benchmark)
    if params and marker.notes["params"] != params:
        raise Damaged(marker.folder / MARKER, "belongs to other parameters", name, benchmark)
    return marker


@contextlib.contextmanager
def _told(shelf: Path, benchmark: str) -> Iterator[None]:
    """Say of damage what is to be done."""
    try:
        yield
    except Damaged as damaged:
        raise Failure(
            f"{damaged.file} {damaged.wrong}: move {shelf / benchmark} away, and the benchmark is asked again"
        ) from None
