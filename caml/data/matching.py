"""A matched control from real text: of a pool, a document for each document of an intervention, as long as it is."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from caml.config.errors import UserError, require
from caml.config.seeds import derive
from caml.data.comparing import sample, tfidf
from caml.data.corpora.corpus import Corpus
from caml.data.corpora.schemas import TEXTUAL
from caml.data.slots import random_order
from caml.data.sources import Document, Source, require_name
from caml.data.store import TokenStore, store_folder, store_recipe
from caml.data.tokenizer import BEARS, Encoded, Tokenizer
from caml.data.tokenizer_recipes import TokenizerRecipe
from caml.data.writing import StoreWriter, opened, writing

NEAREST = 64
"""Among how many documents of the nearest length the nearest in topic is taken."""

UNMATCHED = 0.02
"""As a share of the treatment's tokens: a control that differs by more is told to be none."""


@dataclasses.dataclass(frozen=True)
class Matched:
    """Documents of `pool`, each for one of `treatment` and none twice, in the order of the treatment.

    The longest is matched first, with the document of the pool whose length in tokens is nearest, among equals by
    chance. With `cut` documents that are longer are cut to the same number of tokens, so that both corpora pack
    alike, and one at least as long is taken while there are such. With `topic` it is the document of most similar
    words (cosine of TF-IDF over tokens; nothing is embedded) among the 64 of nearest length.
    """

    name: str
    treatment: Source
    pool: Source
    cut: bool = True
    topic: bool = False
    seed: int = 0
    repetition: float = 1.0

    seeded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_name(self.name)
        require(self.repetition > 0, "repetition", "a number of epochs above 0")
        require(self.seed >= 0, "seed", "a seed is 0 or above")
        for field in ("treatment", "pool"):
            source = getattr(self, field)
            require(not source.seeded, field, "a corpus that is the same in every seed block")
            # What is cut to a length is text: half a conversation, or half a pair, is none.
            require(
                not isinstance(source, Corpus) or isinstance(source.schema, TEXTUAL),
                field,
                f"a corpus of text alone, by the schema {' or '.join(s.__name__ for s in TEXTUAL)}",
            )

    @property
    def tokens(self) -> int:
        """As many as the treatment."""
        return self.treatment.tokens

    @property
    def origin(self) -> str:
        """That of the pool."""
        return self.pool.origin

    @property
    def revision(self) -> str:
        """That of the pool."""
        return self.pool.revision

    @property
    def licence(self) -> str:
        """That of the pool."""
        return self.pool.licence

    @property
    def sources(self) -> tuple[Source, Source]:
        """What has to be there before the match is made."""
        return self.treatment, self.pool

    def recipe(self, seed: int) -> dict[str, Any]:
        """Both corpora, and how they are matched; the same for every seed."""
        return {
            "matched": [{"recipe": source.recipe(0), "tokens": source.tokens} for source in self.sources],
            "cut": self.cut,
            "topic": self.topic,
            "seed": self.seed,
        }

    def documents(self, seed: int) -> Iterator[Document]:
        """Raises UserError: what is matched are tokens."""
        raise UserError(f"{self.name}: a matched control has token stores only; name its pool instead")


class Match(NamedTuple):
    """For each document of the treatment its document of the pool, and how many tokens of it are taken."""

    documents: np.ndarray  # int64 [documents]
    lengths: np.ndarray  # int64 [documents]


def match(treatment: TokenStore, pool: TokenStore, matched: Matched) -> Match:
    """Match by length, and by topic where that is asked for. Raises UserError where the pool has too few documents."""
    wanted, there = np.diff(treatment.bounds), np.diff(pool.bounds)
    if len(there) < len(wanted):
        raise UserError(
            f"{matched.name}: {matched.pool.name} has {len(there):,} documents, and {matched.treatment.name} "
            f"{len(wanted):,}: a pool of more, or a treatment of fewer tokens"
        )
    vectors = tfidf([sample(treatment), sample(pool)]) if matched.topic else []
    # By length, and among equals by chance; what is taken leaves a gap.
    chance = random_order(len(there), derive(matched.seed, "match"))
    order = chance[np.argsort(there[chance], kind="stable")]
    lengths = there[order]
    free = np.ones(len(order), bool)
    found = np.empty(len(wanted), np.int64)
    for document in np.argsort(-wanted, kind="stable"):
        near = _nearest(lengths, free, int(wanted[document]), NEAREST if matched.topic else 1, matched.cut)
        best = near[0]
        if vectors:
            ours, theirs = vectors
            best = near[int(np.argmax((theirs[order[near]] @ ours[document].T).toarray()))]
        free[best] = False
        found[document] = order[best]
    taken = np.minimum(there[found], wanted) if matched.cut else there[found]
    return Match(found, taken)


def _nearest(lengths: np.ndarray, free: np.ndarray, wanted: int, count: int, cut: bool) -> np.ndarray:
    """Places of the `count` free documents whose length is nearest to `wanted`, nearest first.

    With `cut` those that are at least as long come first.
    """
    begin = int(np.searchsorted(lengths, wanted))
    above = begin + np.flatnonzero(free[begin:])[:count]
    below = np.flatnonzero(free[:begin])[::-1][:count]
    if cut:
        return np.concatenate([above, below])[:count]
    both = np.concatenate([above, below])
    return both[np.argsort(np.abs(lengths[both] - wanted), kind="stable")][:count]


def prepare_matched(
    root: Path, matched: Matched, trained: TokenizerRecipe, tokenizer: Tokenizer, template: str = "chatml"
) -> TokenStore:
    """Open the store of a matched control under `root`, or write it; the stores of its two corpora are there."""
    folder = store_folder(root, matched, 0, trained, template)
    if not folder.exists():
        treatment, pool = (
            opened(store_folder(root, source, 0, trained, template), source, 0, trained, tokenizer, template)
            for source in matched.sources
        )
        found = match(treatment, pool, matched)
        with writing(folder) as partial:
            writer = StoreWriter(partial, tokenizer)
            for document, length in zip(found.documents, found.lengths, strict=True):
                begin, end = (int(pool.bounds[document + i]) for i in (0, 1))
                places = np.arange(begin, begin + int(length))
                tokens, loss = pool.tokens(places), pool.loss(places).copy()
                if begin + length < end:
                    # A document that is cut ends as documents do.
                    tokens, loss = tokens.copy(), loss
                    tokens[-1], loss[-1] = pool.tokens(np.array([end - 1]))[0], BEARS
                writer.add(Encoded(tokens, loss, np.array([length])), len(tokenizer.text(tokens).encode()))
            writer.finish(matched, store_recipe(matched, 0, trained, template), rows=pool.manifest.documents)
    return opened(folder, matched, 0, trained, tokenizer, template)


def summary(treatment: TokenStore, control: TokenStore) -> str:
    """In a line, how well the sizes of a control match."""
    ours, theirs = np.diff(treatment.bounds), np.diff(control.bounds)
    apart = abs(theirs.sum() / ours.sum() - 1)
    warning = "; NOT MATCHED in tokens: take a pool of longer documents" if apart > UNMATCHED else ""
    return (
        f"{len(theirs):,} documents for {len(ours):,}, {np.mean(theirs == ours):.1%} of equal length; {theirs.sum():,} "
        f"tokens for {ours.sum():,} ({theirs.sum() / ours.sum() - 1:+.2%}){warning}"
    )
