"""Packing documents into sequences: next-fit in order, never across a sequence's end."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Packing:
    """Sequences over a store's tokens: sequence i is its tokens `start[i]` to `stop[i]`, then padding.

    Its segments begin at `start[i]` and at the document bounds numbered `first[i]` to `last[i]`, less the
    last, all of which lie after `start[i]`.
    """

    start: np.ndarray  # int64 [sequences]
    stop: np.ndarray  # int64 [sequences]
    first: np.ndarray  # int64 [sequences]
    last: np.ndarray  # int64 [sequences]

    @property
    def segments(self) -> np.ndarray:
        """Segments of each sequence: documents, and pieces of documents longer than a sequence."""
        return self.last - self.first + 1

    def __len__(self) -> int:
        return len(self.start)


def pack(bounds: np.ndarray, length: int) -> Packing:
    """Pack documents into sequences of `length` tokens; document d is the tokens bounds[d] to bounds[d + 1].

    Documents come in order, each into the open sequence where it fits and into a new one where it doesn't
    (next-fit), so that a sequence is a stretch of the store and packing depends on lengths alone. A
    document longer than a sequence is cut into pieces of `length` and a rest, packed like documents.
    """
    pieces = -(-np.diff(bounds) // length)
    cuts = np.repeat(bounds[:-1], pieces)
    cuts += length * (np.arange(len(cuts)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    ends = np.append(cuts, bounds[-1])
    # The piece after the last that still fits into a sequence that begins with this one.
    after = (np.searchsorted(ends, cuts + length, side="right") - 1).tolist()
    heads = []
    head = 0
    while head < len(after):
        heads.append(head)
        head = after[head]
    start = cuts[heads]
    stop = np.append(start[1:], bounds[-1])
    return Packing(
        start=start,
        stop=stop,
        first=np.searchsorted(bounds, start, side="right"),
        last=np.searchsorted(bounds, stop, side="left"),
    )
