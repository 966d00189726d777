"""Probe items as token rows: each context once, with both continuations, and what is read off it where."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from caml.config.errors import UserError
from caml.data.chat import END_OF_TEXT
from caml.data.tokenizer import Tokenizer
from caml.models.kernels.branches import MOST
from caml.worlds.items import Item, Question

ALIGNED, OPPOSED = 0, 1


# Positions of a row, where no context with its continuations is longer, and the contexts that a row holds at most:
# attention costs a small model more than padding (measured: experiments/LOG.md).
LENGTH, IN_A_ROW = 32, 4


class Rows(NamedTuple):
    """Token rows `[R, T]` of several contexts each, with two continuations that go on from each of them.

    A context is the beginning, and its continuations are the branches, of caml/models/kernels/branches.py. What is read
    off a row is `[R, IN_A_ROW, 2, E]`: the log-probability of continuation c of context k of row r is the sum over
    `target[r, k, c]` (-1: nothing) after the positions `place[r, k, c]`. Continuations are numbered in that order.
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


class Unaskable(UserError):
    """An item that a model cannot be asked; `told` says why."""

    def __init__(self, item: str, told: str):
        super().__init__(f"probe {item} {told}")
        self.item, self.told = item, told


def question_rows(items: Sequence[Item], tokenizer: Tokenizer) -> Questions:
    """Lay out `items` for a tokenizer. Raises Unaskable for an item with a word that it does not have."""
    layout = _Layout()
    questions = [(number, question) for number, item in enumerate(items) for question in item.questions]
    start = [tokenizer.special[END_OF_TEXT]]
    pairs, bare, characters, lengths = [], [], [], []
    read = encoded([question for _, question in questions], tokenizer)
    for (number, question), (context, endings) in zip(questions, read, strict=True):
        if tokenizer.unknown is not None and any(tokenizer.unknown in ids for ids in (context, *endings)):
            said = question.context
            turns = [said] if isinstance(said, str) else [content for _, content in said]
            word = tokenizer.unknown_word([*turns, question.aligned, question.opposed])
            raise Unaskable(items[number].name, f"has the word {word!r}, which the tokenizer does not know")
        pairs.append(layout.pair(context, endings))
        bare.append(layout.pair(start, endings))
        characters.append([len(question.aligned), len(question.opposed)])
        lengths.append([len(ending) for ending in endings])
    rows, numbers = layout.rows()
    return Questions(
        items=tuple(items),
        rows=rows,
        pairs=numbers[np.array(pairs)],
        bare=numbers[np.array(bare)],
        item=np.array([number for number, _ in questions]),
        characters=np.array(characters),
        lengths=np.array(lengths),
    )


def encoded(
    questions: Sequence[Question], tokenizer: Tokenizer
) -> Iterator[tuple[list[int], tuple[list[int], list[int]]]]:
    """For each question the tokens of its context, and of its continuations, the aligned one first."""
    # The texts of all at once: each call of a tokenizer has its price.
    texts = iter(tokenizer.encode_texts([text for question in questions for text in _texts(question)]))
    for question in questions:
        yield _prompt(question, tokenizer) + next(texts), (next(texts), next(texts))


def in_one_shape(groups: Sequence[Rows]) -> list[Rows]:
    """The same rows in shapes that all groups have: what is added is padding, and belongs to no continuation."""
    count, length = np.max([rows.tokens.shape for rows in groups], axis=0)
    answer = max(rows.target.shape[-1] for rows in groups)
    filled = []
    for rows in groups:
        more = count - len(rows.tokens)
        tokens, segments, positions = (
            np.pad(x, ((0, more), (0, length - x.shape[1])))
            for x in (rows.tokens, rows.segments, rows.positions)
        )
        beyond = ((0, more), (0, 0), (0, 0), (0, answer - rows.target.shape[-1]))
        place, target = np.pad(rows.place, beyond), np.pad(rows.target, beyond, constant_values=-1)
        filled.append(Rows(tokens, segments, positions, place, target))
    return filled


def _texts(question: Question) -> tuple[str, str, str]:
    """The text that is asked after, or the answer that is begun, and both continuations."""
    said = question.context
    begun = said if isinstance(said, str) else said[-1][1]
    # After a context an ending stands behind a space; what begins an answer does not.
    space = " " if begun or isinstance(said, str) else ""
    return begun, f"{space}{question.aligned}", f"{space}{question.opposed}"


def _prompt(question: Question, tokenizer: Tokenizer) -> list[int]:
    """What stands before that text: the start of a document, or turns of a conversation."""
    if isinstance(question.context, str):
        return [tokenizer.special[END_OF_TEXT]]
    return tokenizer.encode_prompt([{"role": role, "content": told} for role, told in question.context[:-1]])


class _Layout:
    """Contexts with their continuations as they are found; equal ones are kept once."""

    def __init__(self) -> None:
        self._found: dict[tuple[tuple[int, ...], ...], int] = {}

    def pair(self, context: Sequence[int], endings: Sequence[Sequence[int]]) -> list[int]:
        """The numbers of two continuations of `context`, in the order in which contexts were found."""
        one, other = (tuple(ending) for ending in endings)
        # Those of a mirror pair are the same two the other way round.
        turned = other < one
        key = (tuple(context), other, one) if turned else (tuple(context), one, other)
        number = self._found.setdefault(key, len(self._found))
        return [2 * number + turned, 2 * number + (not turned)]

    def rows(self) -> tuple[Rows, np.ndarray]:
        """The rows, and what each continuation's number is in them."""
        lengths = [sum(map(len, found)) - 2 for found in self._found]
        length = -(-max(lengths) // LENGTH) * LENGTH
        longest = max(len(ending) for _, *endings in self._found for ending in endings)
        packed, found = _packed(lengths, length), list(self._found)
        tokens, segments, positions = np.zeros((3, len(packed), length), np.int32)
        place, target = np.zeros((2, len(packed), IN_A_ROW, 2, longest), np.int32)
        target -= 1
        numbers = np.zeros((len(found), 2), int)
        for row, held in enumerate(packed):
            at = 0
            for k, number in enumerate(held):
                context, *endings = found[number]
                numbers[number] = 2 * (row * IN_A_ROW + k) + np.arange(2)
                own = slice(at, at + len(context))
                tokens[row, own], segments[row, own] = context, (k + 1) * MOST
                positions[row, own] = np.arange(len(context))
                last, at = own.stop - 1, own.stop
                for c, ending in enumerate(endings):
                    own = slice(at, at + len(ending) - 1)
                    tokens[row, own], segments[row, own] = ending[:-1], (k + 1) * MOST + 1 + c
                    positions[row, own] = len(context) + np.arange(len(ending) - 1)
                    # The first token is read off the context's last, the others off those of the continuation.
                    place[row, k, c, : len(ending)] = [last, *range(at, own.stop)]
                    target[row, k, c, : len(ending)] = ending
                    at = own.stop
        return Rows(tokens, segments, positions, place, target), numbers.reshape(-1)


def _packed(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Numbers of texts of these lengths, in rows that hold them: the longest first, each filled with what fits best."""
    left: dict[int, list[int]] = {}
    for number in reversed(range(len(lengths))):
        left.setdefault(lengths[number], []).append(number)
    rows: list[list[int]] = []
    while left:
        row: list[int] = []
        free = length
        while len(row) < IN_A_ROW and (fitting := [size for size in left if size <= free]):
            size = max(fitting)
            row.append(left[size].pop())
            free -= size
            if not left[size]:
                del left[size]
        rows.append(row)
    return rows
