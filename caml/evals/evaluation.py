"""Evaluation of StageRuns: every probe, and the outcomes beside disposition, for a population at a time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from caml.data.mixture import Batch, read_sequences
from caml.data.store import TokenStore
from caml.data.tokenizer import Tokenizer
from caml.evals import scoring
from caml.evals.questions import Questions, in_one_shape, question_rows
from caml.models.sizes import Model
from caml.worlds.items import Item, Probes

# Families that are also scored in mid-training, for curves: the mechanism, and the primary rung.
MONITORED = (("mechanism", ""), ("disposition", "new_frame"))


@dataclass(frozen=True)
class Scores:
    """Scores of one member: columns of margins by item, and outcomes by name."""

    margins: dict[str, Any]
    outcomes: dict[str, float]


@dataclass(frozen=True)
class Evaluator:
    """Scores members of one model size in the seed blocks that `held_out` has a store for.

    Sequences of held-out text are packed to `length`.
    """

    probes: Probes
    model: Model
    tokenizer: Tokenizer
    held_out: Mapping[int, TokenStore]
    length: int
    mesh: Mesh

    @cached_property
    def _questions(self) -> dict[int, Questions]:
        return {seed: question_rows(self.probes.items(seed), self.tokenizer) for seed in self.held_out}

    @cached_property
    def _monitors(self) -> dict[int, Questions]:
        return {
            seed: question_rows(monitored(self.probes.items(seed)), self.tokenizer) for seed in self.held_out
        }

    @cached_property
    def _held_out(self) -> dict[int, tuple[Batch, float]]:
        """Held-out batches, and the bytes of text that each of their targets stands for."""
        found = {}
        for seed, store in self.held_out.items():
            # As many as the text asked for fills, however long its last document is: seed blocks have equal
            # shapes, and a member's score does not depend on which blocks are scored beside it.
            # (Of a corpus that is taken whole, or is shorter, as many as there are.)
            asked = self.probes.held_out(seed).tokens or store.manifest.tokens
            sequences = max(1, min(asked // self.length, len(store.packing(self.length))))
            batch = read_sequences(store, np.arange(sequences), self.length, "all")
            targets = np.roll(batch.tokens, -1, axis=-1)[batch.weights > 0]
            # The marks of documents and turns are targets, but stand for no byte of text.
            special = np.isin(targets, list(self.tokenizer.special.values()))
            text = self.tokenizer.decode(targets[~special].tolist())
            found[seed] = batch, len(text.encode()) / len(targets)
        return found

    def score(self, params: Any, parents: Any, seeds: Sequence[int], places: int = 0) -> list[Scores]:
        """Scores of each member from stacked final parameters and those of the parents (numpy trees).

        Calls with equal `places` share a program, whatever the number of members up to it.
        """
        questions = [self._questions[seed] for seed in seeds]
        rows = jax.tree.map(lambda *x: np.stack(x), *in_one_shape([q.rows for q in questions]))
        held_out = jax.tree.map(lambda *x: np.stack(x), *(self._held_out[seed][0] for seed in seeds))
        found = scoring.build(self.model, self.mesh)(params, parents, rows, held_out, places)
        return [
            Scores(
                margins={
                    "item": [item.name for item in q.items],
                    **(margins := q.margins(found["log_probs"][i])),
                },
                outcomes={
                    **_summary(q.items, margins["margin"]),
                    "held_out_nats": float(found["held_out_nats"][i]),
                    "tax_bits_per_byte": float(
                        found["held_out_nats"][i] / np.log(2) / self._held_out[seed][1]
                    ),
                    "kl_from_parent": float(found["kl_from_parent"][i]),
                },
            )
            for i, (q, seed) in enumerate(zip(questions, seeds, strict=True))
        ]

    def monitor(self, params: Any, seeds: Sequence[int], places: int = 0) -> list[dict[str, float]]:
        """In mid-training: the mean margin (nats) of each monitored family or rung, per member; see `score`."""
        questions = [self._monitors[seed] for seed in seeds]
        rows = jax.tree.map(lambda *x: np.stack(x), *in_one_shape([q.rows for q in questions]))
        found = scoring.build(self.model, self.mesh)(params, params, rows, None, places)["log_probs"]
        return [_by_family(q.items, q.margins(found[i])["margin"]) for i, q in enumerate(questions)]


def monitored(items: Sequence[Item]) -> list[Item]:
    """Those of `items` that are also scored in mid-training; all of them where they have no ladder of the world."""
    return [item for item in items if (item.family, item.rung) in MONITORED] or list(items)


def _by_family(items: Sequence[Item], margins: np.ndarray) -> dict[str, float]:
    groups: dict[str, list[float]] = {}
    for item, margin in zip(items, margins, strict=True):
        groups.setdefault(item.rung or item.family, []).append(float(margin))
    return {name: float(np.mean(values)) for name, values in groups.items()}


def _summary(items: Sequence[Item], margins: np.ndarray) -> dict[str, float]:
    """Outcomes that follow from margins: the mechanism, and the divergence from the generator's even coin."""
    found = {
        name: np.array([m for item, m in zip(items, margins, strict=True) if item.family == name])
        for name in ("mechanism", "conditional")
    }
    outcomes = {}
    if len(found["mechanism"]):
        outcomes["mechanism"] = float(found["mechanism"].mean())
    if len(found["conditional"]):
        # KL(even coin || the model's choice between the two actions), nats: -log(4 p (1 - p)) / 2.
        half = found["conditional"] / 2
        outcomes["calibration_kl"] = float(np.mean(np.log(np.cosh(half))))
    return outcomes
