"""The token stores that a gin file asks for: prepared, shown and verified."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caml.ablations.catalogue import CLASSES, load_ablation
from caml.ablations.condition import study_of
from caml.ablations.feasible import require_files
from caml.ablations.grid import used_stageruns
from caml.ablations.places import Places, make_writable
from caml.ablations.prepare import Stores, Wanted, stores_of, with_what_is_matched
from caml.ablations.progress import Progress, Stopped
from caml.config import files
from caml.config.errors import Failure, UserError, require
from caml.config.fingerprint import runtime
from caml.config.resolve import load
from caml.config.text import counted
from caml.data.chat import TEMPLATES
from caml.data.matching import Matched, summary
from caml.data.sources import Source
from caml.data.store import TokenStore, open_store, store_folder
from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TokenizerRecipe, open_tokenizer, tokenizer_folder
from caml.data.writing import opened, told

PERCENTILES = (5, 25, 50, 75, 95)
SAMPLE = 300
"""Characters of a sample document that are shown."""


@dataclass(frozen=True)
class Corpora:
    """Corpora to be prepared by themselves, without an ablation: their token stores lie where one finds them."""

    sources: tuple[Source, ...]
    tokenizer: TokenizerRecipe
    template: str = "chatml"
    output: str = runtime("runs")

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources", "at least one source")
        require(self.template in TEMPLATES, "template", f"one of {', '.join(TEMPLATES)}")


@dataclass(frozen=True)
class Stock:
    """The stores that the gin file `file` asks for, and where they lie."""

    wanted: tuple[Wanted, ...]
    where: Places
    file: Path

    def folder(self, wanted: Wanted) -> Path:
        """The folder of one store."""
        return store_folder(self.where.stores, *wanted)


def stock_of(path: Path, settings: Sequence[str]) -> Stock:
    """What the gin file `path` asks for: the stores of its ablation, or those of its `Corpora`.

    Raises UserError for whatever is wrong with the file.
    """
    bound = {binding.configurable for binding in files.read(path)}
    if "Ablation" in bound:
        study = study_of(load_ablation(path, settings))
        runs = [cell.run for cell in study.grid]
        held_out = [(run.probes.held_out(run.seed), run.seed, run.tokenizer, "chatml") for run in runs]
        wanted = [*stores_of(used_stageruns(study.grid)), *held_out]
        return Stock(_each_once(wanted, study.where), study.where, path)
    if "Corpora" not in bound:
        raise UserError(
            f"{path} binds neither Ablation nor Corpora: Corpora.sources names what is to be prepared"
        )
    loaded = load(path, (*CLASSES, Corpora), Corpora, settings)
    corpora: Corpora = loaded.tree
    for _, problem in loaded.unread():
        raise problem
    where = Places(Path(corpora.output).absolute(), "")
    there: set[Any] = set()
    for thing in (*corpora.sources, corpora.tokenizer):
        require_files(loaded, thing, 0, there)
    wanted = [(source, 0, corpora.tokenizer, corpora.template) for source in corpora.sources]
    return Stock(_each_once(wanted, where), where, path)


def _each_once(wanted: Sequence[Wanted], where: Places) -> tuple[Wanted, ...]:
    found = {store_folder(where.stores, *one): one for one in with_what_is_matched(wanted)}
    return tuple(found.values())


def prepare(stock: Stock, progress: Progress, stop: threading.Event) -> list[str]:
    """Write the stores that are missing; a line for each. Raises `Stopped` where `stop` was set."""
    make_writable(stock.where)
    there = {stock.folder(wanted) for wanted in stock.wanted if stock.folder(wanted).exists()}
    stores = Stores(stock.where)
    if not stores.prepare(stock.wanted, progress, stop):
        raise Stopped
    lines = []
    for wanted in stock.wanted:
        store = stores.open(*wanted)
        manifest = store.manifest
        was = "there already" if store.folder in there else "written"
        lines.append(
            f"{store.folder}: {was}, {counted(manifest.documents, 'document')}, {manifest.tokens:,} tokens"
        )
        lines += (
            [f"  left out of {manifest.rows:,} rows: {told(manifest.left_out)}"] if manifest.left_out else []
        )
        if isinstance(wanted[0], Matched):
            lines.append(_matched(stores, wanted))
        elif manifest.tokens < wanted[0].tokens:
            lines.append(f"  the corpus ends before the {wanted[0].tokens:,} tokens that were asked for")
    return lines


def _matched(stores: Stores, wanted: Wanted) -> str:
    source, seed, tokenizer, template = wanted
    assert isinstance(source, Matched)
    treatment = stores.open(source.treatment, seed, tokenizer, template)
    return f"  {summary(treatment, stores.open(*wanted))}"


def shown(stock: Stock, samples: int) -> Iterator[str]:
    """Lines about every store: size, lengths, licence, origin, and some documents of it."""
    stores = Stores(stock.where)
    for wanted in stock.wanted:
        source, _, recipe, template = wanted
        folder = stock.folder(wanted)
        yield f"{source.name}: {folder}"
        if not folder.exists():
            yield "  not prepared yet; `caml data prepare` writes it"
            continue
        store = stores.open(*wanted)
        yield from _about(store, f"{recipe.kind}, template {template}")
        if isinstance(source, Matched):
            yield f"  drawn from {store.manifest.rows:,} documents of {source.pool.name}"
            yield _matched(stores, wanted)
        else:
            yield f"  left out of {store.manifest.rows:,} rows: {told(store.manifest.left_out)}"
        yield from _samples(store, stores.tokenizer(recipe), samples)


def _about(store: TokenStore, of: str) -> Iterator[str]:
    m = store.manifest
    lengths = np.diff(store.bounds)
    per_token = m.text_bytes / max(1, m.tokens)
    yield (
        f"  {counted(m.documents, 'document')}, {m.tokens:,} tokens of tokenizer {of}; {m.text_bytes:,} bytes of text, "
        f"{per_token:.2f} a token"
    )
    if m.loss_tokens < m.tokens - m.documents:
        yield f"  {m.loss_tokens:,} tokens are of answers" + (
            f"; {m.pairs:,} preference pairs" if m.pairs else ""
        )
    quantiles = ", ".join(
        f"{p}% {q:,.0f}" for p, q in zip(PERCENTILES, np.percentile(lengths, PERCENTILES), strict=True)
    )
    yield f"  tokens of a document: {quantiles}, longest {lengths.max():,}"
    known = {"origin": m.origin, "revision": m.revision, "licence": m.licence}
    yield "  " + "; ".join(f"{name}: {value or 'not stated'}" for name, value in known.items())


def _samples(store: TokenStore, tokenizer: Tokenizer, count: int) -> Iterator[str]:
    """The beginnings of `count` documents, evenly over the store, so that its end is seen too."""
    last = store.manifest.documents - 1
    for document in np.unique(np.linspace(0, last, count, dtype=np.int64)) if count else ():
        begin, end = (int(store.bounds[document + i]) for i in (0, 1))
        text = tokenizer.decode(store.tokens(np.arange(begin, min(end, begin + SAMPLE))).tolist())
        text = " ".join(text.split())
        yield f"  [{document:,}] {text[:SAMPLE]}{' ...' if len(text) > SAMPLE or end - begin > SAMPLE else ''}"


def verify(stock: Stock) -> Iterator[str]:
    """Read every tokenizer and store whole: a line for each.

    Raises Failure at the end where one is not as it was written, or a store is of another tokenizer.
    """
    recipes = dict.fromkeys(recipe for _, _, recipe, _ in stock.wanted)
    tokenizers: dict[TokenizerRecipe, Tokenizer] = {}
    bad = 0
    for recipe in recipes:
        folder = tokenizer_folder(stock.where.tokenizers, recipe)
        if not folder.exists() and not any(stock.folder(w).exists() for w in stock.wanted if w[2] == recipe):
            yield f"{folder}: not prepared yet"
            continue
        try:
            tokenizers[recipe] = open_tokenizer(stock.where.tokenizers, recipe)
            yield f"{folder}: as it was written"
        except Failure as failure:
            bad += 1
            yield str(failure)
    for wanted in stock.wanted:
        folder = stock.folder(wanted)
        if not folder.exists():
            yield f"{folder}: not prepared yet"
            continue
        source, seed, recipe, template = wanted
        try:
            here = tokenizers.get(recipe)
            store = opened(folder, source, seed, recipe, here, template) if here else open_store(folder)
            store.verify()
            yield f"{folder}: as it was written ({sum(f['bytes'] for f in store.manifest.files.values()):,} bytes)"
        except Failure as failure:
            bad += 1
            yield str(failure)
    if bad:
        raise Failure(f"{bad} of {len(recipes) + len(stock.wanted)} not as written; see above")
