"""How near the documents of one corpus are to those of others, by lengths and by words; nothing is embedded."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from caml.data.hygiene.overlap import words_of
from caml.data.store import TokenStore
from caml.data.tokenizer import Tokenizer

if TYPE_CHECKING:  # where it runs it is imported by what uses it: a third of a second for every command
    from scipy import sparse

COMMONEST = 1000
"""Of how many of the commonest words it is told how many two corpora share."""


class Sample(NamedTuple):
    """Documents of a store: their tokens, one after the other, and how many each has."""

    tokens: np.ndarray  # int64 [sum of lengths]
    lengths: np.ndarray  # int64 [documents]

    def words(self, tokenizer: Tokenizer) -> Counter[str]:
        """How often each word is in their text, words being runs of letters and digits in lower case."""
        documents = np.split(self.tokens, np.cumsum(self.lengths)[:-1])
        return Counter(word for document in documents for word in words_of(tokenizer.text(document)))


class Nearness(NamedTuple):
    """How near documents are to those that they stand for, one for each."""

    lengths: (
        float  # Kolmogorov-Smirnov distance of the lengths: 0 where they are distributed alike, at most 1
    )
    words: dict[str, float]  # what each word adds to the divergence; see `divergence`
    common: float  # the share of their commonest words that are among the commonest here
    likeness: float  # the mean cosine of the TF-IDF vectors of a document and the one it stands for

    @property
    def apart(self) -> float:
        """The Jensen-Shannon divergence of the words, in bits: 0 where they are as frequent, at most 1."""
        return sum(map(abs, self.words.values()))


def sample(store: TokenStore, documents: np.ndarray | None = None) -> Sample:
    """The documents of a store that have these numbers, which ascend; all of them without."""
    numbers = np.arange(store.manifest.documents) if documents is None else documents
    begins, lengths = store.bounds[numbers], np.diff(store.bounds)[numbers]
    places = np.arange(lengths.sum()) + np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    return Sample(store.tokens(places).astype(np.int64), lengths)


def nearness(tokenizer: Tokenizer, treatment: Sample, *others: Sample) -> list[Nearness]:
    """How near each of `others`, of as many documents, is to `treatment`."""
    words = treatment.words(tokenizer)
    ours, *vectors = tfidf([treatment, *others])
    return [
        Nearness(
            distance(treatment.lengths, other.lengths),
            divergence(words, theirs := other.words(tokenizer)),
            shared(words, theirs),
            float(ours.multiply(vector).sum(axis=1).mean()),
        )
        for other, vector in zip(others, vectors, strict=True)
    ]


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two sets of numbers: the most by which their cumulative shares differ."""
    places = np.union1d(one, other)
    first, second = (
        np.searchsorted(np.sort(found), places, side="right") / len(found) for found in (one, other)
    )
    return float(np.abs(first - second).max())


def divergence(one: Counter[str], other: Counter[str]) -> dict[str, float]:
    """What each word adds to the Jensen-Shannon divergence of two texts, in bits; below 0 where `other` has it more.

    The sizes sum to the divergence: 0 where each word is as frequent in both, 1 where no word is in both.
    Source: J. Lin, Divergence measures based on the Shannon entropy, 1991.
    """
    found, totals = {}, [max(1, counts.total()) for counts in (one, other)]
    for word in {**one, **other}:
        p, q = one[word] / totals[0], other[word] / totals[1]
        added = sum(share * math.log2(2 * share / (p + q)) for share in (p, q) if share) / 2
        found[word] = added if p > q else -added
    return found


def shared(one: Counter[str], other: Counter[str]) -> float:
    """The share of the commonest words of `one` that are among as many of the commonest of `other`."""
    ours, theirs = ({word for word, _ in counts.most_common(COMMONEST)} for counts in (one, other))
    return len(ours & theirs) / max(1, len(ours))


def tfidf(samples: Sequence[Sample]) -> "list[sparse.csr_matrix]":
    """The TF-IDF vectors of the documents of each sample, `[documents, tokens]` of length 1, weighted over them all."""
    from scipy import sparse

    size = 1 + max(int(part.tokens.max()) for part in samples)
    counts = [_counts(part, size) for part in samples]
    seen = sum(np.bincount(matrix.indices, minlength=size) for matrix in counts)
    weight = np.log((1 + sum(matrix.shape[0] for matrix in counts)) / (1 + seen)) + 1
    found = []
    for matrix in counts:
        weighted = matrix.multiply(weight[None, :]).tocsr()
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).reshape(-1))
        found.append((sparse.diags(1 / np.maximum(norms, 1e-12)) @ weighted).tocsr())
    return found


def _counts(part: Sample, size: int) -> "sparse.csr_matrix":
    """How often each document has each of `size` tokens, sparse `[documents, size]`."""
    from scipy import sparse

    document = np.repeat(np.arange(len(part.lengths)), part.lengths)
    shape = (len(part.lengths), size)
    return sparse.csr_matrix((np.ones(len(part.tokens)), (document, part.tokens)), shape)
