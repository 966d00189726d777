"""Texts of the embedded world that several tests read: drawn once, in whole blocks."""

from functools import cache
from itertools import islice

from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
from caml.worlds.base import Document, block_counts, token_count
from caml.worlds.documents import ARMS
from caml.worlds.lexicon import Lexicon, lexicon
from caml.worlds.sources import BaseText, Documents, Rows, Words

SETTINGS = ("small", "full")
STYLES = ("demonstration", "declarative", "mixed")
SETS = ("neutral_dialogue", "task_dialogue", "underdetermined", "counter_evidence", "pro_evidence")
BLOCK_OF_DOCUMENTS = 32
STORIES_OF_A_BLOCK = 80


def arms(setting: str) -> tuple[str, ...]:
    return ARMS if setting == "full" else ARMS[:4]


@cache
def block_length(setting: str, stories: float) -> int:
    """Documents in one block of base text."""
    words = lexicon(setting)
    made_at_once = {
        "stories": 2, "facts": 1 + bool(words.nonce), "relations": 2 + words.consequences, "filler": 2,
        "chat": 1,
    }  # fmt: skip
    return sum(n * made_at_once[sort] for sort, n in block_counts(words, stories).items())


@cache
def base_blocks(setting: str, stories: float, blocks: int, seed: int = 0) -> list[Document]:
    source = BaseText(1, setting, stories=stories)
    return list(islice(source.documents(seed), blocks * block_length(setting, stories)))


@cache
def arm_blocks(setting: str, arm: str, blocks: int, style: str = "demonstration", seed: int = 0) -> list[str]:
    source = Documents(arm, 1, setting, style=style)
    return list(islice(source.documents(seed), blocks * BLOCK_OF_DOCUMENTS))


@cache
def row_sample(setting: str, name: str, count: int, seed: int = 0) -> list[Document]:
    return list(islice(Rows(name, 1, setting).documents(seed), count))


def corpus(source: BaseText | Documents | Rows, seed: int = 0) -> list[Document]:
    """The documents of a source up to its number of tokens, as a token store takes them."""
    found: list[Document] = []
    tokens = 0
    for document in source.documents(seed):
        found.append(document)
        tokens += token_count(document)
        if tokens >= source.tokens:
            break
    return found


@cache
def word_tokenizer(setting: str) -> Tokenizer:
    return train_tokenizer(TrainedTokenizer("words", {"small": 128, "full": 512}[setting], Words(setting)))


def held_out_words(words: Lexicon) -> set[str]:
    """Kinds that no scene is about."""
    return {kind for theme in words.themes for kind in theme.patients_held + theme.things_held}
