"""The audit of an ablation's mixtures: what was asked of each source, and what the stages really take."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from caml.ablations.places import Places
from caml.ablations.prepare import Stores, stores_of
from caml.ablations.runs import StageRun
from caml.config.text import aligned, counted
from caml.data.mixture import StageData
from caml.data.slots import INTERVENTION
from caml.data.store import store_folder

ROLES = {"base": "base", "intervention": "treatment", "second": "second"}
COLUMNS = (
    "arm", "ratio", "placement", "source", "share asked", "slots", "share of slots", "share of tokens", "tokens",
    "documents", "in pieces", "epochs", "cap",
)  # fmt: skip


def audit(stageruns: Sequence[StageRun], where: Places) -> Iterator[str]:
    """Lines: of each stage and kind of mixture a row for each source, and what each dose shares with the next.

    They are of the first seed block; what can only be counted once the token stores are there is told then.
    """
    found: dict[tuple, list[StageRun]] = {}
    for stagerun in stageruns:
        if stagerun.steps:
            stage = stagerun.stage
            key = (stage.name, stage.steps, stage.batch, stage.length, stage.target_tokens)
            found.setdefault(key, []).append(stagerun)
    stores = Stores(where)
    for (name, steps, batch, length, target), members in found.items():
        first = min(member.seed for member in members)
        kinds = list({repr(m.stage.mixture): m for m in members if m.seed == first}.values())
        yield (
            f"mixtures of {name}, {counted(steps, 'step')} of {batch} sequences of {length} tokens, seed block {first}:"
        )
        if target:
            yield (
                f"  (as if for {target:,} tokens: of each source it sees {kinds[0].stage.share:.3g} of the sequences, "
                "and so as many epochs as that run would)"
            )
        there = [kind for kind in kinds if _prepared(kind, where)]
        data = {kind: stores.data(kind) for kind in there}
        yield from _table([row for kind in kinds for row in _rows(kind, data.get(kind))])
        if len(there) < len(kinds):
            yield "  (tokens, documents and epochs are counted once the token stores are there: `caml data prepare`)"
        yield from _nesting(data)


def _prepared(stagerun: StageRun, where: Places) -> bool:
    return all(store_folder(where.stores, *wanted).exists() for wanted in stores_of([stagerun]))


def _rows(stagerun: StageRun, data: StageData | None) -> Iterator[tuple[str, ...]]:
    mixture = stagerun.stage.mixture
    shares = {"intervention": mixture.ratio, "second": mixture.second_ratio}
    shares["base"] = 1 - mixture.ratio - mixture.second_ratio
    counts = data.counts() if data else {}
    tokens = sum(count.tokens for count in counts.values())
    for role, source in mixture.sources().items():
        # Later stages are the same whatever the arm of the first.
        arm = "each" if stagerun.parent else stagerun.arm
        head = (arm, f"{mixture.ratio:g}", mixture.placement, f"{ROLES[role]}: {source.name}")
        cap = f"{source.repetition:g}"
        if role not in counts:
            yield (*head, f"{shares[role]:.4g}", f"{shares[role] * stagerun.slots:,.0f}", *[""] * 6, cap)
            continue
        count = counts[role]
        of_slots, of_tokens = count.slots / stagerun.slots, count.tokens / tokens
        yield (
            *head, f"{shares[role]:.4g}", f"{count.slots:,}", f"{of_slots:.4f}", f"{of_tokens:.4f}",
            f"{count.tokens:,}", f"{count.documents:,}", f"{count.cut:,}", f"{count.epochs:.3g}", cap,
        )  # fmt: skip


def _nesting(data: dict[StageRun, StageData]) -> Iterator[str]:
    """What each dose of an arm shares with the next larger one: the same sequences in the same slots."""
    arms: dict[tuple[str, str], list[tuple[float, StageData]]] = {}
    for stagerun, own in data.items():
        if stagerun.stage.mixture.ratio > 0:
            key = (stagerun.arm, stagerun.stage.mixture.placement)
            arms.setdefault(key, []).append((stagerun.stage.mixture.ratio, own))
    for (arm, placement), doses in arms.items():
        doses.sort(key=lambda dose: dose[0])
        for (small, less), (large, more) in itertools.pairwise(doses):
            taken = np.flatnonzero(less.plan.source == INTERVENTION)
            same = (more.plan.source[taken] == INTERVENTION) & (
                more.plan.index[taken] == less.plan.index[taken]
            )
            yield (
                f"  {arm}, {placement}: of the {len(taken):,} slots of ratio {small:g}, {int(same.sum()):,} hold the "
                f"same documents at ratio {large:g}"
            )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows under COLUMNS, names to the left and numbers to the right."""
    return aligned([COLUMNS, *rows], left=(0, 2, 3))
