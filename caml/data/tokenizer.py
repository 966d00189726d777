"""The tokenizer: trained on a source, with chat tokens reserved from the start."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from caml.config.errors import Failure, UserError, require
from caml.config.fingerprint import fingerprint
from caml.data.chat import END_OF_TEXT, SPECIAL_TOKENS, TEMPLATE_WORDS, prompt, render
from caml.data.files import write_json, write_text
from caml.data.sources import Document, Message, Source, texts

UNKNOWN = "<|unk|>"
TOKENIZER = "tokenizer.json"
KINDS = ("words", "bpe")
SPECIAL_IDS = {token: number for number, token in enumerate(SPECIAL_TOKENS)}


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer to be trained on a source's documents of seed 0, up to `source.tokens` words of them.

    `words`: each whitespace-separated word of the source is one token, and `vocabulary` must hold them all.
    `bpe`: byte-level byte pair encoding with `vocabulary` tokens, or as many as the text has pairs for.
    `vocabulary` is the number of rows of the model's embedding, whatever of it is used.
    """

    kind: str
    vocabulary: int
    source: Source

    def __post_init__(self) -> None:
        require(self.kind in KINDS, "kind", f"one of {', '.join(KINDS)}, not {self.kind!r}")
        least = len(SPECIAL_TOKENS) + (1 + len(TEMPLATE_WORDS) if self.kind == "words" else 256)
        require(
            self.vocabulary >= least,
            "vocabulary",
            f"a tokenizer of kind {self.kind!r} takes a vocabulary of at least {least}, not {self.vocabulary}",
            "kind",
        )

    def recipe(self) -> dict[str, Any]:
        """Identity of the tokenizer as JSON data, known before it is trained."""
        return {
            "kind": self.kind,
            "vocabulary": self.vocabulary,
            "source": self.source.recipe(0),
            "tokens": self.source.tokens,
        }


BEARS, REJECTED, SECOND = 1, 2, 4
"""Bits of a loss mask: the token bears loss when only answers do; it is of a rejected answer; a pair's second half
begins with it."""


class Encoded(NamedTuple):
    """Documents as tokens, one after the other. A preference pair is one document: prompt and answer, twice."""

    tokens: np.ndarray  # uint32 [sum of lengths]
    loss: np.ndarray  # uint8 [sum of lengths]; see BEARS, REJECTED and SECOND
    lengths: np.ndarray  # int64 [documents]

    def first(self, count: int) -> "Encoded":
        """The first `count` documents."""
        end = int(self.lengths[:count].sum())
        return Encoded(self.tokens[:end], self.loss[:end], self.lengths[:count])


class Tokenizer:
    """Text into token ids and back. Ids 0, 1, 2 are `SPECIAL_TOKENS`; text never produces them.

    A text document is `<|endoftext|>` text `<|endoftext|>` with loss on all but its first token; a
    conversation is `<|endoftext|>` and what `chat.render` makes of it; a preference pair is its prompt and chosen
    answer as a conversation, then its prompt and rejected answer, with loss on the answers alone.
    """

    def __init__(self, library: tokenizers.Tokenizer):
        self._library = library
        self._unknown: int | None = library.token_to_id(UNKNOWN)
        # For bytes, a special token's name in a text is spelled out. A vocabulary of words has no spelling:
        # there `_encode_texts` makes it unknown, and this setting would only cost time.
        library.encode_special_tokens = self._unknown is None

    @property
    def size(self) -> int:
        """Tokens in use: at most `TrainedTokenizer.vocabulary`."""
        return self._library.get_vocab_size(with_added_tokens=True)

    @property
    def unknown(self) -> int | None:
        """The id that stands for words outside the vocabulary; None for bytes, which know all text."""
        return self._unknown

    @property
    def digest(self) -> str:
        """SHA-256 of the content of tokenizer.json."""
        return hashlib.sha256(self._library.to_str(pretty=True).encode()).hexdigest()

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
                for answer, first, more in zip(answers, (0, SECOND), (0, REJECTED), strict=True):
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

    def encode_prompt(self, messages: Sequence[Message], template: str = "chatml") -> list[int]:
        """Token ids of a conversation from its `<|endoftext|>` to where the assistant is to speak next."""
        return self._encode_pieces([END_OF_TEXT, *(text for text, _ in prompt(messages, template))])[
            0
        ].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens by their names."""
        return self._library.decode(list(ids), skip_special_tokens=False)

    def save(self, path: Path) -> None:
        """Write tokenizer.json, which `load` and other users of the `tokenizers` library open."""
        write_text(path, self._library.to_str(pretty=True))

    @classmethod
    def load(cls, path: Path) -> "Tokenizer":
        """Read tokenizer.json."""
        return cls(tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8")))

    def _encode_pieces(self, pieces: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [sum] and lengths [pieces]; a piece that is a special token's name is that token."""
        special = np.fromiter((SPECIAL_IDS.get(piece, -1) for piece in pieces), np.int64, len(pieces))
        lengths = np.ones(len(pieces), np.int64)
        ids, lengths[special < 0] = self._encode_texts([p for p in pieces if p not in SPECIAL_IDS])
        tokens = np.repeat(special, lengths)
        tokens[tokens < 0] = ids
        return tokens.astype(np.uint32), lengths

    def _encode_texts(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids [sum] and lengths [texts]."""
        encodings = self._library.encode_batch_fast(texts, add_special_tokens=False)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = itertools.chain.from_iterable(encoding.ids for encoding in encodings)
        tokens = np.fromiter(ids, np.uint32, int(lengths.sum()))
        if self._unknown is not None:
            tokens[tokens < len(SPECIAL_TOKENS)] = self._unknown
        return tokens, lengths


def words_needed(words: Iterable[str]) -> int:
    """The least vocabulary of a tokenizer of these `words`: they, and what every such tokenizer holds."""
    return len({*SPECIAL_TOKENS, UNKNOWN, *TEMPLATE_WORDS, *words})


def train_tokenizer(trained: TrainedTokenizer) -> Tokenizer:
    """Train the tokenizer. Raises UserError where the words of the source are more than its vocabulary."""
    texts = _texts(trained.source)
    if trained.kind == "words":
        reserved = dict.fromkeys((*SPECIAL_TOKENS, UNKNOWN, *TEMPLATE_WORDS))
        words = set(itertools.chain.from_iterable(text.split() for text in texts)).difference(reserved)
        if (needed := len(reserved) + len(words)) > trained.vocabulary:
            raise UserError(
                f"the vocabulary of {trained.vocabulary} does not hold the {len(words)} words of "
                f"{trained.source.name} and {len(reserved)} reserved tokens: it needs at least {needed}"
            )
        vocabulary = {token: number for number, token in enumerate([*reserved, *sorted(words)])}
        library = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        library.add_special_tokens([*SPECIAL_TOKENS, UNKNOWN])
    else:
        library = tokenizers.Tokenizer(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=trained.vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        library.train_from_iterator(texts, trainer)
    return Tokenizer(library)


def tokenizer_folder(root: Path, trained: TrainedTokenizer) -> Path:
    """Where under `root` the tokenizer of this recipe lies."""
    return root / f"{trained.kind}-{fingerprint(trained.recipe())[:12]}"


def prepare_tokenizer(root: Path, trained: TrainedTokenizer) -> Tokenizer:
    """Open the tokenizer of this recipe under `root`, or train it and write it there.

    Raises Failure where the file there is not what was written.
    """
    folder = tokenizer_folder(root, trained)
    file, manifest = folder / TOKENIZER, folder / "manifest.json"
    if not manifest.exists():
        tokenizer = train_tokenizer(trained)
        tokenizer.save(file)
        write_json(manifest, {"recipe": trained.recipe(), "digest": tokenizer.digest, "size": tokenizer.size})
        return tokenizer
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))["digest"]
        intact = hashlib.sha256(file.read_bytes()).hexdigest() == expected
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        intact = False
    if not intact:
        raise Failure(
            f"{file} is not the tokenizer that {manifest.name} names: delete {folder} to train it again"
        )
    return Tokenizer.load(file)


def _texts(source: Source) -> Iterator[str]:
    """What people and corpora wrote in the source's documents, up to `source.tokens` words."""
    words = 0
    for document in source.documents(0):
        for text in texts(document):
            words += len(text.split())
            yield text
        if 0 < source.tokens <= words:
            return
