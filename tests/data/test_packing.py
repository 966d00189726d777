"""Packing: next-fit against a plain loop, whole documents, pieces of long ones."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from caml.data.packing import pack

lengths_of_documents = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def next_fit(lengths: list[int], length: int) -> list[list[tuple[int, int]]]:
    """Sequences as lists of segments (start, stop), by the plainest loop."""
    segments, begin = [], 0
    for size in lengths:
        segments += [(begin + i, min(begin + i + length, begin + size)) for i in range(0, size, length)]
        begin += size
    sequences: list[list[tuple[int, int]]] = [[]]
    for start, stop in segments:
        if sum(b - a for a, b in sequences[-1]) + stop - start > length:
            sequences.append([])
        sequences[-1].append((start, stop))
    return sequences


@given(lengths_of_documents, st.integers(1, 40))
def test_is_next_fit(lengths, length):
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    packing = pack(bounds, length)
    found = []
    for start, stop, first, last in zip(
        packing.start, packing.stop, packing.first, packing.last, strict=True
    ):
        edges = [int(start), *bounds[first:last].tolist(), int(stop)]
        found.append(list(itertools.pairwise(edges)))
    assert found == next_fit(lengths, length)
    assert packing.segments.tolist() == [len(sequence) for sequence in found]
    assert len(packing) == len(found)


def test_long_documents_fill_sequences_and_their_rest_is_packed():
    packing = pack(np.array([0, 3, 23, 25]), 8)
    assert packing.start.tolist() == [0, 3, 11, 19]
    assert packing.stop.tolist() == [3, 11, 19, 25]
    assert packing.segments.tolist() == [1, 1, 1, 2]
