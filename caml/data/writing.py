"""Writing token stores: of generated text at once, of corpora through `preparing`; complete or not at all."""

import contextlib
import dataclasses
import itertools
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from caml.config.errors import Failure, Refused
from caml.config.fingerprint import fingerprint
from caml.data.files import digest_bytes, write_json
from caml.data.processes import running
from caml.data.sources import Document, Source, texts
from caml.data.store import CHUNK, Manifest, TokenStore, open_store, store_folder, store_recipe
from caml.data.tokenizer import BEARS, SECOND_HALF, Encoded, Tokenizer
from caml.data.tokenizer_recipes import TokenizerRecipe

TOKENS_AT_ONCE = 1 << 17
"""About what is tokenized and held in memory at once."""

LEFT_OUT = "left_out.jsonl"
"""In a store of a corpus: the rows that do not fit or were removed, a line each."""


def prepare_store(
    root: Path,
    source: Source,
    seed: int,
    trained: TokenizerRecipe,
    tokenizer: Tokenizer,
    template: str = "chatml",
    progress: Callable[[int], None] = lambda tokens: None,
) -> TokenStore:
    """Open the store of this recipe under `root`, or write it; `progress` is told the tokens written so far.

    `seed` is that of the block's documents. Raises Failure where a store is there that was made by another
    tokenizer or is damaged, and where the disk does not take it.
    """
    folder = store_folder(root, source, seed, trained, template)
    if not folder.exists():
        recipe = store_recipe(source, seed, trained, template)
        with writing(folder) as partial:
            writer = StoreWriter(partial, tokenizer)
            for documents in _some_at_once(source, seed, tokenizer, template, writer):
                writer.add(*documents)
                progress(writer.tokens)
            writer.finish(source, recipe)
    return opened(folder, source, seed, trained, tokenizer, template)


def opened(
    folder: Path, source: Source, seed: int, trained: TokenizerRecipe, tokenizer: Tokenizer, template: str
) -> TokenStore:
    """The store in `folder`, which is this source's. Raises Failure where it is another's, or damaged."""
    store = open_store(folder)
    if store.manifest.tokenizer_digest != tokenizer.digest:
        raise Failure(f"{folder} was written by another tokenizer: delete this folder to write it again")
    if store.manifest.recipe_digest != fingerprint(store_recipe(source, seed, trained, template)):
        raise Failure(f"{folder} holds a store of another recipe: delete this folder to write it again")
    return store


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` that takes its place when it is complete.

    A kill leaves nothing that opens, and of two writers one is first and the other's work is dropped.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = folder.with_name(
            f".{folder.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part"
        )
        partial.mkdir()
        try:
            yield partial
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        if not folder.exists():  # else the other writer was first
            raise Failure(f"the token store {folder} cannot be written: {error.strerror}") from None


def remove_abandoned(root: Path) -> None:
    """Remove from `root` the unfinished stores of writers that are gone from this machine."""
    for path in root.glob(f".*.{socket.gethostname()}.*.part"):
        if not running(int(path.name.split(".")[-3])):
            shutil.rmtree(path, ignore_errors=True)


class StoreWriter:
    """The files of a store in the making: documents are added in their order, and the manifest is written last."""

    def __init__(self, folder: Path, tokenizer: Tokenizer):
        self._folder, self._tokenizer = folder, tokenizer
        self._dtype = np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<u4")
        self.tokens = self.documents = 0
        self._loss_tokens = self._unknown = self._pairs = self._text_bytes = 0
        self._tokens_file = open(folder / "tokens.bin", "wb")  # noqa: SIM115 (closed by `finish`)
        self._loss_file = open(folder / "loss.bin", "wb")  # noqa: SIM115
        self._bounds_file = open(folder / "bounds.npy", "wb")  # noqa: SIM115
        _write_header(self._bounds_file, 1)
        self._bounds_file.write(np.zeros(1, "<i8").tobytes())

    def add(self, encoded: Encoded, text_bytes: int) -> None:
        """Write documents behind those that are there; `text_bytes` are the bytes of their text."""
        self._tokens_file.write(encoded.tokens.astype(self._dtype).tobytes())
        self._loss_file.write(encoded.loss.tobytes())
        self._bounds_file.write((self.tokens + np.cumsum(encoded.lengths)).astype("<i8").tobytes())
        self.documents += len(encoded.lengths)
        self.tokens += len(encoded.tokens)
        self._loss_tokens += int(np.count_nonzero(encoded.loss & BEARS))
        self._pairs += int(np.count_nonzero(encoded.loss & SECOND_HALF))
        self._unknown += int(np.count_nonzero(encoded.tokens == self._tokenizer.unknown))
        self._text_bytes += text_bytes

    def finish(
        self,
        source: Source,
        recipe: dict[str, Any],
        rows: int | None = None,
        left_out: Mapping[str, int] | None = None,
        software: Mapping[str, str] | None = None,
    ) -> None:
        """Close the files and write the manifest. Raises Refused where there is no document."""
        self._bounds_file.seek(0)
        _write_header(self._bounds_file, self.documents + 1)
        for file in (self._tokens_file, self._loss_file, self._bounds_file):
            file.flush()
            os.fsync(file.fileno())
            file.close()
        if not self.documents:
            of = f": of {rows} rows {told(left_out)}" if rows and left_out else ""
            raise Refused(f"{source.name} has no documents{of} (read from {source.origin})")
        names = ["tokens.bin", "loss.bin", "bounds.npy"]
        names += [LEFT_OUT] if (self._folder / LEFT_OUT).exists() else []
        files = {name: _digests(self._folder / name) for name in names}
        manifest = Manifest(
            name=source.name,
            recipe=recipe,
            recipe_digest=fingerprint(recipe),
            content_digest=fingerprint({name: files[name] for name in names[:3]}),
            tokenizer_digest=self._tokenizer.digest,
            dtype=self._dtype.str,
            documents=self.documents,
            tokens=self.tokens,
            loss_tokens=self._loss_tokens,
            unknown_tokens=self._unknown,
            pairs=self._pairs,
            text_bytes=self._text_bytes,
            rows=self.documents if rows is None else rows,
            left_out=dict(left_out or {}),
            software=dict(software or {}),
            origin=source.origin,
            revision=source.revision,
            licence=source.licence,
            files=files,
        )
        value = dataclasses.asdict(manifest)
        write_json(self._folder / "manifest.json", {**value, "digest": fingerprint(value)})


WORDS = {
    "filter": "by their columns", "empty": "empty", "misfit": "that do not fit the schema",
    "broken": "from where a file is broken to its end", "short": "too short",
    "long": "too long", "language": "in other languages", "overlap": "that overlap with probes or benchmarks",
    "duplicate": "duplicates", "near duplicate": "near duplicates",
}  # fmt: skip
"""Why a row gave no document, as a person reads it behind a number."""


def told(left_out: Mapping[str, int]) -> str:
    """Counts of rows by why they gave no document, in words."""
    return ", ".join(f"{count:,} {WORDS.get(reason, reason)}" for reason, count in left_out.items()) or "none"


def text_bytes(documents: Iterator[Document] | list[Document]) -> int:
    """Bytes of the documents' text in UTF-8."""
    return sum(
        len(text) if text.isascii() else len(text.encode())
        for document in documents
        for text in texts(document)
    )


def _some_at_once(
    source: Source, seed: int, tokenizer: Tokenizer, template: str, writer: StoreWriter
) -> Iterator[tuple[Encoded, int]]:
    """The source's documents, encoded some at a time, up to the one that reaches `source.tokens`."""
    documents = source.documents(seed)
    seen = 0
    while (left := source.tokens - writer.tokens) > 0:
        # An endless source is asked for about as many documents as are still needed.
        mean = writer.tokens / seen if seen else 1000
        some = list(itertools.islice(documents, 1 + int(min(left, TOKENS_AT_ONCE) / mean)))
        if not some:
            return
        encoded = tokenizer.encode_flat(some, template)
        keep = int(np.searchsorted(np.cumsum(encoded.lengths), left)) + 1
        seen += len(some)
        yield encoded.first(keep), text_bytes(some[:keep])


def _write_header(file: BinaryIO, bounds: int) -> None:
    """The .npy header of an int64 array of this length; numpy pads it, so its size is always the same."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (bounds,)})


def _digests(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        chunks = [digest_bytes(chunk) for chunk in iter(lambda: file.read(CHUNK), b"")]
    return {"bytes": path.stat().st_size, "chunks": chunks}
