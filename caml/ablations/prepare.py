"""Tokenizers and token stores of an ablation: what is missing is written, in several processes at once."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from caml.ablations.places import Places
from caml.ablations.progress import Progress
from caml.ablations.runs import StageRun
from caml.config.errors import Failure, UserError
from caml.data.mixture import StageData
from caml.data.sources import Source
from caml.data.store import TokenStore, prepare_store, remove_abandoned, store_folder
from caml.data.tokenizer import Tokenizer, TrainedTokenizer, prepare_tokenizer

Wanted = tuple[Source, int, TrainedTokenizer, str]
# Seconds between looks at whether this launch was told to stop.
LOOK = 0.2


class Stores:
    """The token stores of an ablation, opened once each."""

    def __init__(self, where: Places):
        self._where = where
        self._open: dict[Path, TokenStore] = {}
        self._tokenizers: dict[TrainedTokenizer, Tokenizer] = {}

    def tokenizer(self, trained: TrainedTokenizer) -> Tokenizer:
        """The tokenizer of this recipe, trained where it is missing."""
        if trained not in self._tokenizers:
            self._tokenizers[trained] = prepare_tokenizer(self._where.tokenizers, trained)
        return self._tokenizers[trained]

    def prepare(self, wanted: Iterable[Wanted], progress: Progress, stop: threading.Event) -> bool:
        """Write the stores that are missing; whether all are there (False where `stop` was set before).

        Raises Failure or UserError as `prepare_store` does, and Failure where a process that writes dies.
        """
        missing = {}
        for source, seed, trained, template in wanted:
            folder = store_folder(self._where.stores, source, seed, trained, template)
            if not folder.exists():
                self.tokenizer(trained)
                missing[folder] = (source, seed, trained, template)
        if not missing:
            return True
        with progress.task("token stores", len(missing)) as advance:
            # Fresh processes: jax has threads of its own, which a fork would not survive.
            context = multiprocessing.get_context("spawn")
            stopping = context.Event()
            workers = min(len(missing), os.cpu_count() or 1)
            with ProcessPoolExecutor(workers, context, _begin, (stopping,)) as pool:
                # Ctrl-C goes to all processes of a terminal; this one tells the others, which inherit the mask.
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
                try:
                    left = {pool.submit(_write, self._where, *job) for job in missing.values()}
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
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

    def open(self, source: Source, seed: int, trained: TrainedTokenizer, template: str) -> TokenStore:
        """The store of this recipe, which `prepare` has written.

        Raises UserError where its text has words that the tokenizer does not know.
        """
        folder = store_folder(self._where.stores, source, seed, trained, template)
        if folder not in self._open:
            store = prepare_store(
                self._where.stores, source, seed, trained, self.tokenizer(trained), template
            )
            if store.manifest.unknown_tokens:
                raise UserError(
                    f"{source.name} holds {store.manifest.unknown_tokens:,} words (of {store.manifest.tokens:,} "
                    f"tokens) that the tokenizer trained on {trained.source.name!r} does not know: train it on "
                    "text that has them, or take kind 'bpe'"
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
        return StageData(stage.mixture, stores, seed, stage.name, stage.batch, stage.length, stage.slots)


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
    """Begin a process that writes stores: it ends when the launch does, however that ends."""
    global _stopping
    _stopping = stopping

    def follow(launch: Any) -> None:
        launch.join()
        os._exit(1)

    threading.Thread(target=follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _heed(tokens: int) -> None:
    if _stopping.is_set():
        raise _Told


def _write(
    where: Places, source: Source, seed: int, trained: TrainedTokenizer, template: str
) -> tuple[str, int]:
    """Write one store in a process of its own; its name and tokens."""
    tokenizer = prepare_tokenizer(where.tokenizers, trained)
    store = prepare_store(where.stores, source, seed, trained, tokenizer, template, _heed)
    return source.name, store.manifest.tokens
