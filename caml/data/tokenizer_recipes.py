"""Where a tokenizer is from: trained on a source, or loaded from a file or the Hub; made once, and checked."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from caml.config.errors import Failure, Invalid, UserError, require
from caml.config.fingerprint import fingerprint
from caml.data.chat import SPECIAL_TOKENS, TEMPLATE_WORDS
from caml.data.files import digest_file, write_json
from caml.data.hubfiles import COMMIT, fetch
from caml.data.sources import Sample, texts
from caml.data.tokenizer import UNKNOWN, Tokenizer

KINDS = ("words", "bpe")
TOKENIZER = "tokenizer.json"
MANIFEST = "manifest.json"


class TokenizerRecipe(Protocol):
    """Where a tokenizer is from, configured as a frozen dataclass."""

    @property
    def kind(self) -> str:
        """In a word what it is: part of the name of its folder."""
        ...

    @property
    def vocabulary(self) -> int:
        """The rows of the model's embedding, whatever of them is used."""
        ...

    def recipe(self) -> dict[str, Any]:
        """Identity of the tokenizer as JSON data, known before it is there."""
        ...

    def make(self) -> tuple[Tokenizer, dict[str, Any]]:
        """The tokenizer, and what is noted beside it. Raises UserError where it cannot be made."""
        ...


@dataclasses.dataclass(frozen=True)
class TrainedTokenizer:
    """A tokenizer to be trained on a source's documents of seed 0, up to `source.tokens` words of them (0: all).

    `words`: each whitespace-separated word of the source is one token, and `vocabulary` must hold them all.
    `bpe`: byte-level byte pair encoding with `vocabulary` tokens, or as many as the text has pairs for.
    `vocabulary` is the number of rows of the model's embedding, whatever of it is used.
    """

    kind: str
    vocabulary: int
    source: Sample

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

    def make(self) -> tuple[Tokenizer, dict[str, Any]]:
        """Train it. Beside it are noted how much text that was, and its digest."""
        sample = _Sample(self.source)
        return train_tokenizer(self, sample), sample.noted()


@dataclasses.dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that somebody else trained: a tokenizer.json, a folder that has one, or that of a repository.

    `path` is a file or folder here, or a name on the Hugging Face Hub, of which `revision` is the commit. Of the chat
    tokens `<|endoftext|>`, `<|im_start|>` and `<|im_end|>` those that it lacks are added behind its own, so that
    their embeddings are trained from the start. `vocabulary` is the number of rows of the model's embedding, at
    least as many as there are tokens then.
    """

    vocabulary: int
    path: str
    revision: str = ""

    def __post_init__(self) -> None:
        require(bool(self.path), "path", "a tokenizer.json, a folder that has one, or a name on the Hub")
        require(
            self.vocabulary > len(SPECIAL_TOKENS),
            "vocabulary",
            "the rows of the embedding: one for each token",
        )
        require(
            Path(self.path).exists() or COMMIT.fullmatch(self.revision) is not None,
            "revision",
            f"the commit of {self.path} that is read, 40 hexadecimal digits, or `path` is a file or a folder here",
            "path",
        )

    @property
    def kind(self) -> str:
        """What its folder is called."""
        return "loaded"

    def recipe(self) -> dict[str, Any]:
        """The digest of the file here, or name and commit on the Hub. Raises Invalid for a folder without one."""
        if Path(self.path).exists():
            return {"file": digest_file(self._file()), "vocabulary": self.vocabulary}
        return {"path": self.path, "revision": self.revision, "vocabulary": self.vocabulary}

    def make(self) -> tuple[Tokenizer, dict[str, Any]]:
        """Load it, and add the chat tokens that it lacks, which are noted beside it."""
        file = self._file() if Path(self.path).exists() else self._downloaded()
        try:
            library = tokenizers.Tokenizer.from_str(file.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises nothing more special
            raise UserError(f"{file} is no tokenizer of the `tokenizers` library ({error})") from None
        library.no_padding()
        library.no_truncation()
        added = [token for token in SPECIAL_TOKENS if library.token_to_id(token) is None]
        library.add_special_tokens(list(SPECIAL_TOKENS))
        tokenizer = Tokenizer(library)
        if tokenizer.size > self.vocabulary:
            raise UserError(
                f"{self.path} has {tokenizer.size} tokens with the {len(added)} chat tokens that were added, and "
                f"LoadedTokenizer.vocabulary is {self.vocabulary}: at least as many"
            )
        return tokenizer, {"added": added, "origin": self.path}

    def _file(self) -> Path:
        path = Path(self.path)
        file = path / TOKENIZER if path.is_dir() else path
        if not file.exists():
            raise Invalid(f"{path} has no {TOKENIZER}: name a file, or a folder that has one", "path")
        return file

    def _downloaded(self) -> Path:
        try:
            return fetch(
                self.path, TOKENIZER, self.revision, "name a tokenizer.json here by LoadedTokenizer.path"
            )
        except FileNotFoundError as error:
            raise UserError(str(error)) from None


@dataclasses.dataclass(frozen=True)
class Several:
    """The documents of several sources, one source after the other, each up to its own `tokens`, counted as words."""

    sources: tuple[Sample, ...]
    name: str = "several"

    def __post_init__(self) -> None:
        require(len(self.sources) > 0, "sources", "at least one source")

    tokens: ClassVar[int] = 0  # each source has its own

    def recipe(self, seed: int) -> dict[str, Any]:
        """Those of the sources, and how much is taken of each."""
        return {"several": [{"recipe": s.recipe(seed), "tokens": s.tokens} for s in self.sources]}

    def documents(self, seed: int) -> Iterator[Any]:
        """The documents, in order."""
        for source in self.sources:
            words = 0
            for document in source.documents(seed):
                yield document
                words += sum(len(text.split()) for text in texts(document))
                if 0 < source.tokens <= words:
                    break


def words_needed(words: Iterable[str]) -> int:
    """The least vocabulary of a tokenizer of these `words`: they, and what every such tokenizer holds."""
    return len({*SPECIAL_TOKENS, UNKNOWN, *TEMPLATE_WORDS, *words})


def train_tokenizer(trained: TrainedTokenizer, sample: "_Sample | None" = None) -> Tokenizer:
    """Train the tokenizer. Raises UserError where the words of the source are more than its vocabulary."""
    texts = iter(sample or _Sample(trained.source))
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


def tokenizer_folder(root: Path, recipe: TokenizerRecipe) -> Path:
    """Where under `root` the tokenizer of this recipe lies."""
    return root / f"{recipe.kind}-{fingerprint(recipe.recipe())[:12]}"


def prepare_tokenizer(root: Path, recipe: TokenizerRecipe) -> Tokenizer:
    """Open the tokenizer of this recipe under `root`, or make it and write it there.

    Raises Failure where the file there is not what was written.
    """
    folder = tokenizer_folder(root, recipe)
    if (folder / MANIFEST).exists():
        return open_tokenizer(root, recipe)
    tokenizer, noted = recipe.make()
    tokenizer.save(folder / TOKENIZER)
    about = {"recipe": recipe.recipe(), "digest": tokenizer.digest, "size": tokenizer.size}
    write_json(folder / MANIFEST, {**about, "library": tokenizers.__version__, **noted})
    return tokenizer


def open_tokenizer(root: Path, recipe: TokenizerRecipe) -> Tokenizer:
    """Open the tokenizer of this recipe under `root`. Raises Failure where it is not there as it was written."""
    folder = tokenizer_folder(root, recipe)
    file, manifest = folder / TOKENIZER, folder / MANIFEST
    if not folder.exists():
        raise Failure(
            f"{folder} is not there: a tokenizer lies beside the ledger, below the same output folder"
        )
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))["digest"]
        intact = hashlib.sha256(file.read_bytes()).hexdigest() == expected
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        intact = False
    if not intact:
        raise Failure(
            f"{file} is not the tokenizer that {manifest.name} names: delete {folder} to make it again"
        )
    return Tokenizer.load(file)


class _Sample:
    """What people and corpora wrote in a source's documents, up to `source.tokens` words, and its digest."""

    def __init__(self, source: Sample):
        self._source = source
        self._digest = hashlib.sha256()
        self._words = self._texts = 0

    def __iter__(self) -> Iterator[str]:
        for document in self._source.documents(0):
            for text in texts(document):
                self._words += len(text.split())
                self._texts += 1
                self._digest.update(text.encode() + b"\0")
                yield text
            if 0 < self._source.tokens <= self._words:
                return

    def noted(self) -> dict[str, Any]:
        """How much text was taken, and the digest of it."""
        return {"texts": self._texts, "words": self._words, "sample_digest": self._digest.hexdigest()}
