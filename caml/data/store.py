"""The token store: a source's documents as tokens on disk, memory-mapped and checked when they are first read."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from caml.config.errors import Failure
from caml.config.fingerprint import fingerprint
from caml.data.files import digest_bytes, json_text
from caml.data.packing import Packing, pack
from caml.data.sources import Source, require_name
from caml.data.tokenizer_recipes import TokenizerRecipe

CHUNK = 1 << 20
"""Bytes under one digest."""

FORMAT = 3
"""Raised when the files of a store change their meaning: it is part of the recipe."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a store holds and where it is from; `files` has the size and the chunk digests of each file.

    `pairs` of the documents are preference pairs. `rows` were read of the source, `left_out` counts those that gave
    no document by the reason, and `text_bytes` are the bytes of the documents' text in UTF-8. `software` names what
    the text went through that may change it.
    """

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
    pairs: int
    text_bytes: int
    rows: int
    left_out: dict[str, int]
    software: dict[str, str]
    origin: str
    revision: str
    licence: str
    files: dict[str, dict[str, Any]]


def store_recipe(source: Source, seed: int, trained: TokenizerRecipe, template: str) -> dict[str, Any]:
    """Identity of a token store, known before it is written; the same for all seeds where the text is."""
    return {
        "format": FORMAT,
        "source": source.recipe(seed),
        "tokens": source.tokens,
        "tokenizer": trained.recipe(),
        "template": template,
    }


def store_folder(root: Path, source: Source, seed: int, trained: TokenizerRecipe, template: str) -> Path:
    """Where under `root` the store of this recipe lies: its name and twelve digits of the recipe's digest."""
    require_name(source.name)
    return root / f"{source.name}-{fingerprint(store_recipe(source, seed, trained, template))[:12]}"


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
        """The loss mask at `places`, uint8: bits as in `caml.data.tokenizer`."""
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


def _damaged(path: Path, what: str) -> Failure:
    return Failure(f"{path}: {what}; delete the folder {path.parent} to write the token store again")
