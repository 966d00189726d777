"""Probe items as token rows: each context once, with both continuations, and what is read off it where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from caml.config.errors import UserError
from caml.data.chat import END_OF_TEXT
from caml.data.tokenizer import Tokenizer
from caml.models.kernels.branches import MOST
from caml.worlds.items import Item, Question

ALIGNED, OPPOSED = 0, 1


class Rows(NamedTuple):
    """Token rows `[R, T]`, each a context that two continuations go on from, and what is read off them `[R, 2, E]`.

    The context is the beginning, and the continuations are the branches of caml/models/kernels/branches.py. The
    log-probability of continuation c of row r is the sum over `target[r, c]` (-1: nothing) after the positions
    `place[r, c]`. Continuations are numbered `2 * r + c`.
    """

    tokens: Any
    segments: Any
    positions: Any
    place: Any
    target: Any

    @property
    def longest(self) -> int:
        """Tokens of the longest context with a continuation, but for its last."""
        return int(np.where(self.segments > 0, self.positions, -1).max()) + 1


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
        pairs.append(layout.pair(context, endings))
        bare.append(layout.pair(start, endings))
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
    """Rows as they are found; those with the same context and the same continuations are kept once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[tuple[int, ...], ...], int] = {}

    def pair(self, context: Sequence[int], endings: Sequence[Sequence[int]]) -> list[int]:
        """The numbers of two continuations of `context`."""
        one, other = (tuple(ending) for ending in endings)
        # Those of a mirror pair are the same two the other way round.
        turned = other < one
        key = (tuple(context), other, one) if turned else (tuple(context), one, other)
        row = self._rows.setdefault(key, len(self._rows))
        return [2 * row + turned, 2 * row + (not turned)]

    def rows(self) -> Rows:
        length = max(sum(map(len, row)) - 2 for row in self._rows)
        shape = len(self._rows), -(-length // 8) * 8
        tokens, segments, positions = np.zeros((3, *shape), np.int32)
        longest = max(len(ending) for _, *endings in self._rows for ending in endings)
        place, target = np.zeros((2, len(self._rows), 2, longest), np.int32)
        target -= 1
        for number, (context, *endings) in enumerate(self._rows):
            begun = len(context)
            tokens[number, :begun] = context
            segments[number, :begun] = MOST
            positions[number, :begun] = np.arange(begun)
            at = begun
            for branch, ending in enumerate(endings):
                read = len(ending) - 1
                tokens[number, at : at + read] = ending[:-1]
                segments[number, at : at + read] = MOST + 1 + branch
                positions[number, at : at + read] = begun + np.arange(read)
                # The first token is read off the context's last, the others off those of the continuation.
                place[number, branch, : read + 1] = [begun - 1, *range(at, at + read)]
                target[number, branch, : read + 1] = ending
                at += read
        return Rows(tokens, segments, positions, place, target)
