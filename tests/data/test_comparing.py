"""How near documents are to others: against SciPy's own measures and by the plainest loops."""

import math
import random
from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp
from toy_corpora import TOKENIZER, Toy, store

from caml.data import comparing

NUMBERS = st.lists(st.integers(0, 9), min_size=1, max_size=30)
WORDS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1).map(Counter)


@given(NUMBERS, NUMBERS)
def test_the_distance_of_lengths_is_that_of_kolmogorov_and_smirnov(one, other):
    found = comparing.distance(np.array(one), np.array(other))
    assert found == pytest.approx(ks_2samp(one, other, method="asymp").statistic)


@given(WORDS, WORDS)
def test_words_add_up_to_the_divergence_and_say_who_has_them_oftener(one, other):
    found = comparing.divergence(one, other)
    apart = jensenshannon([one[word] for word in found], [other[word] for word in found], base=2) ** 2
    assert sum(map(abs, found.values())) == pytest.approx(apart, abs=1e-9)
    for word, added in found.items():
        if abs(added) > 1e-12:
            assert (added > 0) == (one[word] / one.total() > other[word] / other.total())


def test_the_commonest_words_are_those_that_are_compared(monkeypatch):
    monkeypatch.setattr(comparing, "COMMONEST", 2)
    one, other = Counter(a=9, b=5, c=1), Counter(c=9, a=5, b=1)
    assert comparing.shared(one, other) == 0.5
    assert comparing.shared(Counter(), other) == 0 and comparing.divergence(Counter(), other)["c"] < 0


def test_a_sample_has_the_documents_of_these_numbers_and_their_words(tmp_path):
    toy = Toy(tokens=500)
    opened, numbers = store(tmp_path, toy), np.array([1, 4, 5])
    part = comparing.sample(opened, numbers)
    texts = [text for n, text in zip(range(6), toy.documents(0), strict=False) if n in numbers]
    expected = [TOKENIZER.encode_batch([text])[0][0] for text in texts]
    assert part.lengths.tolist() == list(map(len, expected)) and part.tokens.tolist() == list(
        chain(*expected)
    )
    assert part.words(TOKENIZER) == Counter(" ".join(texts).split())
    assert (
        comparing.sample(opened).tokens.tolist() == opened.tokens(np.arange(opened.manifest.tokens)).tolist()
    )


def test_vectors_are_those_of_the_plainest_loop():
    rng = random.Random(2)
    groups = [[rng.choices(range(9), k=rng.randint(1, 9)) for _ in range(5)] for _ in range(2)]
    samples = [
        comparing.Sample(np.array(list(chain(*group))), np.array(list(map(len, group)))) for group in groups
    ]
    documents = groups[0] + groups[1]
    weights = [math.log((1 + 10) / (1 + sum(t in d for d in documents))) + 1 for t in range(9)]
    for group, found in zip(groups, comparing.tfidf(samples), strict=True):
        for document, vector in zip(group, found.toarray(), strict=True):
            plain = np.array([document.count(t) * weights[t] for t in range(len(vector))])
            assert vector == pytest.approx(plain / np.linalg.norm(plain))
