"""A tiny model, tokenizers of words and of bytes, and scores by the plainest code there is."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
from caml.evals.questions import Questions
from caml.models.kernels.branches import MOST
from caml.models.sizes import Model
from caml.models.transformer import init_parameters, logits
from caml.worlds.items import Item
from caml.worlds.sources import BaseText, Words, WorldProbes

MODEL = Model("tiny", width=16, layers=1, heads=2, kv_heads=1, head_dim=8, mlp_width=24, init_scale=0.4)
WORDS = TrainedTokenizer("words", 128, Words())
BYTES = TrainedTokenizer("bpe", 300, BaseText(4000))
VOCABULARY = {"words": 128, "bpe": 300}


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    return train_tokenizer({"words": WORDS, "bpe": BYTES}[kind])


@functools.cache
def parameters(seed: int, vocabulary: int = 128) -> dict[str, np.ndarray]:
    return init_parameters(MODEL, vocabulary, seed)


def stacked(*members: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.stack([member[name] for member in members]) for name in members[0]}


@functools.cache
def world_items() -> tuple[Item, ...]:
    return tuple(WorldProbes().items(0))


def some_items() -> list[Item]:
    """Of every family and rung two items."""
    found: dict[tuple[str, str], list[Item]] = {}
    for item in world_items():
        found.setdefault((item.family, item.rung), []).append(item)
    return [item for group in found.values() for item in group[:2]]


_logits = jax.jit(logits, static_argnums=1)


def next_log_probs(params: Any, tokens: Sequence[int]) -> np.ndarray:
    """Log-probabilities [tokens, V] of what follows each token, of one document by itself.

    Padded to a few lengths, so that few programs are compiled.
    """
    row = np.zeros((1, -(-len(tokens) // 32) * 32), np.int32)
    row[0, : len(tokens)] = tokens
    inside = (np.arange(row.size) < len(tokens)).astype(np.int32)[None]
    values = np.asarray(_logits(params, MODEL, row, inside, np.arange(row.size)[None]))[0, : len(tokens)]
    return np.array(values - np.log(np.sum(np.exp(values.astype(np.float64)), axis=-1, keepdims=True)))


def plain_log_prob(params: Any, context: Sequence[int], ending: Sequence[int]) -> float:
    """log P(ending | context), token by token."""
    found = next_log_probs(params, [*context, *ending])
    return float(sum(found[len(context) - 1 + k, token] for k, token in enumerate(ending)))


def read_back(questions: Questions, continuation: int) -> tuple[list[int], list[int]]:
    """(context, ending) of a continuation in token ids, from the rows, and that nothing else is seen there."""
    rows = questions.rows
    row, k, which = np.unravel_index(int(continuation), rows.target.shape[:3])
    asked = rows.target[row, k, which] >= 0
    place, ending = rows.place[row, k, which][asked].tolist(), rows.target[row, k, which][asked].tolist()
    of_context = np.flatnonzero(rows.segments[row] == (k + 1) * MOST)
    context = rows.tokens[row, of_context].tolist()
    assert of_context.tolist() == list(range(place[0] - len(context) + 1, place[0] + 1))
    assert rows.positions[row, of_context].tolist() == list(range(len(context)))
    # What is read between the first token of the ending and the last is the ending itself, after the context.
    own = np.flatnonzero(rows.segments[row] == (k + 1) * MOST + 1 + which)
    assert own.tolist() == place[1:]
    assert rows.tokens[row, own].tolist() == ending[:-1]
    assert rows.positions[row, own].tolist() == list(range(len(context), len(context) + len(ending) - 1))
    return context, ending
