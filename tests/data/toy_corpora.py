"""Small sources and stores for the tests of the data room."""

import dataclasses
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from caml.data.sources import Document, Preference
from caml.data.store import TokenStore
from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
from caml.data.writing import prepare_store

WORDS = [f"word{i}" for i in range(40)]


@dataclasses.dataclass(frozen=True)
class Toy:
    """Documents of random words; those of one `shape` have equal lengths whatever their words."""

    name: str = "toy"
    tokens: int = 2000
    repetition: float = 1.0
    longest: int = 30
    chat: float = 0.0
    pairs: float = 0.0
    documents_at_most: int | None = None
    shape: int = 0

    seeded: ClassVar[bool] = True
    origin: ClassVar[str] = "tests"
    revision: ClassVar[str] = "1"
    licence: ClassVar[str] = "CC0-1.0"

    def recipe(self, seed: int) -> dict[str, Any]:
        return {"toy": dataclasses.asdict(self), "seed": seed}

    def documents(self, seed: int) -> Iterator[Document]:
        return itertools.islice(self._endless(seed), self.documents_at_most)

    def _endless(self, seed: int) -> Iterator[Document]:
        words, shape = random.Random(f"{self.name} {seed}"), random.Random(self.shape)

        def text() -> str:
            return " ".join(words.choices(WORDS, k=shape.randint(1, self.longest)))

        while True:
            if self.pairs and shape.random() < self.pairs:
                speakers = ("user", "assistant", "assistant")
                yield Preference(*([{"role": role, "content": text()}] for role in speakers))
            elif shape.random() < self.chat:
                yield [
                    {"role": role, "content": text()} for role in ("user", "assistant") * shape.randint(1, 2)
                ]
            else:
                yield text()


@dataclasses.dataclass(frozen=True)
class External(Toy):
    """The same, as a corpus that is one for all seeds."""

    seeded: ClassVar[bool] = False

    def recipe(self, seed: int) -> dict[str, Any]:
        return super().recipe(0)

    def documents(self, seed: int) -> Iterator[Document]:
        return super().documents(0)


TRAINED = TrainedTokenizer("words", 60, Toy(tokens=5000))
TOKENIZER: Tokenizer = train_tokenizer(TRAINED)


def store(root: Path, source: Toy, seed: int = 0) -> TokenStore:
    """The source's token store under `root`."""
    return prepare_store(root, source, seed, TRAINED, TOKENIZER)
