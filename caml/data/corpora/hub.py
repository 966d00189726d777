"""A corpus of the Hugging Face Hub, or a folder that is laid out like one, by the `datasets` library."""

import contextlib
import dataclasses
import functools
import os
import re
import zlib
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from caml.config.errors import Failure, Invalid, Refused, UserError, require
from caml.config.fingerprint import fingerprint, runtime
from caml.data.corpora.corpus import Corpus, Placed
from caml.data.corpora.files import not_whole
from caml.data.files import digest_file

COMMIT = re.compile(r"[0-9a-f]{40}")
_LIBRARIES = ("datasets", "pyarrow", "huggingface_hub", "httpx", "aiohttp", "fsspec")
_NETWORK = ("huggingface_hub", "httpx", "aiohttp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFace(Corpus):
    """A split of a data set that `datasets.load_dataset` opens.

    `path` is the data set's name on the Hub, and `revision` the commit that is read (40 hexadecimal digits), so that
    it is the same corpus tomorrow; or `path` is a folder here (a copy of such a repository), whose files identify
    it. `config` is the data set's configuration where it has several, `data_dir` a folder within it. `streaming`
    reads it row by row and keeps nothing on the disk; without it the split is downloaded to the library's cache.
    """

    path: str
    config: str = ""
    data_dir: str = ""
    split: str = "train"
    streaming: bool = runtime(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.path), "path", "the data set's name on the Hub, or a folder")
        require(bool(self.split), "split", "the name of a split, such as 'train'")
        require(
            self.local or COMMIT.fullmatch(self.revision) is not None,
            "revision",
            f"the commit of {self.path} that is read, 40 hexadecimal digits (the page of the data set tells it under "
            "'Files and versions'), or `path` is a folder here",
            "path",
        )

    @property
    def local(self) -> bool:
        """Whether `path` is a folder of this machine."""
        return Path(self.path).is_dir()

    def place(self) -> str:
        """Where it is read from, in words."""
        return self.path if self.local else f"https://huggingface.co/datasets/{self.path}"

    def read_from(self) -> dict[str, Any]:
        """Name and commit on the Hub, or the digest of the local files; configuration and split.

        Raises Invalid where the local folder has no files, or no `data_dir`.
        """
        folder = Path(self.path)
        where: dict[str, Any] = {"path": self.path, "revision": self.revision}
        if self.local:
            inner = not self.data_dir or any(mark in self.data_dir for mark in "*?[")
            require(
                inner or (folder / self.data_dir).is_dir(),
                "data_dir",
                f"the folder {folder} has no folder {self.data_dir!r}",
            )
            where = {"folder": _digest(folder, _state(folder))}
        about = {"config": self.config, "data_dir": self.data_dir, "split": self.split}
        return {"source": "HuggingFace", **where, **about}

    def placed(self, skip: int = 0) -> Iterator[Placed]:
        """The rows in the order of the data set, less the first `skip`."""
        name = f"{self.path}{f' {self.config}' if self.config else ''} {self.split}"
        with self._explained(name):
            shards = self._shards(name)
            there = shards[0][1].column_names
        missing = [column for column in self.columns if there is not None and column not in there]
        problem = f"no column {missing[0]!r}; there are {', '.join(there[:12])}" if missing else ""
        for place, rows in shards:
            number = 0
            try:
                if not missing and there is not None:
                    rows = rows.select_columns(list(self.columns))
                # Rows are passed over as they are read, for where a file breaks depends on how it is read.
                for number, row in enumerate(rows, start=1):
                    if skip:
                        skip -= 1
                    else:
                        yield Placed(f"{place} row {number}", None if problem else row, problem)
            except Exception as error:
                # Of what its readers raise (a Parquet file cut short, bytes that are not UTF-8, a network that went)
                # the library makes exceptions of many kinds.
                of = type(error).__module__.split(".")[0]
                if of not in _LIBRARIES and not isinstance(error, (OSError, ValueError, EOFError)):
                    raise
                if of in _NETWORK or (isinstance(error, OSError) and _of_the_system(error)):
                    raise Failure(
                        f"{place}, after {number} rows: {_told(error)}; the same command tries again"
                    ) from None
                if skip:
                    skip -= 1
                    continue
                yield Placed(
                    f"{place}, after {number} rows",
                    None,
                    f"cannot be read on, and the rest of the file is lost: {_told(error)}",
                )

    def _shards(self, name: str) -> list[tuple[str, Any]]:
        """The files of the split by their names, and the rows of each; the whole as `name` where no files are told."""
        import datasets

        # Else a split that is downloaded does not note how many of its rows are of which file.
        datasets.config.SAVE_ORIGINAL_SHARD_LENGTHS = True
        # What it logs of a broken file, it raises too.
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        builder = datasets.load_dataset_builder(
            str(Path(self.path).absolute()) if self.local else self.path,
            self.config or None,
            data_dir=self.data_dir or None,
            revision=None if self.local else self.revision,
        )
        _leave_out(builder, self.columns if self.streaming else ())
        try:
            return self._opened(builder, name)
        except Exception as error:
            if self.local:
                _name_broken(builder, error)
            raise

    def _opened(self, builder: Any, name: str) -> list[tuple[str, Any]]:
        if self.streaming:
            with _passing_over_broken(builder.config):
                rows = builder.as_streaming_dataset(self.split)
            parts = [rows.shard(rows.num_shards, part) for part in range(rows.num_shards)]
        else:
            builder.download_and_prepare()
            rows, split = builder.as_dataset(self.split), builder.info.splits.get(self.split)
            lengths = (split and split.original_shard_lengths) or [len(rows)]
            ends = list(accumulate(lengths, initial=0))
            parts = [rows.select(range(*of_a_file)) for of_a_file in pairwise(ends)]
        files = (builder.config.data_files or {}).get(self.split, [])
        if len(files) != len(parts):
            return [(name, rows)]
        root = f"{Path(self.path).absolute()}/" if self.local else f"@{self.revision}/"
        return [
            (f"{self.path}/{file.split(root)[-1]}", part) for file, part in zip(files, parts, strict=True)
        ]

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Make one line of what the library raises where it cannot open a data set."""
        import datasets
        from huggingface_hub import errors

        try:
            yield
        except (datasets.exceptions.DatasetNotFoundError, errors.RepositoryNotFoundError) as error:
            if "gated" in str(error).lower() or isinstance(error, errors.GatedRepoError):
                raise UserError(
                    f"{self.path} is a gated data set: accept its terms on its page at the Hub, then log in with "
                    "`hf auth login`, or set HF_TOKEN"
                ) from None
            raise UserError(
                f"{self.path}: the Hub has no such data set, or it is private (set HF_TOKEN), or not at the revision "
                f"{self.revision[:12]}; look at its page"
            ) from None
        except errors.RevisionNotFoundError:
            raise UserError(
                f"{self.path} has no revision {self.revision}; its page tells its commits"
            ) from None
        except (ConnectionError, errors.OfflineModeIsEnabled, OSError, EOFError) as error:
            if self.local:
                raise UserError(f"{name}: {_told(error)}") from None
            raise UserError(
                f"{name} cannot be reached ({_told(error)}): without a network, set `path` to a folder that has "
                "a copy of it, or HF_HUB_OFFLINE=1 where the library's cache has it"
            ) from None
        except datasets.exceptions.DatasetGenerationError as error:
            cause = error.__cause__ or error
            if isinstance(cause, OSError) and _of_the_system(cause):
                raise Failure(f"{name} cannot be downloaded: {_told(cause)}") from None
            raise UserError(
                f"{name}: {_told(error if 'data files' in str(error) else cause)}; "
                f"{type(self).__name__}.streaming = True reads each file by itself"
            ) from None
        except ValueError as error:
            raise UserError(f"{name}: {_told(error)}") from None


def _leave_out(builder: Any, read: tuple[str, ...]) -> None:
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


@contextlib.contextmanager
def _passing_over_broken(config: Any) -> Iterator[None]:
    """Let the columns be told by the first Parquet file that is whole: a broken one is named when it is read."""
    if not hasattr(config, "on_bad_files"):
        yield
        return
    before, config.on_bad_files = config.on_bad_files, "skip"
    try:
        yield
    finally:
        config.on_bad_files = before


def _name_broken(builder: Any, error: Exception) -> None:
    """Raise Refused for a file for which a data set could not be opened, where it can be told which."""
    files = [file for of_split in (builder.config.data_files or {}).values() for file in of_split]
    if builder.name == "parquet":
        for file in files:
            if problem := not_whole(Path(file)):
                raise Refused(f"{file}: {problem}; fetch it again or leave it out") from None
    elif files and isinstance(error, (EOFError, OSError, zlib.error, UnicodeDecodeError)):
        # The columns are told by the first file.
        raise Refused(f"{files[0]}: cannot be read ({_told(error)}); mend it or leave it out") from None


def _of_the_system(error: OSError) -> bool:
    """Whether it tells of this machine or its network, and not of what a file holds."""
    return isinstance(error, (ConnectionError, TimeoutError)) or error.errno is not None


def _told(error: BaseException) -> str:
    """What an exception says, in one line."""
    return " ".join(str(error).split())[:600] or type(error).__name__


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Names, sizes and times of the files of a folder, hidden ones left out."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                path = Path(root, name)
                about = path.stat()
                found.append((str(path.relative_to(folder)), about.st_size, about.st_mtime_ns))
    return tuple(found)


@functools.cache
def _digest(folder: Path, state: tuple[tuple[str, int, int], ...]) -> str:
    """A digest of names and contents of a folder's files, read once unless one of them changes."""
    if not state:
        raise Invalid(f"the folder {folder} holds no files", "path")
    return fingerprint([[name, digest_file(folder / name)] for name, _, _ in state])
