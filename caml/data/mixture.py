"""What a stage reads: a mixture of sources over slots, and from it each step's batch."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from caml.config.errors import UserError, require
from caml.config.seeds import derive
from caml.data.chat import TEMPLATES
from caml.data.slots import BASE, INTERVENTION, PLACEMENTS, SECOND, plan_slots, random_order
from caml.data.sources import Source
from caml.data.store import TokenStore
from caml.data.tokenizer import BEARS, REJECTED, SECOND_HALF

LOSSES = ("all", "assistant", "preference")
CODES = {"base": BASE, "intervention": INTERVENTION, "second": SECOND}
SLOTS_AT_ONCE = 4096
"""Sequences read together when a whole stage is counted."""


class Batch(NamedTuple):
    """Sequences of one step, `[B, T]`; from `StageData.batches` with the steps as a leading axis.

    Of preference pairs, segments 2k + 1 and 2k + 2 are the chosen and the rejected half of pair k of the sequence, and
    the weights of the rejected one are -1 where those of the chosen one are 1.
    """

    tokens: np.ndarray  # int32; padding is 0
    segments: np.ndarray  # int32; 0 is padding, documents count from 1 within the sequence
    positions: np.ndarray  # int32; from 0 within each document
    weights: np.ndarray  # float32; 1 where the target, the next token of the same document, bears loss


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Base text, an intervention in `ratio` of its slots, and a second source in others.

    `placement` says where in the stage the intervention lies. `loss` is on `all` tokens, on what the
    `assistant` says (text documents bear loss everywhere in both), or on the `preference` for one answer before
    another (DPO), of sources that hold pairs. `template` is the chat template in which conversations are written.
    """

    base: Source
    intervention: Source | None = None
    ratio: float = 0.0
    placement: str = "uniform"
    second: Source | None = None
    second_ratio: float = 0.0
    loss: str = "all"
    template: str = "chatml"

    def __post_init__(self) -> None:
        require(0 <= self.ratio <= 1, "ratio", f"a share between 0 and 1, not {self.ratio}")
        require(
            0 <= self.second_ratio <= 1, "second_ratio", f"a share between 0 and 1, not {self.second_ratio}"
        )
        require(
            self.ratio + self.second_ratio <= 1,
            "ratio",
            f"ratio {self.ratio} and second_ratio {self.second_ratio} together are more than 1",
            "second_ratio",
        )
        require(
            self.ratio == 0 or self.intervention is not None,
            "intervention",
            f"a ratio of {self.ratio} needs a source to fill its slots",
            "ratio",
        )
        require(
            self.second_ratio == 0 or self.second is not None,
            "second",
            f"a second_ratio of {self.second_ratio} needs a source to fill its slots",
            "second_ratio",
        )
        require(
            self.placement in PLACEMENTS,
            "placement",
            f"one of {', '.join(PLACEMENTS)}, not {self.placement!r}",
        )
        require(self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}, not {self.loss!r}")
        require(
            self.template in TEMPLATES, "template", f"one of {', '.join(TEMPLATES)}, not {self.template!r}"
        )

    def sources(self) -> dict[str, Source]:
        """The sources that have slots, by what they are to the mixture: `base`, `intervention`, `second`."""
        taken = {"base": self.base}
        if self.ratio > 0 and self.intervention is not None:
            taken["intervention"] = self.intervention
        if self.second_ratio > 0 and self.second is not None:
            taken["second"] = self.second
        return taken


@dataclasses.dataclass(frozen=True)
class SourceCounts:
    """What a stage takes from one source. Tokens leave padding out; documents count each time they begin."""

    name: str
    requested_slots: float  # the share times the stage's slots, before rounding
    slots: int
    documents: int
    tokens: int
    padding: int
    loss_tokens: int
    epochs: float
    cut: int  # documents of its store that are longer than a sequence: read in pieces, and of pairs without loss


class StageData:
    """The batches of one stage for one seed block: step -> batch is a pure function, counts are exact."""

    def __init__(
        self,
        mixture: Mixture,
        stores: Mapping[str, TokenStore],
        seed: int,
        stage: str,
        batch: int,
        length: int,
        slots: int,
        share: float = 1.0,
    ):
        """Lay the stage out over `slots` sequences of `length` tokens, `batch` of them a step.

        `stores` has a store for each of `mixture.sources()`; `seed` is the seed block and `stage` the name
        of the stage, from which its ranks and the order of external corpora are drawn. Of each store a `share` of its
        sequences is read, the first in that order. Raises UserError where the slots are no whole number of steps, or
        a store doesn't last for its slots.
        """
        if slots % batch:
            raise UserError(
                f"{slots} slots of {length} tokens are no whole number of steps of {batch} sequences"
            )
        self.mixture = mixture
        self.plan = plan_slots(
            slots, mixture.ratio, mixture.second_ratio, mixture.placement, derive(seed, "ranks", stage)
        )
        self._batch, self._length, self._slots = batch, length, slots
        self._stores: dict[int, TokenStore] = {}
        self._sequence = self.plan.index.copy()  # of the store that fills the slot
        self._kept: dict[int, int] = {}  # sequences of each store that are read
        for name, source in mixture.sources().items():
            code, store = CODES[name], stores[name]
            _refuse_other_documents(source.name, store, mixture.loss, stage, length)
            here = self.plan.source == code
            count = len(store.packing(length))
            kept = self._kept[code] = max(1, round(count * share))
            needed = slots if code == BASE else int(np.count_nonzero(here))
            if needed > kept * source.repetition:
                of = "" if kept == count else f" of which it is to see {kept},"
                raise UserError(
                    f"{source.name} has {count} sequences of {length} tokens,{of} and the stage {stage!r} needs "
                    f"{needed} at repetition {source.repetition:g}: raise its tokens, or its repetition to "
                    f"{needed / kept:.4g} or more"
                )
            order = (
                np.arange(count) if source.seeded else random_order(count, derive(seed, "order", stage, name))
            )
            self._sequence[here] = order[self.plan.index[here] % kept]
            self._stores[code] = store

    @property
    def steps(self) -> int:
        """Steps of the stage."""
        return self._slots // self._batch

    def batch(self, step: int) -> Batch:
        """The batch `[B, T]` of a step, counted from 0."""
        return self._read(np.arange(step * self._batch, (step + 1) * self._batch))

    def batches(self, first_step: int, count: int) -> Batch:
        """The batches of `count` steps from `first_step` on, `[count, B, T]`."""
        flat = self._read(np.arange(first_step * self._batch, (first_step + count) * self._batch))
        return Batch(*(array.reshape(count, self._batch, self._length) for array in flat))

    def counts(self) -> dict[str, SourceCounts]:
        """What the stage takes from each of `mixture.sources()`, in all its steps."""
        mixture, found = self.mixture, {}
        shares = {"intervention": mixture.ratio, "second": mixture.second_ratio}
        shares["base"] = 1 - mixture.ratio - mixture.second_ratio
        for name, source in mixture.sources().items():
            slots = np.flatnonzero(self.plan.source == CODES[name])
            store, sequences = self._stores[CODES[name]], self._sequence[slots]
            packing = store.packing(self._length)
            tokens = int((packing.stop - packing.start)[sequences].sum())
            if mixture.loss == "all":
                loss_tokens = tokens - int(packing.segments[sequences].sum())
            else:
                loss_tokens = sum(
                    int(np.count_nonzero(self._read(slots[i : i + SLOTS_AT_ONCE]).weights))
                    for i in range(0, len(slots), SLOTS_AT_ONCE)
                )
            found[name] = SourceCounts(
                name=source.name,
                requested_slots=shares[name] * self._slots,
                slots=len(slots),
                documents=int(store.documents_begun(packing)[sequences].sum()),
                tokens=tokens,
                padding=len(slots) * self._length - tokens,
                loss_tokens=loss_tokens,
                epochs=len(slots) / self._kept[CODES[name]],
                cut=int(np.count_nonzero(np.diff(store.bounds) > self._length)),
            )
        return found

    def _read(self, slots: np.ndarray) -> Batch:
        """The sequences in `slots`, `[slots, T]`."""
        shape = (len(slots), self._length)
        batch = Batch(*(np.zeros(shape, dtype) for dtype in (np.int32, np.int32, np.int32, np.float32)))
        sources = self.plan.source[slots]
        for code, store in self._stores.items():
            rows = np.flatnonzero(sources == code)
            if len(rows):
                read = read_sequences(store, self._sequence[slots[rows]], self._length, self.mixture.loss)
                for array, part in zip(batch, read, strict=True):
                    array[rows] = part
        return batch


def _refuse_other_documents(name: str, store: TokenStore, loss: str, stage: str, length: int) -> None:
    """Raise UserError where a store's documents are not of the kind that `loss` is of."""
    pairs, documents = store.manifest.pairs, store.manifest.documents
    if loss != "preference" and pairs:
        raise UserError(
            f"{name} holds {pairs:,} preference pairs, and {stage!r} learns from text and conversations: name a schema "
            "that gives one answer, or the loss 'preference'"
        )
    if loss == "preference" and pairs < documents:
        raise UserError(
            f"{name} holds {documents - pairs:,} documents that are no preference pairs, from which alone {stage!r} "
            "learns: name a schema of pairs, or the loss 'assistant'"
        )
    if pairs and np.diff(store.bounds).min() > length:
        raise UserError(
            f"every pair of {name} is longer than a sequence of {stage!r}, {length} tokens, and a cut pair teaches "
            f"nothing: the shortest has {np.diff(store.bounds).min():,}"
        )


def read_sequences(store: TokenStore, sequences: np.ndarray, length: int, loss: str) -> Batch:
    """Sequences of a store packed to `length`, by number, as a batch `[len(sequences), length]`."""
    packing, bounds = store.packing(length), store.bounds
    start, stop = packing.start[sequences][:, None], packing.stop[sequences][:, None]
    column = np.arange(length)
    places = start + column
    inside = places < stop
    np.minimum(places, stop - 1, out=places)

    begins = np.zeros(places.shape, bool)
    begins[:, 0] = True
    first = packing.first[sequences]
    inner = packing.last[sequences] - first
    row = np.repeat(np.arange(len(sequences)), inner)
    number = np.arange(len(row)) + np.repeat(first - (np.cumsum(inner) - inner), inner)
    begins[row, bounds[number] - start[row, 0]] = True

    segments = np.cumsum(begins, axis=1)
    weights = np.zeros(places.shape, np.float32)
    if loss == "preference":
        bits = store.loss(places)
        halves = np.cumsum(bits & SECOND_HALF > 0, axis=1)
        begun = np.maximum.accumulate(np.where(begins, halves, 0), axis=1)
        segments = 2 * segments - 1 + halves - begun
        begins |= bits & SECOND_HALF > 0
        document = np.searchsorted(bounds, places, side="right") - 1
        whole = bounds[document + 1] - bounds[document] <= length
        weights[:, :-1] = (
            np.where(bits & REJECTED > 0, -1, 1)[:, 1:] * (bits & BEARS > 0)[:, 1:] * whole[:, 1:]
        )
    elif loss == "assistant":
        weights[:, :-1] = store.loss(places[:, 1:]) > 0
    else:
        weights[:, :-1] = 1
    weights[:, :-1] *= inside[:, 1:] & ~begins[:, 1:]
    origin = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
    return Batch(
        tokens=store.tokens(places) * inside,
        segments=segments * inside,
        positions=(column - origin) * inside,
        weights=weights,
    )
