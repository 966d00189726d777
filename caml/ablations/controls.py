"""The matched controls of a gin file: drawn, held against what they stand for, and written out to be read."""

import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from caml.ablations.prepare import Stores, Wanted
from caml.ablations.progress import Progress
from caml.ablations.stocking import PERCENTILES, Stock, prepare
from caml.config.errors import UserError
from caml.config.seeds import derive
from caml.config.text import aligned, counted
from caml.data.comparing import COMMONEST, nearness, sample
from caml.data.corpora.corpus import Corpus
from caml.data.files import write_text
from caml.data.matching import NEAREST, Match, Matched, match
from caml.data.slots import random_order
from caml.data.store import TokenStore
from caml.data.tokenizer import Tokenizer

TELLING = 10
"""How many words are named that one corpus has more often than the other."""


class Control(NamedTuple):
    """A matched control, and what it is drawn for and from."""

    matched: Matched
    treatment: TokenStore
    pool: TokenStore
    store: TokenStore
    found: Match
    tokenizer: Tokenizer
    template: str


def draw(stock: Stock, write: Path | None, progress: Progress, stop: threading.Event) -> list[str]:
    """Write the stores of the matched controls that are missing; lines about how well each is matched.

    With `write` their text goes there as JSONL, a row for each document. Raises UserError where there is no matched
    control or `write` is no new file in a folder, and `Stopped` where `stop` was set.
    """
    wanted = tuple(one for one in stock.wanted if isinstance(one[0], Matched))
    if not wanted:
        raise UserError(
            f"{stock.file} asks for no matched control: bind control/Matched.name = 'control', "
            "control/Matched.treatment = @care/Files() and control/Matched.pool = @pool/Files(), and name "
            "@control/Matched() in Corpora.sources or among an Ablation's arms"
        )
    if write is not None and write.exists():
        raise UserError(f"--write {write}: this is there already; name a new file, or remove it first")
    if write is not None and not write.absolute().parent.is_dir():
        raise UserError(f"--write {write}: there is no folder {write.parent}")
    lines = prepare(dataclasses.replace(stock, wanted=wanted), progress, stop)
    stores = Stores(stock.where)
    rows: list[str] = []
    for one in wanted:
        control = _drawn(stores, one)
        lines += _quality(control)
        if write is not None:
            rows += [json.dumps(row, ensure_ascii=False) + "\n" for row in _rows(control)]
    if write is not None:
        write_text(write, "".join(rows))
        licences = ", ".join(dict.fromkeys(source.licence or "not stated" for source, *_ in wanted))
        lines.append(f"{write}: {counted(len(rows), 'document')}; licence: {licences}")
    return lines


def _drawn(stores: Stores, wanted: Wanted) -> Control:
    matched, seed, recipe, template = wanted
    assert isinstance(matched, Matched)
    treatment, pool, store = (
        stores.open(source, seed, recipe, template) for source in (*matched.sources, matched)
    )
    found = match(treatment, pool, matched)
    return Control(matched, treatment, pool, store, found, stores.tokenizer(recipe), template)


def _quality(control: Control) -> Iterator[str]:
    """Lines about a control, beside its treatment and as many documents of its pool that are drawn by chance."""
    matched, store, there = control.matched, control.store, control.pool.manifest.documents
    treatment, pool = matched.treatment.name, matched.pool.name
    chance = random_order(there, derive(matched.seed, "unmatched"))[: store.manifest.documents]
    samples = [sample(control.treatment), sample(store), sample(control.pool, np.sort(chance))]
    near = nearness(control.tokenizer, *samples)
    topic = f", the nearest in topic of {NEAREST}" if matched.topic else ""
    yield f"{store.folder.name}: for each document of {treatment} one of {there:,} of {pool}, by length{topic}"
    rows = [
        ("", treatment, matched.name, "unmatched"),
        ("documents", *(f"{len(part.lengths):,}" for part in samples)),
        ("tokens", *(f"{len(part.tokens):,}" for part in samples)),
    ]
    for percent in (*PERCENTILES, 100):
        shown = (f"{np.percentile(part.lengths, percent):,.0f}" for part in samples)
        rows.append((f"tokens of a document, {percent}%", *shown))
    rows += [
        ("lengths: Kolmogorov-Smirnov distance", "", *(f"{n.lengths:.3f}" for n in near)),
        ("words: Jensen-Shannon divergence, bits", "", *(f"{n.apart:.3f}" for n in near)),
        (f"words: shared of the {COMMONEST:,} commonest", "", *(f"{n.common:.1%}" for n in near)),
        ("words: cosine of TF-IDF, document by document", "", *(f"{n.likeness:.3f}" for n in near)),
    ]
    yield from aligned(rows)
    yield f"  unmatched: as many documents of {pool}, drawn by chance and whole"
    wanted, found = samples[0].lengths, np.diff(control.pool.bounds)[control.found.documents]
    longer, shorter = (
        ("cut", f"shorter, as {pool} had none as long") if matched.cut else ("longer", "shorter")
    )
    yield f"  {longer}: {_told(found - wanted, found)}"
    yield f"  {shorter}: {_told(wanted - found, wanted)}"
    words = sorted(near[0].words, key=near[0].words.__getitem__)
    yield f"  oftener in {treatment}: {', '.join(words[: -TELLING - 1 : -1])}"
    yield f"  oftener in {matched.name}: {', '.join(words[:TELLING])}"


def _told(over: np.ndarray, of: np.ndarray) -> str:
    """How many documents are over, and by how many tokens."""
    above = over[over > 0]
    if not len(above):
        return "none"
    return (
        f"{len(above):,} of {counted(len(over), 'document')}, by {above.mean():,.1f} tokens on average and "
        f"{above.max():,} at most, in all {above.sum():,} of {of.sum():,}"
    )


def _rows(control: Control) -> Iterator[dict[str, Any]]:
    """A row for each document: its text, which of the pool's documents it is, and which of the treatment it stands for.

    Numbers count the documents of a store from 0, as `caml data show` does.
    """
    treatment, store, places = control.treatment, control.store, _places(control)
    for number, drawn in enumerate(control.found.documents.tolist()):
        tokens = _tokens(store, number)
        yield {
            "text": control.tokenizer.text(tokens),
            "tokens": len(tokens),
            "control": store.folder.name,
            "pool_document": drawn,
            "treatment_document": number,
            "treatment_tokens": len(_tokens(treatment, number)),
            "treatment_place": next(places, ""),
        }


def _places(control: Control) -> Iterator[str]:
    """Where each document of the treatment stands in its files, where it is a corpus.

    Stores do not keep that: the files are read again, and what hygiene left out is passed over.
    """
    source = control.matched.treatment
    rows = source.found() if isinstance(source, Corpus) else iter(())
    number = 0
    for row in rows:
        if number == control.treatment.manifest.documents:
            return
        if row.document is not None:
            tokens = control.tokenizer.encode_flat([row.document], control.template).tokens
            if np.array_equal(tokens, _tokens(control.treatment, number)):
                yield row.place
                number += 1


def _tokens(store: TokenStore, document: int) -> np.ndarray:
    return store.tokens(np.arange(*store.bounds[document : document + 2]))
