"""A model that a run begins with: anybody's dense Qwen3 in the format of Hugging Face, or one that caml exported."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from caml.config.errors import Invalid, UserError, require
from caml.data.files import digest_file
from caml.data.hubfiles import COMMIT, fetch
from caml.data.tokenizer_recipes import TOKENIZER, LoadedTokenizer, TokenizerRecipe
from caml.models import huggingface
from caml.models.sizes import Model

MANIFESTS = "caml.json"
"""In an exported folder: the manifests of the stages that it was trained in, first to last."""


@dataclasses.dataclass(frozen=True)
class Treatment:
    """What an intervention had been before: its arm, its share of the slots, and its tokens."""

    arm: str = "base"
    ratio: float = 0.0
    dose_tokens: int = 0


@dataclasses.dataclass(frozen=True)
class Imported:
    """The parameters of a model in the format of Hugging Face, from which training goes on.

    `path` is a folder here, or a name on the Hugging Face Hub, of which `revision` is the commit. `name` is what an
    axis calls it. `arm`, `ratio` and `dose_tokens` say how it was treated, for reports; where they are left out, a
    folder that caml exported tells them, and any other counts as untreated.
    """

    name: str
    path: str
    revision: str = ""
    arm: str = ""
    ratio: float = 0.0
    dose_tokens: int = 0

    def __post_init__(self) -> None:
        require(bool(self.name), "name", "what an axis calls the model")
        require(bool(self.path), "path", "a folder with config.json, or a name on the Hub")
        require(
            Path(self.path).exists() or COMMIT.fullmatch(self.revision) is not None,
            "revision",
            f"the commit of {self.path} that is read, 40 hexadecimal digits, or `path` is a folder here",
            "path",
        )
        require(0 <= self.ratio <= 1, "ratio", f"a share of the slots, not {self.ratio:g}")
        require(self.dose_tokens >= 0, "dose_tokens", "tokens, 0 or above")
        treated = self.ratio > 0 or self.dose_tokens > 0
        require(
            self.arm != "" or not treated, "arm", "the arm of which `ratio` and `dose_tokens` are", "ratio"
        )

    def recipe(self) -> dict[str, Any]:
        """Identity: digests of the files here, or name and commit on the Hub, and how it was treated.

        Raises Invalid for a folder that holds no model.
        """
        about = {"treatment": dataclasses.asdict(self.treatment)}
        if not Path(self.path).exists():
            return {"path": self.path, "revision": self.revision, **about}
        try:
            files = [self._needed(huggingface.CONFIG), *huggingface.weight_files(self._folder())]
        except UserError as error:
            raise Invalid(str(error), "path") from None
        return {"files": {path.name: _digest(path, path.stat().st_mtime_ns) for path in files}, **about}

    @functools.cached_property
    def treatment(self) -> Treatment:
        """How it was treated."""
        if self.arm:
            return Treatment(self.arm, self.ratio, self.dose_tokens)
        try:
            first = json.loads(self._file(MANIFESTS).read_text(encoding="utf-8"))[0]
            return Treatment(first["arm"], first["ratio"], first["dose_tokens"])
        except FileNotFoundError:
            return Treatment()
        except (ValueError, KeyError, IndexError, TypeError):
            raise UserError(f"{MANIFESTS} of {self.path} was altered: say Imported.arm instead") from None

    def model(self) -> tuple[Model, int]:
        """Its shape, and the rows of its embedding. Raises UserError where there is no such model."""
        self._needed(huggingface.CONFIG)
        model, vocabulary, _ = huggingface.read_config(self._folder(), huggingface.named(self.name))
        return model, vocabulary

    def require_weights(self) -> None:
        """Raise UserError where the weights of a folder here are not whole, or not those of its model."""
        if Path(self.path).exists():
            huggingface.require_weights(Path(self.path), *self.model())

    def has_tokenizer(self, recipe: TokenizerRecipe) -> bool:
        """Whether that is the tokenizer that this model was trained with."""
        if not isinstance(recipe, LoadedTokenizer):
            return False
        if not Path(self.path).exists():
            return (recipe.path, recipe.revision) == (self.path, self.revision)
        return recipe.recipe().get("file") == digest_file(self._needed(TOKENIZER))

    def parameters(self) -> dict[str, np.ndarray]:
        """Its parameters in float32."""
        model, vocabulary = self.model()
        if not Path(self.path).exists():
            for name in huggingface.weight_names(self._folder(), self._index()):
                self._needed(name)
        return huggingface.read_weights(self._folder(), model, vocabulary)

    def _index(self) -> bool:
        """Whether the weights lie in several files, of which there is an index."""
        try:
            return self._file(huggingface.INDEX).exists()
        except FileNotFoundError:
            return False

    def _folder(self) -> Path:
        """The folder of the model, here or in the Hub's cache."""
        path = Path(self.path)
        return path if path.exists() else self._needed(huggingface.CONFIG).parent

    def _needed(self, name: str) -> Path:
        """One of its files. Raises UserError where there is no such file."""
        try:
            return self._file(name)
        except FileNotFoundError as error:
            raise UserError(f"{error}: it is no model in the format of Hugging Face") from None

    def _file(self, name: str) -> Path:
        """One of its files. Raises FileNotFoundError where there is no such file."""
        folder = Path(self.path)
        if not folder.exists():
            return fetch(self.path, name, self.revision, "give a folder here")
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder} has no {name}")
        return folder / name


@functools.lru_cache(maxsize=256)
def _digest(path: Path, _: int) -> str:
    return digest_file(path)


def gin_lines(folder: str, revision: str = "") -> list[str]:
    """Gin text of a run that begins with the model in a folder here or on the Hub: its shape, tokenizer and itself."""
    if Path(folder).exists():
        if revision:
            raise UserError(f"--revision {revision}: {folder} is a folder here, which has none")
    elif COMMIT.fullmatch(revision) is None:
        raise UserError(
            f"{folder} is no folder here; of a name on the Hub, --revision says which commit (40 hexadecimal digits)"
        )
    imported = Imported(huggingface.named(folder.rstrip("/").rsplit("/", 1)[-1]), folder, revision)
    model, vocabulary = imported.model()
    imported.require_weights()
    if Path(folder).exists():
        LoadedTokenizer(vocabulary, folder).make()
    at = [f"revision = {revision!r}"] if revision else []
    treated = imported.treatment
    told = f"  # {treated.arm}, ratio {treated.ratio:g}" if treated.arm != "base" else ""
    return [
        "# To be included after the study's stages, and in place of its size and tokenizer: they are said here.",
        "Run.initial = @Imported()",
        f"Imported.name = {imported.name!r}{told}",
        f"Imported.path = {folder!r}",
        *(f"Imported.{line}" for line in at),
        "",
        "Run.tokenizer = @LoadedTokenizer()",
        f"LoadedTokenizer.path = {folder!r}",
        *(f"LoadedTokenizer.{line}" for line in at),
        f"LoadedTokenizer.vocabulary = {vocabulary}",
        "",
        "Run.model = @Model()",
        *(
            f"Model.{field.name} = {getattr(model, field.name)!r}"
            for field in dataclasses.fields(model)
            if field.name not in ("init_scale", "base_width")
        ),
    ]
