"""A corpus into its token store: over all cores, in constant memory, continued where it was stopped.

Rows are dealt in parts of a few megabytes. Other processes clean and tokenize a part and leave it as a file in a
folder beside the store; at the end, parts are gone through in their order, duplicates among all of them are left
out, and the rest is written up to the document that reaches the tokens asked for.
"""

import collections
import contextlib
import dataclasses
import functools
import importlib.metadata
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from caml.config.errors import Failure, Refused
from caml.config.fingerprint import fingerprint
from caml.data import processes
from caml.data.corpora.corpus import Corpus, Found, characters
from caml.data.files import digest_bytes, json_text, write_bytes, write_json
from caml.data.hygiene.duplicates import FirstSeen
from caml.data.hygiene.hygiene import STEPS, Hygiene, cleaner
from caml.data.sources import Document, texts
from caml.data.store import TokenStore, store_folder, store_recipe
from caml.data.tokenizer import Encoded, Tokenizer
from caml.data.tokenizer_recipes import TokenizerRecipe
from caml.data.writing import LEFT_OUT, StoreWriter, opened, text_bytes, writing

PART_CHARACTERS = 1 << 22
"""Characters of the rows of one part, about."""
PART_ROWS = 1 << 14
CHARACTERS_AT_ONCE = 1 << 18
"""As much as is tokenized at once: what the library makes of a text takes many times its room."""
BEGINNING = 200
"""Characters that are kept of a row that was left out, where it is not kept whole."""
LOOK = 0.5
"""Seconds between looks at whether another launch is done with the store, or this one was told to stop."""

Progress = Callable[[int], None]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What the processes have to know of a store: how its rows become tokens."""

    tokenizer: Path
    template: str
    hygiene: Hygiene


class _Meta(NamedTuple):
    """What a part holds, as its `.json` tells it, which is written when the part itself is there."""

    rows: int
    documents: int
    tokens: int
    counts: dict[str, int]  # rows that gave no document, by the reason
    digest: str


def prepare_corpus(
    root: Path,
    corpus: Corpus,
    trained: TokenizerRecipe,
    tokenizer: Tokenizer,
    tokenizer_file: Path,
    template: str = "chatml",
    progress: Progress = lambda tokens: None,
    announce: Callable[[str], None] = lambda line: None,
) -> TokenStore:
    """Open the store of this corpus under `root`, or write it.

    `progress` is told the tokens so far, and may raise to end it; `announce` is given lines for a person. Of two
    launches one writes, and the other waits for it. Raises Failure where the store is damaged or the disk does not
    take it, Refused for a row that does not fit: of that, as of a store that is written, nothing else stays.
    """
    folder = store_folder(root, corpus, 0, trained, template)
    if not folder.exists():
        with _alone(root, folder, progress, announce) as lock:
            if not folder.exists():
                plan = _Plan(tokenizer_file, template, corpus.hygiene)
                recipe = store_recipe(corpus, 0, trained, template)
                try:
                    _write(folder, corpus, plan, recipe, tokenizer, progress, announce)
                except Refused:
                    shutil.rmtree(_parts_folder(folder), ignore_errors=True)
                    lock.unlink(missing_ok=True)
                    raise
            # Whoever waits for it still, or makes it anew, finds the store there.
            lock.unlink(missing_ok=True)
    return opened(folder, corpus, 0, trained, tokenizer, template)


@contextlib.contextmanager
def _alone(root: Path, folder: Path, progress: Progress, announce: Callable[[str], None]) -> Iterator[Path]:
    """Hold the lock of a store, which is a file; another launch that holds it is waited for.

    The system frees it when a holder dies.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f".{folder.name}.lock")
    waited = False
    while True:
        try:
            lock.acquire(timeout=LOOK)
            break
        except Timeout:
            if not waited:
                announce(f"another launch is writing {folder.name}; waiting for it")
                waited = True
            progress(0)
    try:
        yield Path(lock.lock_file)
    finally:
        lock.release()


def _parts_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.parts")


def _write(
    folder: Path,
    corpus: Corpus,
    plan: _Plan,
    recipe: dict[str, Any],
    tokenizer: Tokenizer,
    progress: Progress,
    announce: Callable[[str], None],
) -> None:
    try:
        parts = _Parts(_parts_folder(folder), fingerprint([recipe, tokenizer.digest]), corpus.hygiene)
        if parts.metas:
            announce(f"{corpus.name}: goes on after {parts.rows:,} rows that an earlier launch read")
        wanted = corpus.tokens
        while True:
            for tokens in _making(corpus, plan, parts, wanted):
                progress(tokens)
            repeated = parts.repeated()
            kept = parts.kept_tokens(repeated)
            if parts.whole or not corpus.tokens or kept >= corpus.tokens:
                break
            wanted = parts.tokens + corpus.tokens - kept
    except OSError as error:
        raise Failure(f"the token store {folder} cannot be written: {error.strerror or error}") from None
    with writing(folder) as partial:
        _assemble(partial, corpus, recipe, tokenizer, parts, repeated)
    parts.remove()


def _making(corpus: Corpus, plan: _Plan, parts: "_Parts", wanted: int) -> Iterator[int]:
    """Make parts until all together have `wanted` tokens (0: until the corpus ends).

    Yields the tokens of all that are there, after each part and while waiting for one.
    """

    def enough() -> bool:
        return parts.whole or (wanted > 0 and parts.tokens >= wanted)

    yield parts.tokens
    if enough():
        return
    dealt = _dealt(corpus.found(parts.rows))
    ahead = list(itertools.islice(dealt, 2))
    if len(ahead) < 2:
        # All that is left is one part, for which no process need be started.
        for rows in ahead:
            parts.take(_make(plan, parts.next_file(), rows))
        parts.end()
        yield parts.tokens
        return
    workers = processes.cores()
    under_way: collections.deque[Future] = collections.deque()
    with processes.pool(workers, _begin, (plan,)) as pool:
        try:
            for rows in itertools.chain(ahead, dealt):
                under_way.append(processes.submit(pool, _make_here, parts.next_file(len(under_way)), rows))
                while len(under_way) > workers + 1 or (under_way and under_way[0].done()):
                    yield from _waited(parts, under_way.popleft())
                if enough():
                    return
            while under_way:
                yield from _waited(parts, under_way.popleft())
        except BrokenProcessPool:
            raise Failure(f"a process that tokenized {corpus.name} was killed: out of memory?") from None
    parts.end()


def _waited(parts: "_Parts", part: Future) -> Iterator[int]:
    """Take a part when it is made; yields the tokens that are there, now and then."""
    while not part.done():
        wait([part], LOOK)
        yield parts.tokens
    parts.take(part.result())
    yield parts.tokens


def _dealt(found: Iterator[Found]) -> Iterator[list[Found]]:
    """Rows in parts of about PART_CHARACTERS: where one ends depends on the rows alone."""
    rows: list[Found] = []
    size = 0
    for row in found:
        if size >= PART_CHARACTERS or len(rows) >= PART_ROWS:
            yield rows
            rows, size = [], 0
        rows.append(row)
        size += characters(row.document) if row.document is not None else 0
    if rows:
        yield rows


class _Parts:
    """The parts of a store in the making, in a folder of their own that stays until the store is written."""

    def __init__(self, folder: Path, plan: str, hygiene: Hygiene):
        self._folder, self._hygiene = folder, hygiene
        noted = folder / "plan.json"
        if not noted.exists() or noted.read_text() != json_text(plan):
            shutil.rmtree(folder, ignore_errors=True)
            write_json(noted, plan)
        self.metas: list[_Meta] = []
        while (meta := self._noted(self.next_file())) is not None:
            self.metas.append(meta)
        self._end = folder / f"end-{len(self.metas)}"
        self.whole = self._end.exists()

    @property
    def rows(self) -> int:
        """Rows that the parts were made of."""
        return sum(meta.rows for meta in self.metas)

    @property
    def tokens(self) -> int:
        """Tokens of all documents, duplicates included."""
        return sum(meta.tokens for meta in self.metas)

    def next_file(self, ahead: int = 0) -> Path:
        """The file of the part after the last, or of one of those `ahead` of it."""
        return self._folder / f"part-{len(self.metas) + ahead:06}.npz"

    def take(self, meta: _Meta) -> None:
        """Count the next part as there."""
        self.metas.append(meta)

    def end(self) -> None:
        """Note that the corpus has no more rows."""
        self.whole = True
        (self._folder / f"end-{len(self.metas)}").touch()

    def read(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of each part. Raises Failure for one that is not as it was written."""
        for number, meta in enumerate(self.metas):
            path = self._folder / f"part-{number:06}.npz"
            content = path.read_bytes() if path.exists() else b""
            if digest_bytes(content) != meta.digest:
                path.with_suffix(".json").unlink(missing_ok=True)
                raise Failure(
                    f"{path} is not as it was written; the same command makes it and what follows again"
                )
            with np.load(io.BytesIO(content)) as arrays:
                yield dict(arrays)

    def repeated(self) -> np.ndarray:
        """Of each document 0, or 1 where it is a duplicate of an earlier one, or 2 where it is a near duplicate."""
        found = np.zeros(sum(meta.documents for meta in self.metas), np.int8)
        if not self._hygiene.keys:
            return found
        exact, near = (FirstSeen(self._folder / name) for name in ("exact", "near"))
        for arrays in self.read():
            exact.add(arrays["keys"][:, : self._hygiene.exact])
            near.add(arrays["keys"][:, self._hygiene.exact :])
        found[near.repeated()] = 2
        found[exact.repeated()] = 1
        return found

    def kept_tokens(self, repeated: np.ndarray) -> int:
        """Tokens of the documents that are no duplicates."""
        if not repeated.any():
            return self.tokens
        begin, kept = 0, 0
        for arrays in self.read():
            lengths = arrays["lengths"]
            kept += int(lengths[repeated[begin : begin + len(lengths)] == 0].sum())
            begin += len(lengths)
        return kept

    def remove(self) -> None:
        """Remove the folder: the store is written."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _noted(self, path: Path) -> _Meta | None:
        try:
            return _Meta(**json.loads(path.with_suffix(".json").read_text())) if path.exists() else None
        except (OSError, ValueError, TypeError):
            return None


DUPLICATES = {1: "duplicate", 2: "near duplicate"}


def _assemble(
    folder: Path,
    corpus: Corpus,
    recipe: dict[str, Any],
    tokenizer: Tokenizer,
    parts: _Parts,
    repeated: np.ndarray,
) -> None:
    """Write the store of the parts' documents into `folder`, up to the one that reaches the tokens asked for."""
    writer = StoreWriter(folder, tokenizer)
    counts: collections.Counter[str] = collections.Counter()
    rows = begin = 0
    with open(folder / LEFT_OUT, "w", encoding="utf-8") as left_out:
        for arrays in parts.read():
            lengths, which = arrays["lengths"], repeated[begin : begin + len(arrays["lengths"])]
            begin += len(lengths)
            reached = writer.tokens + np.cumsum(np.where(which == 0, lengths, 0))
            count, last = len(lengths), len(arrays["reasons"])
            if corpus.tokens and len(reached) and reached[-1] >= corpus.tokens:
                count = int(np.searchsorted(reached, corpus.tokens)) + 1
                last = int(arrays["row"][count - 1]) + 1
            rows += last
            counts.update(REASONS[reason] for reason in arrays["reasons"][:last] if reason)
            notes = [json.loads(line) for line in arrays["notes"].tobytes().decode().splitlines()]
            ends = np.cumsum(lengths)
            for d in np.flatnonzero(which[:count]):
                counts[DUPLICATES[int(which[d])]] += 1
                ids = arrays["tokens"][ends[d] - lengths[d] : ends[d]]
                notes.append(
                    {
                        "row": int(arrays["row"][d]),
                        "place": arrays["places"][d],
                        "step": DUPLICATES[int(which[d])],
                        "begins": tokenizer.text(ids[:100])[:BEGINNING],
                    }
                )
            for note in sorted(notes, key=lambda note: note["row"]):
                if note.pop("row") < last:
                    left_out.write(json.dumps(note, ensure_ascii=False, default=str) + "\n")
            kept = which[:count] == 0
            taken = np.repeat(kept, lengths[:count])
            tokens, loss = (arrays[name][: len(taken)][taken] for name in ("tokens", "loss"))
            writer.add(
                Encoded(tokens, loss, lengths[:count][kept]), int(arrays["text_bytes"][:count][kept].sum())
            )
            if count < len(lengths) or (corpus.tokens and writer.tokens >= corpus.tokens):
                break
    if not (folder / LEFT_OUT).stat().st_size:
        (folder / LEFT_OUT).unlink()
    writer.finish(corpus, recipe, rows, dict(sorted(counts.items())), _software(corpus.hygiene))


def _software(hygiene: Hygiene) -> dict[str, str]:
    """Versions of what decides which documents a store has."""
    used = [name for name, on in (("datasketch", hygiene.near), ("py3langid", hygiene.languages)) if on]
    return {name: importlib.metadata.version(name) for name in ("tokenizers", *used)}


REASONS = ("", "filter", "empty", "misfit", "broken", *STEPS)
"""Why a row gave no document of its own, by the number that parts hold."""

_plan: _Plan | None = None


def _begin(plan: _Plan) -> None:
    global _plan
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    _plan = plan


def _make_here(path: Path, rows: Sequence[Found]) -> _Meta:
    """Make a part in a process of its own."""
    assert _plan is not None
    return _make(_plan, path, rows)


@functools.lru_cache(maxsize=2)
def _tokenizer(path: Path) -> Tokenizer:
    return Tokenizer.load(path)


def _make(plan: _Plan, path: Path, rows: Sequence[Found]) -> _Meta:
    """Clean and tokenize `rows`, and write what became of them to `path`."""
    tokenizer, clean = _tokenizer(plan.tokenizer), cleaner(plan.hygiene)
    documents, keys, kept, notes = [], [], [], []
    reasons = np.zeros(len(rows), np.int8)
    for number, found in enumerate(rows):
        if found.document is None:
            reasons[number] = REASONS.index(found.left_out)
            if found.problem:
                notes.append(
                    {"row": number, "place": found.place, "step": found.left_out, "why": found.problem}
                )
            continue
        verdict = clean.verdict(found.document)
        if verdict.step:
            reasons[number] = REASONS.index(verdict.step)
            text = "\n".join(texts(found.document))
            whole = {"text": text} if verdict.step == "overlap" else {"begins": text[:BEGINNING]}
            about = {"row": number, "place": found.place, "step": verdict.step, "why": verdict.detail}
            notes.append({**about, **whole})
            continue
        documents.append(found.document)
        keys.append(verdict.keys)
        kept.append(number)
    encoded = [tokenizer.encode_flat(some, plan.template) for some in _pieces(documents)]
    lengths = np.concatenate([e.lengths for e in encoded]) if encoded else np.zeros(0, np.int64)
    arrays: dict[str, Any] = {
        "tokens": np.concatenate([e.tokens for e in encoded]) if encoded else np.zeros(0, np.uint32),
        "loss": np.concatenate([e.loss for e in encoded]) if encoded else np.zeros(0, np.uint8),
        "lengths": lengths,
        "text_bytes": np.array([text_bytes([document]) for document in documents], np.int64),
        "keys": np.array(keys, np.uint64).reshape(len(documents), plan.hygiene.keys),
        "row": np.array(kept, np.int64),
        "places": np.array([rows[number].place for number in kept], np.str_),
        "reasons": reasons,
        "notes": np.frombuffer("\n".join(map(json.dumps, notes)).encode(), np.uint8),
    }
    held = io.BytesIO()
    np.savez(held, **arrays)
    content = held.getvalue()
    write_bytes(path, content, durable=False)
    counts = collections.Counter(REASONS[reason] for reason in reasons if reason)
    meta = _Meta(len(rows), len(documents), int(lengths.sum()), dict(counts), digest_bytes(content))
    write_json(path.with_suffix(".json"), meta._asdict(), durable=False)
    return meta


def _pieces(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Documents in pieces of about CHARACTERS_AT_ONCE."""
    some: list[Document] = []
    size = 0
    for document in documents:
        some.append(document)
        size += characters(document)
        if size >= CHARACTERS_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some
