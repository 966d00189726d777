"""A corpus of the Hugging Face Hub, or a folder that is laid out like one, by the `datasets` library."""

import contextlib
import dataclasses
import functools
import json
import os
import re
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from caml.config.errors import Failure, Invalid, Refused, UserError, require
from caml.config.fingerprint import fingerprint, runtime
from caml.data.corpora import library
from caml.data.corpora.corpus import Corpus, Placed
from caml.data.corpora.files import ROWS_AT_ONCE, not_whole
from caml.data.files import digest_file
from caml.data.hubfiles import COMMIT

NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFace(Corpus):
    """A split of a data set that `datasets.load_dataset` opens.

    `path` is the data set's name on the Hub, and `revision` the commit that is read (40 hexadecimal digits), so that
    it is the same corpus tomorrow; or `path` is a folder here (a copy of such a repository), whose files identify
    it. `config` is the data set's configuration where it has several, `data_dir` a folder within it. `streaming`
    reads it row by row and keeps nothing on the disk; without it the split is downloaded to the library's cache, from
    which HF_HUB_OFFLINE=1 reads it without a network. One that has a broken file is read as it was downloaded.
    """

    path: str
    config: str = ""
    data_dir: str = ""
    split: str = "train"
    streaming: bool = runtime(True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.path), "path", "the data set's name on the Hub, or a folder")
        require(
            not Path(self.path).is_file(),
            "path",
            f"{self.path} is a file: Files reads it; a folder belongs here",
        )
        require(
            self.local or NAME.fullmatch(self.path) is not None,
            "path",
            f"there is no folder {self.path}, and the Hub's names are NAME or OWNER/NAME",
        )
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
                if not library.expected(error):
                    raise
                if library.of_the_system(error):
                    raise Failure(
                        f"{place}, after {number} rows: {library.told(error)}; the same command tries again"
                    ) from None
                if skip:
                    skip -= 1
                    continue
                yield Placed(
                    f"{place}, after {number} rows",
                    None,
                    f"cannot be read on, and the rest of the file is lost: {library.told(error)}",
                    lost=True,
                )

    def _shards(self, name: str) -> list[tuple[str, Any]]:
        """The files of the split by their names, and the rows of each; the whole as `name` where no files are told."""
        import datasets

        library.quiet()
        library.end_in_peace()
        # Else a split that is downloaded does not note how many of its rows are of which file.
        datasets.config.SAVE_ORIGINAL_SHARD_LENGTHS = True
        if not self.local and datasets.config.HF_HUB_OFFLINE:
            return self._cached(name)
        if not self.local:
            self._reach()
        builder = self._builder(self.streaming)
        self._check_split(list(map(str, builder.config.data_files or {})))
        try:
            if self.streaming:
                return self._streamed(builder, self._files(builder), name)
            try:
                return self._downloaded(builder, name)
            except Exception as error:
                cause = library.cause(error)
                if not library.of_a_file(cause) or self.split not in self._files(builder):
                    raise
            return self._one_by_one(name)
        except Exception as error:
            cause = library.cause(error)
            if library.of_a_file(cause):
                self._name_broken(builder, cause)
            raise

    def _reach(self) -> None:
        """Ask the Hub for the commit, once: the library goes on asking for half a minute. Raises UserError."""
        from huggingface_hub import HfApi, constants, errors

        try:
            HfApi().dataset_info(self.path, revision=self.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        except errors.HfHubHTTPError as error:
            if isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)):
                raise
            if error.response.status_code in (401, 403):
                raise UserError(
                    f"{self.path}: the Hub refuses the token it was sent; `hf auth login` renews it, or set HF_TOKEN"
                ) from None
            # A Hub that is busy is asked again by the library.
        except Exception as error:
            if not library.of_the_system(error):
                raise
            raise UserError(
                f"{self.path} is no folder here, and cannot be reached at the Hub ({library.told(error)}): without a "
                "network, set `path` to a folder that has a copy of it, or HF_HUB_OFFLINE=1 where the library's cache "
                "has it"
            ) from None

    def _builder(self, streaming: bool) -> Any:
        """The library's reader of the data set. Raises UserError where there is no such configuration."""
        import datasets

        path = str(Path(self.path).absolute()) if self.local else self.path
        revision = None if self.local else self.revision
        try:
            with library.no_other_commit():
                builder = datasets.load_dataset_builder(
                    path, self.config or None, data_dir=self.data_dir or None, revision=revision
                )
        except ValueError as error:
            if "config" not in str(error).lower():
                raise
            with library.no_other_commit():
                there = datasets.get_dataset_config_names(path, revision=revision)
            if self.config in there or (not self.config and len(there) < 2):
                raise
            raise UserError(
                f"{type(self).__name__}.config: {self.path} has no configuration {self.config!r}; "
                f"there are {', '.join(there)}"
                if self.config
                else f"{type(self).__name__}.config: {self.path} has several configurations, of which one must be "
                f"named: {', '.join(there)}"
            ) from None
        library.leave_out(builder, self.columns if streaming else ())
        if builder.name == "parquet":
            # Else as many as its first group of rows has: of an empty file, none.
            builder.config.batch_size = ROWS_AT_ONCE
        return builder

    def _check_split(self, there: list[str]) -> None:
        """Raise UserError for a split that is none of those which are there, before anything is downloaded."""
        field = f"{type(self).__name__}.split"
        named = [part.split("[")[0].strip() for part in self.split.split("+")]
        if lacking := [name for name in named if name not in (*there, "all")]:
            raise UserError(f"{field}: {self.path} has no split {lacking[0]!r}; there are {', '.join(there)}")
        if self.streaming and "[" in self.split:
            raise UserError(f"{field}: a part of a split is had with {type(self).__name__}.streaming = False")

    def _streamed(self, builder: Any, files: dict[str, list[str]], name: str) -> list[tuple[str, Any]]:
        """The files of the split, each read when its rows are asked for."""
        try:
            rows = builder.as_streaming_dataset(self.split)
        except Exception as error:
            if not library.of_a_file(error) or not library.columns_told(builder):
                raise
            rows = builder.as_streaming_dataset(self.split)
        parts = [rows.shard(rows.num_shards, part) for part in range(rows.num_shards)]
        return library.named(files.get(self.split, []), parts, rows, name)

    def _one_by_one(self, name: str) -> list[tuple[str, Any]]:
        """The files of a split that was downloaded and of which one is broken, each read by itself."""
        import datasets

        builder = self._builder(streaming=True)
        files = self._files(builder)
        if not self.local:
            fetch = datasets.DownloadManager().download  # what was downloaded is not fetched again
            builder.config.data_files = {
                split: fetch(list(of_split)) for split, of_split in builder.config.data_files.items()
            }
        return self._streamed(builder, files, name)

    def _downloaded(self, builder: Any, name: str) -> list[tuple[str, Any]]:
        """The files of the split, in the library's cache."""
        # What a card tells of the number of rows may be stale.
        builder.download_and_prepare(verification_mode="no_checks")
        files = self._files(builder)
        if not self.local:
            folder = Path(builder.cache_dir)
            asked = [one for one in library.noted(folder)["asked"] if one != [self.config, self.data_dir]]
            note = {"asked": [*asked, [self.config, self.data_dir]], "files": files}
            with contextlib.suppress(OSError):
                (folder / library.NOTE).write_text(json.dumps(note))
        return self._prepared(builder, files, name)

    def _prepared(self, builder: Any, files: dict[str, list[str]], name: str) -> list[tuple[str, Any]]:
        rows, split = builder.as_dataset(self.split), builder.info.splits.get(self.split)
        lengths = (split and split.original_shard_lengths) or [len(rows)]
        parts = [rows.select(range(*of_a_file)) for of_a_file in pairwise(accumulate(lengths, initial=0))]
        return library.named(files.get(self.split, []), parts, rows, name)

    def _cached(self, name: str) -> list[tuple[str, Any]]:
        """The split as the library's cache has it. The library itself would take the newest of any commit."""
        import datasets
        from datasets.packaged_modules.cache.cache import Cache

        root = Path(datasets.config.HF_DATASETS_CACHE)
        for info in sorted(root.glob(f"*/*/*/{self.revision}/dataset_info.json")):
            config, version = info.parts[-4:-2]
            builder = Cache(
                repo_id=self.path,
                dataset_name=self.path.split("/")[-1],
                config_name=config,
                version=version,
                hash=self.revision,
            )
            if Path(builder.cache_dir) != info.parent:
                continue
            note = library.noted(info.parent)
            if [self.config, self.data_dir] in note["asked"]:
                self._check_split(list(map(str, builder.info.splits)))
                return self._prepared(builder, note["files"], name)
        raise UserError(
            f"{name} cannot be reached: HF_HUB_OFFLINE is set, and the library's cache has no copy of commit "
            f"{self.revision[:12]} of it (one is kept where {type(self).__name__}.streaming = False read it); or set "
            "`path` to a folder that has one"
        )

    def _files(self, builder: Any) -> dict[str, list[str]]:
        """The names of the files of each split, as they are told to the user."""
        root = f"{Path(self.path).absolute()}/" if self.local else f"@{self.revision}/"
        return {
            str(split): [f"{self.path}/{file.split(root)[-1]}" for file in files]
            for split, files in (builder.config.data_files or {}).items()
        }

    def _name_broken(self, builder: Any, error: BaseException) -> None:
        """Raise Refused for a file for which the data set could not be opened, where it can be told which."""
        from huggingface_hub import HfFileSystem

        names = [name for of_split in self._files(builder).values() for name in of_split]
        files = [file for of_split in (builder.config.data_files or {}).values() for file in of_split]
        if builder.name == "parquet":
            for name, file in zip(names, files, strict=True):
                if problem := not_whole(Path(file) if self.local else HfFileSystem().open(file)):
                    raise Refused(f"{name}: {problem}; fetch it again or leave it out") from None
        elif files and isinstance(error, (EOFError, OSError, UnicodeDecodeError, *library.CUT)):
            # The columns are told by the first file.
            raise Refused(
                f"{names[0]}: cannot be read ({library.told(error)}); mend it or leave it out"
            ) from None

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Make one line of what the library raises where it cannot open a data set."""
        import datasets
        from huggingface_hub import errors

        try:
            yield
        except (datasets.exceptions.DatasetNotFoundError, errors.RepositoryNotFoundError) as error:
            if "is a gated" in str(error) or isinstance(error, errors.GatedRepoError):
                raise UserError(
                    f"{self.path} is a gated data set: accept its terms on its page at the Hub, then log in with "
                    "`hf auth login`, or set HF_TOKEN"
                ) from None
            raise UserError(
                f"{self.path}: the Hub has no such data set, or it is private (set HF_TOKEN); look at its page"
            ) from None
        except errors.RevisionNotFoundError:
            raise UserError(
                f"{type(self).__name__}.revision: {self.path} has no commit {self.revision}; its page tells those "
                "it has"
            ) from None
        except (datasets.exceptions.DataFilesNotFoundError, datasets.data_files.EmptyDatasetError) as error:
            where = f"{type(self).__name__}.data_dir: " if self.data_dir else ""
            raise UserError(f"{where}{name}: {library.told(error)}") from None
        except Exception as error:
            cause = library.cause(error)
            if not library.expected(cause):
                raise
            if not self.local and library.of_the_system(cause):
                raise Failure(
                    f"{name} cannot be read: {library.told(cause)}; the same command tries again"
                ) from None
            if isinstance(cause, OSError) and cause.errno is not None:
                raise Failure(f"{name} cannot be read: {library.told(cause)}") from None
            raise UserError(
                f"{name}: {library.told(error if 'data files' in str(error) else cause)}"
            ) from None


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
