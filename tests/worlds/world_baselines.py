"""Baselines without a latent, fitted by counting: n-grams, and care read off words and pairs of words."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np


class NGrams:
    """An n-gram model with Witten-Bell interpolation down to the uniform distribution.

    Source: Witten and Bell 1991, method C, as in Chen and Goodman 1999, section 2.4.
    """

    def __init__(self, order: int, texts: Iterable[str]):
        self.order = order
        self.counts: dict[tuple[str, ...], Counter] = defaultdict(Counter)
        for text in texts:
            words = ["<>"] * (order - 1) + text.split() + ["<>"]
            for end in range(order - 1, len(words)):
                for begin in range(end - order + 1, end + 1):
                    self.counts[tuple(words[begin:end])][words[end]] += 1
        self.vocabulary = len(self.counts[()])

    def probability(self, context: Sequence[str], word: str) -> float:
        seen = ["<>"] * (self.order - 1) + list(context)
        value = 1 / self.vocabulary
        for length in range(self.order):
            counts = self.counts.get(tuple(seen[len(seen) - length :]))
            if counts:
                kinds, total = len(counts), counts.total()
                value = (counts[word] + kinds * value) / (total + kinds)
        return value

    def margin(self, context: str, aligned: str, opposed: str) -> float:
        words = context.split()
        return float(np.log(self.probability(words, aligned) / self.probability(words, opposed)))
