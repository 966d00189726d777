"""Forced choice from a file of items, by one model: a margin for each item, and a summary of each rung."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from caml.analysis.intervals import student
from caml.config.errors import Invalid, UserError
from caml.evals.checkpoint import Checkpoint
from caml.evals.fileprobes import Items
from caml.evals.questions import Unaskable, in_one_shape, question_rows
from caml.evals.scoring import log_probs
from caml.worlds.items import Item

# Items that are laid out and scored together: enough to fill a device, few enough for its memory.
TOGETHER = 256
NORMS = {
    "margin": "nats",
    "margin_token": "nats per token",
    "margin_character": "nats per character",
    "margin_unconditional": "nats, unconditional taken off",
}


def read_items(path: Path) -> list[Item]:
    """The items of a JSONL file, as `Items` reads them. Raises UserError with file and line of one that cannot be."""
    try:
        items = Items("items", str(path))
        items.recipe(0)
    except Invalid as invalid:
        raise UserError(invalid.message) from None
    return items.items()


def placed(path: Path, unaskable: Unaskable) -> UserError:
    """The error of an item of `read_items`, by the line of the file on which it stands, or its pair begins."""
    return UserError(f"{path}:{Items('items', str(path)).lines()[unaskable.item]}: {unaskable.told}")


def choose(
    checkpoint: Checkpoint,
    items: Sequence[Item],
    told: Callable[[int], object] = lambda _: None,
) -> pd.DataFrame:
    """A row for each item: `item`, `family`, `rung`, its tags, lengths, and its margin by every norm.

    Raises Unaskable for an item that is longer than the model's context, or has a word that its tokenizer lacks.
    """
    groups = [
        question_rows(items[start : start + TOGETHER], checkpoint.tokenizer)
        for start in range(0, len(items), TOGETHER)
    ]
    read = max(group.rows.longest for group in groups)
    if read > checkpoint.context:
        _refuse_longest(items, checkpoint)
    alike = in_one_shape([group.rows for group in groups])
    params = jax.device_put(dict(checkpoint.params))
    score = jax.jit(log_probs, static_argnums=1)
    frames = []
    for number, (group, rows) in enumerate(zip(groups, alike, strict=True)):
        found = score(params, checkpoint.model, rows)
        frames.append(
            pd.DataFrame(
                {
                    "item": [item.name for item in group.items],
                    "family": [item.family for item in group.items],
                    "rung": [item.rung for item in group.items],
                    **group.margins(np.asarray(found)),
                }
            )
        )
        told(min((number + 1) * TOGETHER, len(items)))
    tags = pd.DataFrame([item.tags for item in items])
    return pd.concat([pd.concat(frames, ignore_index=True), tags], axis=1)


def _refuse_longest(items: Sequence[Item], checkpoint: Checkpoint) -> None:
    """Raise Unaskable for the first item that does not fit into the context."""
    for item in items:
        read = question_rows([item], checkpoint.tokenizer).rows.longest
        if read > checkpoint.context:
            told = f"takes {read:,} tokens with its answer, and the context has {checkpoint.context:,}"
            raise Unaskable(item.name, told)


def summary(chosen: pd.DataFrame) -> Iterator[list[str]]:
    """Rows of a table: for each rung and norm the mean over its items, Student's 95% limits, and the share above 0."""
    yield ["rung", "items", "by", "mean", "95%", "above 0"]
    for (family, rung), group in chosen.groupby(["family", "rung"], sort=False):
        unequal = int((group["tokens_aligned"] != group["tokens_opposed"]).sum())
        for norm, unit in NORMS.items():
            values = group[norm].to_numpy()
            found = student(values)
            limits = f"[{found.low:.3f}, {found.high:.3f}]" if len(values) > 1 else "–"
            yield [
                f"{family} {rung}",
                str(len(values)),
                unit,
                f"{found.estimate:.3f}",
                limits,
                f"{(values > 0).mean():.0%}",
            ]
        if unequal:
            yield [f"{family} {rung}", str(unequal), "answers of unequal length in tokens", "", "", ""]


def row_of(chosen: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each row as JSON data, without what an item has not."""
    for row in chosen.to_dict("records"):
        yield {str(key): x for key, x in row.items() if not (isinstance(x, float) and np.isnan(x))}
