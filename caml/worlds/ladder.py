"""Which scenes the ladder asks about: combinations of kind, need, frame and name, dealt evenly.

The generator of base text reads it too, to keep what is asked out of what is trained on.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import combinations, product

import numpy as np

from caml.worlds.lexicon import Lexicon, Pair, Theme

_ITEMS_PER_RUNG = 48
# The one rung of which training texts hold the scenes.
SEEN_RUNG = "seen_item"

Card = tuple[str, Pair, str, str]


def scene_rungs(lexicon: Lexicon, theme: Theme) -> dict[str, Iterable[Card]]:
    """By rung, the (kind, pair of needs, frame, name) of its scenes; rungs that are told otherwise have none here."""
    seen, base = lexicon.document_frames, lexicon.base_frames
    probe, written = lexicon.base_names, lexicon.document_names
    return {
        SEEN_RUNG: spread(theme.patients, theme.pairs, seen, written),
        "unseen_name": spread(theme.patients, theme.pairs, seen, probe),
        "new_frame": over_names(theme.patients, theme.pairs, base, probe),
        "unseen_kind": spread(theme.patients_held, theme.pairs, seen, probe),
        "unfeeling_seen": spread(theme.things, theme.pairs, seen, probe),
        "unfeeling_unseen": spread(theme.things_held, theme.pairs, seen, probe),
        "unseen_need": spread(theme.patients, theme.pairs_held, seen, probe),
    }


def asked(lexicon: Lexicon, theme: Theme) -> frozenset[tuple[str, str, str, str]]:
    """The (need, kind, frame, name) of every scene of an unseen rung."""
    return frozenset(
        (need, kind, frame, name)
        for rung, cards in scene_rungs(lexicon, theme).items()
        if rung != SEEN_RUNG
        for kind, pair, frame, name in cards
        for need in pair.needs
    )


@cache
def spread(
    kinds: tuple[str, ...], needs: tuple[Pair | str, ...], frames: tuple[str, ...], names: tuple[str, ...]
) -> list[tuple]:
    """All combinations of kind, need and frame, or `_ITEMS_PER_RUNG` of them, each with a name.

    Kinds take turns; of what is left to choose, that is taken whose pairs of values, and values, were taken least
    till then: so all are about equally frequent and none is tied to another.
    """
    factors = kinds, needs, frames, names
    sizes = tuple(map(len, factors))
    cards = list(product(*map(range, sizes[:3])))
    # What is settled of each item: the whole card where there is room for all of them, else its kind.
    settled: list[tuple[int, ...]] = list(cards)
    if len(cards) > _ITEMS_PER_RUNG:
        settled = [(number % sizes[0],) for number in range(_ITEMS_PER_RUNG)]
    # How often each value, and each pair of values, was taken, in the shape of all combinations.
    several = [*combinations(range(len(sizes)), 2), *((one,) for one in range(len(sizes)))]
    taken = {
        places: np.zeros([size if place in places else 1 for place, size in enumerate(sizes)], int)
        for places in several
    }
    chosen = []
    for begun in settled if min(sizes) else []:
        # Pairs come first: no sum over single values is larger than that.
        frequency = sum(counts * (10_000 if len(places) == 2 else 1) for places, counts in taken.items())
        left = np.asarray(frequency)[begun]
        best = (*begun, *map(int, np.unravel_index(left.argmin(), left.shape)))
        for places, counts in taken.items():
            counts[tuple(value if place in places else 0 for place, value in enumerate(best))] += 1
        chosen.append(best)
    return [tuple(values[k] for values, k in zip(factors, card, strict=True)) for card in sorted(chosen)]


def over_names(
    kinds: Sequence[str], needs: Sequence, frames: Sequence[str], names: Sequence[str]
) -> Iterator[tuple]:
    """All combinations, each with two names, that are dealt so that none goes with a kind, a need or a frame."""
    for (k, kind), (cell, (need, frame)) in product(enumerate(kinds), enumerate(product(needs, frames))):
        for turn in (0, 1):
            yield kind, need, frame, names[(k + 2 * cell + turn) % len(names)]
