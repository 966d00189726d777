"""Tokenizers and token stores of an ablation: what is missing is written, in several processes at once."""

import multiprocessing
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from caml.ablations.places import Places
from caml.ablations.progress import Progress
from caml.ablations.runs import StageRun
from caml.config.errors import Failure, UserError
from caml.data import processes
from caml.data.corpora.corpus import Corpus
from caml.data.matching import Matched, prepare_matched
from caml.data.mixture import StageData
from caml.data.preparing import prepare_corpus
from caml.data.sources import Source
from caml.data.store import TokenStore, store_folder
from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TOKENIZER, TokenizerRecipe, prepare_tokenizer, tokenizer_folder
from caml.data.writing import opened, prepare_store, remove_abandoned

Wanted = tuple[Source, int, TokenizerRecipe, str]
# Seconds between looks at whether this launch was told to stop.
LOOK = 0.2


class Stores:
    """The token stores of an ablation, opened once each."""

    def __init__(self, where: Places):
        self._where = where
        self._open: dict[Path, TokenStore] = {}
        self._tokenizers: dict[TokenizerRecipe, Tokenizer] = {}

    def tokenizer(self, trained: TokenizerRecipe) -> Tokenizer:
        """The tokenizer of this recipe, trained where it is missing."""
        if trained not in self._tokenizers:
            self._tokenizers[trained] = prepare_tokenizer(self._where.tokenizers, trained)
        return self._tokenizers[trained]

    def prepare(self, wanted: Iterable[Wanted], progress: Progress, stop: threading.Event) -> bool:
        """Write the stores that are missing; whether all are there (False where `stop` was set before).

        Generated text is written by a process for each store, a corpus by all of them together. Raises Failure
        or UserError as `prepare_store` and `prepare_corpus` do, and Failure where a process that writes dies.
        """
        missing = {}
        for source, seed, trained, template in with_what_is_matched(wanted):
            folder = store_folder(self._where.stores, source, seed, trained, template)
            if not folder.exists():
                self.tokenizer(trained)
                missing[folder] = (source, seed, trained, template)
        generated = [job for job in missing.values() if not isinstance(job[0], (Corpus, Matched))]
        if generated and not self._generate(generated, progress, stop):
            return False
        for source, _, trained, template in missing.values():
            if isinstance(source, Corpus) and not self._read(source, trained, template, progress, stop):
                return False
        for source, _, trained, template in missing.values():
            if isinstance(source, Matched):
                progress.say(
                    f"matching {source.name}: documents of {source.pool.name} for {source.treatment.name}"
                )
                prepare_matched(self._where.stores, source, trained, self.tokenizer(trained), template)
        return not stop.is_set()

    def _generate(self, missing: Sequence[Wanted], progress: Progress, stop: threading.Event) -> bool:
        with progress.task("token stores", len(missing)) as advance:
            stopping = multiprocessing.get_context("spawn").Event()
            with processes.pool(min(len(missing), processes.cores()), _begin, (stopping,)) as pool:
                left = {processes.submit(pool, _write, self._where, *job) for job in missing}
                try:
                    while left and not stop.is_set():
                        ready, left = wait(left, LOOK, FIRST_COMPLETED)
                        for job in ready:
                            name, tokens = job.result()
                            advance(len(missing) - len(left), f"{name} {tokens:,} tokens")
                except BrokenProcessPool:
                    if not stop.is_set():
                        raise Failure(
                            "a process that wrote token stores was killed: out of memory?"
                        ) from None
                finally:
                    stopping.set()
                    pool.shutdown(cancel_futures=True)
                    # At the end: a launch that was killed may have had writers that only then found out.
                    remove_abandoned(self._where.stores)
        return not left

    def _read(
        self,
        corpus: Corpus,
        trained: TokenizerRecipe,
        template: str,
        progress: Progress,
        stop: threading.Event,
    ) -> bool:
        # Of a corpus that is taken whole nobody knows the tokens beforehand.
        with progress.task(f"token store {corpus.name}, tokens", corpus.tokens or None) as advance:

            def heed(tokens: int) -> None:
                if stop.is_set():
                    raise _Told
                advance(min(tokens, corpus.tokens or tokens), "")

            file = tokenizer_folder(self._where.tokenizers, trained) / TOKENIZER
            try:
                prepare_corpus(
                    self._where.stores,
                    corpus,
                    trained,
                    self.tokenizer(trained),
                    file,
                    template,
                    heed,
                    progress.say,
                )
            except _Told:
                return False
        return True

    def open(self, source: Source, seed: int, trained: TokenizerRecipe, template: str) -> TokenStore:
        """The store of this recipe, which `prepare` has written.

        Raises UserError where its text has words that the tokenizer does not know.
        """
        folder = store_folder(self._where.stores, source, seed, trained, template)
        if folder not in self._open:
            tokenizer = self.tokenizer(trained)
            store = opened(folder, source, seed, trained, tokenizer, template)
            if store.manifest.unknown_tokens:
                raise UserError(
                    f"{source.name} holds {store.manifest.unknown_tokens:,} words (of {store.manifest.tokens:,} "
                    f"tokens) that the tokenizer of kind {trained.kind!r} does not know: train it on text that has "
                    "them, or take kind 'bpe'"
                )
            self._open[folder] = store
        return self._open[folder]

    def data(self, stagerun: StageRun) -> StageData:
        """The batches of a StageRun."""
        stage, seed = stagerun.stage, stagerun.seed
        stores = {
            name: self.open(source, seed, stagerun.tokenizer, stage.mixture.template)
            for name, source in stage.mixture.sources().items()
        }
        return StageData(
            stage.mixture, stores, seed, stage.name, stage.batch, stage.length, stage.slots, stage.share
        )


def with_what_is_matched(wanted: Iterable[Wanted]) -> Iterator[Wanted]:
    """The stores that are wanted, and before a matched control those of its corpora."""
    for source, seed, trained, template in wanted:
        if isinstance(source, Matched):
            yield from with_what_is_matched((of, seed, trained, template) for of in source.sources)
        yield source, seed, trained, template


def stores_of(stageruns: Sequence[StageRun]) -> list[Wanted]:
    """What the stages of `stageruns` read, each once."""
    wanted: dict[Wanted, None] = {}
    for stagerun in stageruns:
        if stagerun.steps:
            mixture = stagerun.stage.mixture
            for source in mixture.sources().values():
                wanted[source, stagerun.seed, stagerun.tokenizer, mixture.template] = None
    return list(wanted)


class _Told(Exception):
    """The launch that this process works for was told to stop."""


_stopping: Any = None


def _begin(stopping: Any) -> None:
    """Begin a process that writes stores."""
    global _stopping
    _stopping = stopping


def _heed(tokens: int) -> None:
    if _stopping.is_set():
        raise _Told


def _write(
    where: Places, source: Source, seed: int, trained: TokenizerRecipe, template: str
) -> tuple[str, int]:
    """Write one store in a process of its own; its name and tokens."""
    tokenizer = prepare_tokenizer(where.tokenizers, trained)
    store = prepare_store(where.stores, source, seed, trained, tokenizer, template, _heed)
    return source.name, store.manifest.tokens
