"""The tokenizer: trained on a source, with chat tokens reserved from the start."""

import dataclasses
from typing import Any

from caml.config.errors import require
from caml.data.chat import SPECIAL_TOKENS, TEMPLATE_WORDS
from caml.data.sources import Source

UNKNOWN = "<|unk|>"
KINDS = ("words", "bpe")


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer to be trained on the first `source.tokens` words or so of a source, at seed 0.

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
            f"at least {least} for {self.kind!r}, not {self.vocabulary}",
        )

    def recipe(self) -> dict[str, Any]:
        """Identity of the tokenizer as JSON data, known before it is trained."""
        return {
            "kind": self.kind,
            "vocabulary": self.vocabulary,
            "source": self.source.recipe(0),
            "tokens": self.source.tokens,
        }
