"""A corpus of TensorFlow Datasets, read as array_record files and without TensorFlow."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from caml.config.errors import Failure, UserError, require
from caml.config.fingerprint import runtime
from caml.data.corpora.corpus import Corpus, Placed

NAMED = re.compile(r"[a-z][a-z0-9_]*(/[A-Za-z0-9_.+=-]+)?")
VERSION = re.compile(r"\d+\.\d+\.\d+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tfds(Corpus):
    """A split of a TFDS builder: `builder` names it with its configuration ('c4/en'), `revision` its version ('3.1.0').

    `folder` is where its prepared files lie ('': the library's own folder). With `download` what is not prepared is
    downloaded and prepared there, which for the large sets takes long; without it that is refused. `module` is
    imported first: a builder that is not TFDS's own registers itself there.
    """

    builder: str
    split: str = "train"
    folder: str = runtime("")
    download: bool = runtime(False)
    module: str = runtime("")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            NAMED.fullmatch(self.builder) is not None,
            "builder",
            f"a builder and its configuration, such as 'c4/en', not {self.builder!r}",
        )
        require(
            VERSION.fullmatch(self.revision) is not None,
            "revision",
            f"the version of {self.builder}, such as '3.1.0', not {self.revision!r}",
        )
        require(bool(self.split), "split", "the name of a split, such as 'train'")

    @property
    def _versioned(self) -> str:
        return f"{self.builder}:{self.revision}"

    def place(self) -> str:
        """Where it is read from, in words."""
        return f"TensorFlow Datasets, {self.builder}"

    def read_from(self) -> dict[str, Any]:
        """The builder with its version, and the split."""
        return {"source": "Tfds", "builder": self._versioned, "split": self.split}

    def placed(self, skip: int = 0) -> Iterator[Placed]:
        """The rows in the order of the files, less the first `skip`."""
        rows = self._opened()
        name = f"{self._versioned} {self.split}"
        for number in range(skip, len(rows)):
            try:
                row = {column: _plain(value) for column, value in rows[number].items()}
            except UnicodeDecodeError as error:
                yield Placed(f"{name} row {number + 1}", None, f"not UTF-8 text (byte {error.start + 1})")
                continue
            except (RuntimeError, ValueError, OSError, IndexError) as error:
                yield Placed(
                    f"{name} row {number + 1}", None, f"cannot be read: {' '.join(str(error).split())[:200]}"
                )
                return
            yield Placed(f"{name} row {number + 1}", row)

    def _opened(self) -> Any:
        import importlib

        import tensorflow_datasets as tfds

        if self.module:
            try:
                importlib.import_module(self.module)
            except ImportError as error:
                raise UserError(f"{self._versioned}: {self.module} cannot be imported ({error})") from None
        folder = self.folder or None
        try:
            builder = tfds.builder(self._versioned, data_dir=folder, file_format="array_record")
        except tfds.core.registered.DatasetNotFoundError:
            raise UserError(
                f"{self._versioned} is not prepared in {folder or 'the folder of TFDS'}, and TFDS itself has no such "
                "builder or version here: name the folder that has it with Tfds.folder"
            ) from None
        except (ValueError, AssertionError) as error:
            told = str(error).strip().splitlines()[0]
            if "File format" in told:
                told = (
                    f"its files in {folder or 'the folder of TFDS'} are no array_record files, which alone are read; "
                    "`tfds convert_format --out_file_format=array_record` makes them, where TensorFlow is installed"
                )
            raise UserError(f"{self._versioned}: {told}") from None
        if not builder.is_prepared():
            if not self.download:
                raise UserError(
                    f"{self._versioned} is not prepared in {builder.data_dir}: name the folder that has it with "
                    "Tfds.folder, or let it be downloaded with Tfds.download = True"
                )
            try:
                builder.download_and_prepare()
            except Exception as error:  # what downloads raise has no common class
                raise Failure(
                    f"{self._versioned} cannot be prepared: {str(error).strip().splitlines()[0]}"
                ) from None
        if self.split not in builder.info.splits:
            known = ", ".join(builder.info.splits)
            raise UserError(f"{self._versioned} has no split {self.split!r}; it has {known}")
        return builder.as_data_source(split=self.split)


def _plain(value: Any) -> Any:
    """A feature as Python has it: bytes as text, arrays as lists."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        # A sequence of dictionaries comes as a dictionary of sequences.
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
