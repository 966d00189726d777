"""The token store: a source's documents as tokens on disk, written once, memory-mapped and checked."""

import dataclasses
import itertools
import json
import os
import shutil
import socket
import string
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import psutil

from caml.config.errors import Failure, UserError
from caml.config.fingerprint import fingerprint
from caml.data.files import digest_bytes, json_text, write_json
from caml.data.packing import Packing, pack
from caml.data.sources import Source
from caml.data.tokenizer import Encoded, Tokenizer, TrainedTokenizer

CHUNK = 1 << 20
"""Bytes under one digest."""

TOKENS_AT_ONCE = 1 << 17
"""About what is tokenized and held in memory at once."""

FORMAT = 1
"""Raised when the files of a store change their meaning: it is part of the recipe."""

NAME = frozenset(string.ascii_letters + string.digits + "-_.")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a store holds and where it is from; `files` has the size and the chunk digests of each file."""

    name: str
    recipe: dict[str, Any]
    recipe_digest: str
    content_digest: str
    tokenizer_digest: str
    dtype: str
    documents: int
    tokens: int
    loss_tokens: int
    unknown_tokens: int
    origin: str
    revision: str
    licence: str
    files: dict[str, dict[str, Any]]


def store_recipe(source: Source, seed: int, trained: TrainedTokenizer, template: str) -> dict[str, Any]:
    """Identity of a token store, known before it is written; the same for all seeds where the text is."""
    return {
        "format": FORMAT,
        "source": source.recipe(seed),
        "tokens": source.tokens,
        "tokenizer": trained.recipe(),
        "template": template,
    }


def store_folder(root: Path, source: Source, seed: int, trained: TrainedTokenizer, template: str) -> Path:
    """Where under `root` the store of this recipe lies: its name and twelve digits of the recipe's digest."""
    if not source.name or source.name.startswith(".") or not set(source.name) <= NAME:
        raise UserError(f"{source.name!r} can't name a token store: use letters, digits, '-', '_' and '.'")
    return root / f"{source.name}-{fingerprint(store_recipe(source, seed, trained, template))[:12]}"


def prepare_store(
    root: Path,
    source: Source,
    seed: int,
    trained: TrainedTokenizer,
    tokenizer: Tokenizer,
    template: str = "chatml",
    progress: Callable[[int], None] = lambda tokens: None,
) -> "TokenStore":
    """Open the store of this recipe under `root`, or write it; `progress` is told the tokens written so far.

    `seed` is that of the block's documents. Raises Failure where a store is there that was made by another
    tokenizer or is damaged, and where the disk does not take it.
    """
    folder = store_folder(root, source, seed, trained, template)
    if not folder.exists():
        write_store(folder, source, seed, trained, tokenizer, template, progress)
    store = open_store(folder)
    if store.manifest.tokenizer_digest != tokenizer.digest:
        raise Failure(f"{folder} was written by another tokenizer: delete this folder to write it again")
    if store.manifest.recipe_digest != fingerprint(store_recipe(source, seed, trained, template)):
        raise Failure(f"{folder} holds a store of another recipe: delete this folder to write it again")
    return store


def write_store(
    folder: Path,
    source: Source,
    seed: int,
    trained: TrainedTokenizer,
    tokenizer: Tokenizer,
    template: str,
    progress: Callable[[int], None],
) -> None:
    """Write the documents of `source` up to the one that reaches `source.tokens` tokens, in constant memory.

    The store is made in a folder beside `folder` and renamed when it is complete: a kill leaves nothing
    that opens, and of two writers one is first and the other's work is dropped.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(
            f".{folder.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
        )
        partial.mkdir()
        try:
            _write_files(partial, source, seed, trained, tokenizer, template, progress)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if not folder.exists():  # else the other writer was first
            raise Failure(f"the token store {folder} cannot be written: {error.strerror}") from None


def remove_abandoned(root: Path) -> None:
    """Remove from `root` the unfinished stores of writers that are gone from this machine."""
    for path in root.glob(f".*.{socket.gethostname()}.*.part"):
        if not psutil.pid_exists(int(path.name.split(".")[-3])):
            shutil.rmtree(path, ignore_errors=True)


def open_store(folder: Path) -> "TokenStore":
    """Open a store; nothing but its manifest and the sizes of its files is looked at until it is read.

    Raises Failure naming the file that is missing, cut short or not as it was written.
    """
    path = folder / "manifest.json"
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        digest = value.pop("digest")
        manifest = Manifest(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path, "missing, cut short or altered") from None
    if digest != fingerprint(value) or text != json_text({**value, "digest": digest}):
        raise _damaged(path, "not as it was written")
    for name, file in manifest.files.items():
        if not (folder / name).exists():
            raise _damaged(folder / name, "missing")
        size = (folder / name).stat().st_size
        if size != file["bytes"]:
            raise _damaged(folder / name, f"{size} bytes, and the manifest says {file['bytes']}")
    return TokenStore(folder, manifest)


class TokenStore:
    """An open store. A chunk's digest is checked when it is first read; a bad one raises Failure."""

    def __init__(self, folder: Path, manifest: Manifest):
        self.folder = folder
        self.manifest = manifest
        self._bytes = {name: np.memmap(folder / name, np.uint8, "r") for name in manifest.files}
        self._checked = {name: np.zeros(len(file["chunks"]), bool) for name, file in manifest.files.items()}
        self._tokens = np.asarray(self._bytes["tokens.bin"]).view(manifest.dtype)
        self._loss = np.asarray(self._bytes["loss.bin"])
        self._packings: dict[int, Packing] = {}
        self._bounds: np.ndarray | None = None

    @property
    def bounds(self) -> np.ndarray:
        """Where documents begin, int64 `[documents + 1]`: document d is tokens bounds[d] to bounds[d + 1]."""
        if self._bounds is None:
            self._check_all("bounds.npy")
            self._bounds = np.load(self.folder / "bounds.npy", mmap_mode="r")
        return self._bounds

    def packing(self, length: int) -> Packing:
        """The store's documents in sequences of `length` tokens; worked out once."""
        if length not in self._packings:
            self._packings[length] = pack(self.bounds, length)
        return self._packings[length]

    def documents_begun(self, packing: Packing) -> np.ndarray:
        """How many documents begin in each sequence of a packing of this store, int64 `[sequences]`."""
        begun = np.searchsorted(self.bounds[:-1], np.append(packing.start, packing.stop[-1:]))
        return np.diff(begun)

    def tokens(self, places: np.ndarray) -> np.ndarray:
        """Tokens at `places` (indices, any shape whose last axis ascends)."""
        self._check("tokens.bin", places, self._tokens.itemsize)
        return self._tokens[places]

    def loss(self, places: np.ndarray) -> np.ndarray:
        """The loss mask at `places`, uint8: 1 where the token bears loss when only answers do."""
        self._check("loss.bin", places, 1)
        return self._loss[places]

    def verify(self) -> None:
        """Read everything. Raises Failure naming the first file and chunk that is not as it was written."""
        for name in self.manifest.files:
            self._check_all(name)

    def _check_all(self, name: str) -> None:
        for chunk in np.flatnonzero(~self._checked[name]):
            self._check_chunk(name, int(chunk))

    def _check(self, name: str, places: np.ndarray, itemsize: int) -> None:
        checked = self._checked[name]
        if checked.all():
            return
        chunks = places * itemsize // CHUNK
        for chunk in np.unique(chunks[~checked[chunks]]):
            self._check_chunk(name, int(chunk))

    def _check_chunk(self, name: str, chunk: int) -> None:
        content = self._bytes[name][chunk * CHUNK : (chunk + 1) * CHUNK].tobytes()
        if digest_bytes(content) != self.manifest.files[name]["chunks"][chunk]:
            raise _damaged(self.folder / name, f"chunk {chunk} (1 MiB each) is not as it was written")
        self._checked[name][chunk] = True


def _write_files(
    folder: Path,
    source: Source,
    seed: int,
    trained: TrainedTokenizer,
    tokenizer: Tokenizer,
    template: str,
    progress: Callable[[int], None],
) -> None:
    dtype = np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<u4")
    documents = tokens = loss_tokens = unknown_tokens = 0
    with (
        open(folder / "tokens.bin", "wb") as tokens_file,
        open(folder / "loss.bin", "wb") as loss_file,
        open(folder / "bounds.npy", "wb") as bounds_file,
    ):
        _write_header(bounds_file, 1)
        bounds_file.write(np.zeros(1, "<i8").tobytes())
        for encoded in _encoded(source, seed, tokenizer, template):
            tokens_file.write(encoded.tokens.astype(dtype).tobytes())
            loss_file.write(encoded.loss.tobytes())
            bounds_file.write((tokens + np.cumsum(encoded.lengths)).astype("<i8").tobytes())
            documents += len(encoded.lengths)
            tokens += len(encoded.tokens)
            loss_tokens += int(encoded.loss.sum())
            unknown_tokens += int(np.count_nonzero(encoded.tokens == tokenizer.unknown))
            progress(tokens)
        bounds_file.seek(0)
        _write_header(bounds_file, documents + 1)
        for file in (tokens_file, loss_file, bounds_file):
            file.flush()
            os.fsync(file.fileno())
    if not documents:
        raise UserError(f"{source.name} has no documents")
    files = {name: _digests(folder / name) for name in ("tokens.bin", "loss.bin", "bounds.npy")}
    recipe = store_recipe(source, seed, trained, template)
    manifest = Manifest(
        name=source.name,
        recipe=recipe,
        recipe_digest=fingerprint(recipe),
        content_digest=fingerprint(files),
        tokenizer_digest=tokenizer.digest,
        dtype=dtype.str,
        documents=documents,
        tokens=tokens,
        loss_tokens=loss_tokens,
        unknown_tokens=unknown_tokens,
        origin=source.origin,
        revision=source.revision,
        licence=source.licence,
        files=files,
    )
    value = dataclasses.asdict(manifest)
    write_json(folder / "manifest.json", {**value, "digest": fingerprint(value)})


def _encoded(source: Source, seed: int, tokenizer: Tokenizer, template: str) -> Iterator[Encoded]:
    """The source's documents, encoded some at a time, up to the one that reaches `source.tokens`."""
    documents = source.documents(seed)
    seen = written = 0
    while (left := source.tokens - written) > 0:
        # An endless source is asked for about as many documents as are still needed.
        mean = written / seen if seen else 1000
        some = list(itertools.islice(documents, 1 + int(min(left, TOKENS_AT_ONCE) / mean)))
        if not some:
            return
        tokens, loss, lengths = tokenizer.encode_flat(some, template)
        ends = np.cumsum(lengths)
        keep = int(np.searchsorted(ends, left)) + 1
        end = int(ends[:keep][-1])
        yield Encoded(tokens[:end], loss[:end], lengths[:keep])
        seen += len(some)
        written += end


def _write_header(file: BinaryIO, bounds: int) -> None:
    """The .npy header of an int64 array of this length; numpy pads it, so its size is always the same."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (bounds,)})


def _digests(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        chunks = [digest_bytes(chunk) for chunk in iter(lambda: file.read(CHUNK), b"")]
    return {"bytes": path.stat().st_size, "chunks": chunks}


def _damaged(path: Path, what: str) -> Failure:
    return Failure(f"{path}: {what}; delete the folder {path.parent} to write the token store again")
