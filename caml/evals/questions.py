"""Probe items as token rows: each context once, and what is read off it where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from caml.config.errors import UserError
from caml.data.chat import END_OF_TEXT
from caml.data.tokenizer import Tokenizer
from caml.worlds.items import Item, Question

ALIGNED, OPPOSED = 0, 1


class Rows(NamedTuple):
    """Token rows `[R, T]` and queries `[Q]`: the log-probability of `target` after position `place` of `row`.

    A continuation's log-probability is the sum over its queries. `owner` says which continuation a query
    belongs to; continuations are numbered as in `Questions`.
    """

    tokens: Any
    segments: Any
    positions: Any
    row: Any
    place: Any
    target: Any
    owner: Any


@dataclass(frozen=True)
class Questions:
    """Rows of all items, and how log-probabilities of continuations become margins of items.

    `pairs` `[questions, 2]` numbers the aligned and the opposed continuation of each question after its
    context, `bare` the same after nothing but the start of a document; `item` `[questions]` is the item that
    a question belongs to, `characters` `[questions, 2]` the length of each continuation in text, `lengths`
    the same in tokens.
    """

    items: tuple[Item, ...]
    rows: Rows
    pairs: np.ndarray
    bare: np.ndarray
    item: np.ndarray
    characters: np.ndarray
    lengths: np.ndarray

    def margins(self, log_probs: np.ndarray) -> dict[str, np.ndarray]:
        """Margins of every item (nats, mean over its questions) from `log_probs` `[continuations]`.

        `margin`: log P(aligned | context) - log P(opposed | context). `margin_token` and `margin_character`: the
        same per token and per character of each continuation. `margin_unconditional`: what is left of it when the
        margin without the context is taken off. `tokens_aligned`, `tokens_opposed`: lengths of the continuations.
        """
        after, alone = log_probs[self.pairs], log_probs[self.bare]
        count = np.bincount(self.item, minlength=len(self.items))

        def over_questions(values: np.ndarray) -> np.ndarray:
            return np.bincount(self.item, values, minlength=len(self.items)) / count

        def mean(values: np.ndarray) -> np.ndarray:
            return over_questions(values[:, ALIGNED] - values[:, OPPOSED])

        return {
            "tokens_aligned": over_questions(self.lengths[:, ALIGNED]),
            "tokens_opposed": over_questions(self.lengths[:, OPPOSED]),
            "margin": mean(after),
            "margin_token": mean(after / self.lengths),
            "margin_character": mean(after / self.characters),
            "margin_unconditional": mean(after - alone),
        }


def question_rows(items: Sequence[Item], tokenizer: Tokenizer) -> Questions:
    """Lay out `items` for a tokenizer. Raises UserError for an item with a word that it does not have."""
    layout = _Layout()
    questions = [(number, question) for number, item in enumerate(items) for question in item.questions]
    contexts = [_context(question, tokenizer) for _, question in questions]
    start = [tokenizer.special[END_OF_TEXT]]
    pairs, bare, characters, lengths = [], [], [], []
    for (number, question), context in zip(questions, contexts, strict=True):
        # After a context an ending stands behind a space; what begins an answer does not.
        chat = not isinstance(question.context, str)
        space = "" if chat and not question.context[-1][1] else " "
        endings = tokenizer.encode_texts([f"{space}{question.aligned}", f"{space}{question.opposed}"])
        if tokenizer.unknown is not None and any(tokenizer.unknown in ids for ids in (context, *endings)):
            raise UserError(f"probe {items[number].name} has a word that the tokenizer does not know")
        pairs.append([layout.continuation(context, ending) for ending in endings])
        bare.append([layout.continuation(start, ending) for ending in endings])
        characters.append([len(question.aligned), len(question.opposed)])
        lengths.append([len(ending) for ending in endings])
    return Questions(
        items=tuple(items),
        rows=layout.rows(),
        pairs=np.array(pairs),
        bare=np.array(bare),
        item=np.array([number for number, _ in questions]),
        characters=np.array(characters),
        lengths=np.array(lengths),
    )


def _context(question: Question, tokenizer: Tokenizer) -> list[int]:
    if isinstance(question.context, str):
        return [tokenizer.special[END_OF_TEXT]] + tokenizer.encode_texts([question.context])[0]
    *turns, (_, begun) = question.context
    prompt = tokenizer.encode_prompt([{"role": r, "content": c} for r, c in turns])
    return prompt + (tokenizer.encode_texts([begun])[0] if begun else [])


class _Layout:
    """Rows and queries as they are found; equal rows and equal continuations are kept once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, ...], int] = {}
        self._continuations: dict[tuple[int, ...], int] = {}
        self._queries: list[tuple[int, int, int, int]] = []

    def continuation(self, context: list[int], ending: list[int]) -> int:
        """The number of the continuation `ending` after `context`."""
        whole = (*context, -1, *ending)
        if whole not in self._continuations:
            owner = self._continuations[whole] = len(self._continuations)
            read = (*context, *ending[:-1])
            row = self._rows.setdefault(read, len(self._rows))
            for k, target in enumerate(ending):
                self._queries.append((row, len(context) - 1 + k, target, owner))
        return self._continuations[whole]

    def rows(self) -> Rows:
        length = -(-max(map(len, self._rows)) // 8) * 8
        tokens = np.zeros((len(self._rows), length), np.int32)
        segments = np.zeros_like(tokens)
        for number, row in enumerate(self._rows):
            tokens[number, : len(row)] = row
            segments[number, : len(row)] = 1
        row, place, target, owner = np.array(self._queries, np.int32).T
        positions = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape)
        return Rows(tokens, segments, positions, row, place, target, owner)
