"""The tokenizer: text into token ids and back, with chat tokens of its own."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers

from caml.data.chat import END_OF_TEXT, SPECIAL_TOKENS, prompt, render
from caml.data.files import write_text
from caml.data.sources import Document, Message

UNKNOWN = "<|unk|>"

BEARS, REJECTED, SECOND_HALF = 1, 2, 4
"""Bits of a loss mask: the token bears loss when only answers do; it is of a rejected answer; a pair's second half
begins with it."""


class Encoded(NamedTuple):
    """Documents as tokens, one after the other. A preference pair is one document: prompt and answer, twice."""

    tokens: np.ndarray  # uint32 [sum of lengths]
    loss: np.ndarray  # uint8 [sum of lengths]; see BEARS, REJECTED and SECOND_HALF
    lengths: np.ndarray  # int64 [documents]

    def first(self, count: int) -> "Encoded":
        """The first `count` documents."""
        end = int(self.lengths[:count].sum())
        return Encoded(self.tokens[:end], self.loss[:end], self.lengths[:count])


class Tokenizer:
    """Text into token ids and back. `special` has the id of each of `SPECIAL_TOKENS`; text never produces these.

    A text document is `<|endoftext|>` text `<|endoftext|>` with loss on all but its first token; a
    conversation is `<|endoftext|>` and what `chat.render` makes of it; a preference pair is its prompt and chosen
    answer as a conversation, then its prompt and rejected answer, with loss on the answers alone.
    """

    def __init__(self, library: tokenizers.Tokenizer):
        self._library = library
        self.special = {token: self._id(token) for token in SPECIAL_TOKENS}
        self._words = library.token_to_id(UNKNOWN) is not None
        unknown = UNKNOWN if self._words else getattr(library.model, "unk_token", None)
        self._unknown: int | None = library.token_to_id(unknown) if unknown else None
        # For bytes, a special token's name in a text is spelled out. A vocabulary of words has no spelling:
        # there `_encode_texts` makes it unknown, and this setting would only cost time.
        library.encode_special_tokens = not self._words

    @property
    def size(self) -> int:
        """One more than the largest id: at most the vocabulary of its recipe."""
        return max(self._library.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def unknown(self) -> int | None:
        """The id that stands for text outside the vocabulary; None for bytes, which know all text."""
        return self._unknown

    @property
    def digest(self) -> str:
        """SHA-256 of the content of tokenizer.json."""
        return hashlib.sha256(self.json().encode()).hexdigest()

    def encode_flat(self, documents: Iterable[Document], template: str = "chatml") -> Encoded:
        """Documents as arrays, conversations in the chat template named `template`."""
        pieces: list[tuple[str, int]] = []
        counts: list[int] = []
        for document in documents:
            before = len(pieces)
            if isinstance(document, str):
                pieces += [(END_OF_TEXT, 0), (document, BEARS), (END_OF_TEXT, BEARS)]
            elif isinstance(document, tuple):
                prompt, *answers = document
                asked = [(text, 0) for text, _ in render(prompt, template)]
                for answer, first, more in zip(answers, (0, SECOND_HALF), (0, REJECTED), strict=True):
                    pieces += [(END_OF_TEXT, first), *asked]
                    pieces += [
                        (text, BEARS | more if bears else 0) for text, bears in render(answer, template)
                    ]
            else:
                pieces += [(END_OF_TEXT, 0), *render(document, template)]
            counts.append(len(pieces) - before)
        tokens, lengths = self._encode_pieces([text for text, _ in pieces])
        loss = np.repeat(np.fromiter((code for _, code in pieces), np.uint8, len(pieces)), lengths)
        ends = np.concatenate([[0], np.cumsum(lengths)])[np.cumsum([0, *counts])]
        return Encoded(tokens, loss, np.diff(ends))

    def encode_batch(
        self, documents: Sequence[Document], template: str = "chatml"
    ) -> list[tuple[list[int], list[int]]]:
        """For each document its token ids, and its loss mask of the same length (see `Encoded.loss`)."""
        tokens, loss, lengths = self.encode_flat(documents, template)
        ends = np.cumsum(lengths)
        return [
            (tokens[end - length : end].tolist(), loss[end - length : end].tolist())
            for end, length in zip(ends, lengths, strict=True)
        ]

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """For each text its token ids and nothing around them, as in the middle of a document."""
        tokens, lengths = self._encode_texts(texts)
        return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])] if texts else []

    def unknown_word(self, texts: Sequence[str]) -> str:
        """The first word of these texts that has no token of its own or of its parts ('': all have)."""
        words = dict.fromkeys(word for text in texts for word in text.split())
        if self.unknown is None:
            return ""
        return next((word for word in words if self.unknown in self.encode_texts([word])[0]), "")

    def encode_prompt(self, messages: Sequence[Message], template: str = "chatml") -> list[int]:
        """Token ids of a conversation from its `<|endoftext|>` to where the assistant is to speak next."""
        return self._encode_pieces([END_OF_TEXT, *(text for text, _ in prompt(messages, template))])[
            0
        ].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens by their names."""
        return self._library.decode(list(ids), skip_special_tokens=False)

    def text(self, ids: np.ndarray) -> str:
        """The text of token ids without the special tokens."""
        return self.decode(ids[~np.isin(ids, list(self.special.values()))].tolist())

    def json(self) -> str:
        """The content of tokenizer.json, which `load` and other users of the `tokenizers` library open."""
        return self._library.to_str(pretty=True)

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        write_text(path, self.json())

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read tokenizer.json."""
        return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))

    def _id(self, token: str) -> int:
        number = self._library.token_to_id(token)
        if number is None:
            raise ValueError(f"a tokenizer without {token}")
        return number

    def _encode_pieces(self, pieces: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [sum] and lengths [pieces]; a piece that is a special token's name is that token."""
        special = np.fromiter((self.special.get(piece, -1) for piece in pieces), np.int64, len(pieces))
        lengths = np.ones(len(pieces), np.int64)
        ids, lengths[special < 0] = self._encode_texts([p for p in pieces if p not in self.special])
        tokens = np.repeat(special, lengths)
        tokens[tokens < 0] = ids
        return tokens.astype(np.uint32), lengths

    def _encode_texts(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [sum] and lengths [texts]."""
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
        tokens = np.fromiter(ids, np.uint32, int(lengths.sum()))
        if self._words and self._unknown is not None:
            tokens[np.isin(tokens, list(self.special.values()))] = self._unknown
        return tokens, lengths
