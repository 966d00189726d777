"""The slot rule: which slots of a stage hold base text, the intervention and a second source."""

import dataclasses

import numpy as np

from caml.config.errors import Invalid, UserError
from caml.config.seeds import generator

BASE, INTERVENTION, SECOND = 0, 1, 2
"""What a slot holds, as written in `SlotPlan.source`."""

PLACEMENTS = ("uniform", "early", "middle", "late")


@dataclasses.dataclass(frozen=True)
class SlotPlan:
    """For each slot of a stage what it holds (`BASE`, ...) and which sequence of that source."""

    source: np.ndarray  # int8 [slots]
    index: np.ndarray  # int64 [slots], counted from 0 and not yet wrapped at the end of a store


def window(slots: int, placement: str) -> range:
    """The slots in which the intervention may lie: all of them, or the first, middle or last third."""
    if placement == "uniform":
        return range(slots)
    third = ("early", "middle", "late").index(placement)
    return range(slots * third // 3, slots * (third + 1) // 3)


def slot_counts(slots: int, ratio: float, second_ratio: float, placement: str) -> tuple[int, int]:
    """Slots that the intervention and the second source take: `round(ratio * slots)`, halves to even.

    Raises Invalid where they cannot fit into the stage and the placement's window.
    """
    n, m = round(ratio * slots), round(second_ratio * slots)
    room = len(window(slots, placement))
    if n > room:
        raise Invalid(
            f"ratio {ratio} takes {n} of {slots} slots; the window of placement {placement!r} has {room}: "
            f"a ratio up to {room / slots:.4g} fits",
            "ratio",
            "placement",
        )
    if n + m > slots:
        raise Invalid(
            f"ratio {ratio} takes {n} and second_ratio {second_ratio} takes {m} of {slots} slots: too many",
            "ratio",
            "second_ratio",
        )
    return n, m


def random_order(count: int, seed: int) -> np.ndarray:
    """The numbers 0 to count - 1 in an order drawn from `seed`, int64."""
    # The bit generator's raw output is promised never to change between numpy versions, `permutation` is not.
    return np.argsort(generator(seed).bit_generator.random_raw(count), kind="stable")


def plan_slots(slots: int, ratio: float, second_ratio: float, placement: str, seed: int) -> SlotPlan:
    """Give each of `slots` its source and sequence; `seed` is that of the seed block's ranks in this stage.

    Every slot has a random rank. The second source takes the highest ranks of the whole stage, so it lies
    alike in all arms, ratios and placements; the intervention takes the lowest ranks among the other slots
    of its window. Both are filled by rank, so a smaller dose is a subset of a larger one. Base sequence s
    belongs to slot s, and is left out where something else lies. Raises Invalid where a dose doesn't fit,
    UserError where it doesn't because the second source's draw took slots of the window.
    """
    n, m = slot_counts(slots, ratio, second_ratio, placement)
    by_rank = random_order(slots, seed)
    source = np.zeros(slots, np.int8)
    index = np.arange(slots, dtype=np.int64)

    second = by_rank[slots - m :][::-1]
    source[second] = SECOND
    index[second] = np.arange(m)

    place = window(slots, placement)
    inside = by_rank[(by_rank >= place.start) & (by_rank < place.stop)]
    free = inside[source[inside] == BASE]
    if n > len(free):
        raise UserError(
            f"ratio {ratio} takes {n} slots, and in the window of placement {placement!r} the second source "
            f"leaves {len(free)} of {len(place)}: lower ratio or second_ratio"
        )
    source[free[:n]] = INTERVENTION
    index[free[:n]] = np.arange(n)
    return SlotPlan(source, index)
