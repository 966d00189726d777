"""What the `datasets` library does that is not wanted here, and what its exceptions tell.

It is imported where it is used: that takes seconds.
"""

import atexit
import contextlib
import functools
import json
import lzma
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NETWORK = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "aiohttp")
_LIBRARIES = ("datasets", "pyarrow", "fsspec", "yaml", *_NETWORK)
CUT = (zlib.error, lzma.LZMAError)
NOTE = "caml.json"
"""Beside a split in the library's cache: as what it was asked for, and the names of the files it is made of."""
MOMENT = 0.1
"""Seconds: a thread that is ready to run has its turn within them."""


@functools.cache
def end_in_peace() -> None:
    """Give Arrow's threads a moment when this process ends: they let go of a file after its last rows are here.

    A process that ends meanwhile is aborted, with its work done: 2 of 100 that end at once (apache/arrow issue 45214).
    """
    atexit.register(threading.Event().wait, MOMENT)


def quiet() -> None:
    """Keep the libraries from writing what is raised too: warnings, and progress where no one watches."""
    import datasets
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils import logging as hub_logging

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    hub_logging.set_verbosity(datasets.logging.CRITICAL)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        disable_progress_bars()


def named(files: list[str], parts: list[Any], rows: Any, name: str) -> list[tuple[str, Any]]:
    """Files and their rows, or all rows as `name` where there is not a part for each file."""
    return list(zip(files, parts, strict=True)) if len(files) == len(parts) else [(name, rows)]


def noted(folder: Path) -> dict[str, Any]:
    """What is noted of a split in the library's cache, or can be told of one that others downloaded."""
    if (note := folder / NOTE).exists():
        return dict(json.loads(note.read_text()))
    config = folder.parts[-3]
    return {"asked": [[config, ""], *([["", ""]] if config == "default" else [])], "files": {}}


def leave_out(builder: Any, read: tuple[str, ...]) -> None:
    """Let a file have columns that the data set has not, or that are none of `read` where some are told.

    The library refuses a file for one more column than the first has, and for another type of one that nobody reads.
    """
    if not hasattr(builder, "_cast_table"):
        return
    cast = builder._cast_table

    def of_those(table: Any, *more: Any, **named: Any) -> Any:
        if (features := builder.info.features) is not None:
            wanted = [name for name in read if name in features] or features
            table = table.select([name for name in table.column_names if name in wanted])
        return cast(table, *more, **named)

    builder._cast_table = of_those


def columns_told(builder: Any) -> bool:
    """Have the columns told by the first file that is whole; a broken one is named when it is read."""
    whole = builder.config.data_files
    try:
        for split, files in whole.items():
            for file in files:
                builder.config.data_files = {split: [file]}
                try:
                    builder.as_streaming_dataset()
                    return True
                except Exception as error:
                    if not of_a_file(error):
                        raise
    finally:
        builder.config.data_files = whole
    return False


@contextlib.contextmanager
def no_other_commit() -> Iterator[None]:
    """Keep the library from another commit that its cache has, which it takes where it cannot open the one."""
    from datasets import load

    before = load.CachedDatasetModuleFactory.get_module

    def none(factory: Any) -> None:
        raise FileNotFoundError(factory.name)

    load.CachedDatasetModuleFactory.get_module = none
    try:
        yield
    finally:
        load.CachedDatasetModuleFactory.get_module = before


def cause(error: Exception) -> BaseException:
    """What broke, where the library says only that it could not make a data set."""
    import datasets

    generation = isinstance(error, datasets.exceptions.DatasetGenerationError)
    return (generation and error.__cause__) or error


def expected(error: BaseException) -> bool:
    """Whether it is what the libraries raise of files and networks, and no mistake of this code."""
    of = type(error).__module__.split(".")[0]
    scripted = isinstance(error, RuntimeError) and "scripts are no longer supported" in str(error)
    return scripted or of in _LIBRARIES or isinstance(error, (OSError, ValueError, EOFError, *CUT))


def of_the_system(error: BaseException) -> bool:
    """Whether it tells of this machine or its network, and not of what a file holds."""
    if isinstance(error, (ConnectionError, TimeoutError, FileNotFoundError)):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return True
    return type(error).__module__.split(".")[0] in _NETWORK and not isinstance(error, ValueError)


def of_a_file(error: BaseException) -> bool:
    """Whether it tells of what a file holds."""
    return expected(error) and not of_the_system(error)


def told(error: BaseException) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split())[:600] or type(error).__name__
