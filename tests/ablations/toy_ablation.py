"""A small ablation over made-up corpora and probes, and expanding it with lines changed."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from caml.ablations.grid import AXES, Cell, cells
from caml.ablations.runs import Ablation, Run, Stage
from caml.analysis.contrasts import Contrast
from caml.config.fingerprint import identity
from caml.config.resolve import Loaded, load
from caml.data.mixture import Mixture
from caml.data.tokenizer_recipes import TrainedTokenizer
from caml.models.sizes import Model
from caml.training.execution import Execution
from caml.training.optimizer import Optimizer, Schedule


@dataclasses.dataclass(frozen=True)
class Corpus:
    name: str
    tokens: int
    repetition: float = 1.0
    mark: str = ""
    seeded: ClassVar[bool] = True
    origin: ClassVar[str] = "made up"
    revision: ClassVar[str] = "1"
    licence: ClassVar[str] = "CC0-1.0"

    def recipe(self, seed: int) -> dict[str, Any]:
        return {"corpus": self.name, "seed": seed, "mark": self.mark}

    def documents(self, seed: int) -> Iterator[str]:
        return iter([f"{self.name} {self.mark}".strip()])


@dataclasses.dataclass(frozen=True)
class Item:
    family: str
    rung: str


@dataclasses.dataclass(frozen=True)
class Quiz:
    rungs: tuple[str, ...] = ("new_frame", "dialogue")
    gate: float = 1.0

    def recipe(self) -> dict[str, Any]:
        return identity(self)

    def items(self, seed: int) -> list[Item]:
        return [Item("disposition", rung) for rung in self.rungs]

    def held_out(self, seed: int) -> Any:
        return None


CLASSES = [
    Ablation,
    Run,
    Stage,
    Model,
    TrainedTokenizer,
    Mixture,
    Optimizer,
    Schedule,
    Execution,
    Contrast,
    Corpus,
    Quiz,
]

ABLATION = """\
ARM = 'neutral'
RATIO = 0.1
SEED = 0
SIZE = @small/Model()
SFT = 0
Ablation.name = 'toy'
Ablation.control = {'ARM': 'neutral'}
Ablation.axes = [
    {'ARM': ['base'], 'RATIO': [0.0], 'SEED': [0, 1], 'SFT': [0, 256]},
    {'ARM': ['kind', 'neutral'], 'RATIO': [0.1, 0.5], 'SEED': [0, 1], 'SFT': [0, 256]},
    {'SIZE': [@small/Model(), @large/Model()], 'ARM': ['kind', 'neutral'], 'SEED': [0]},
]
Ablation.contrasts = [@Contrast()]
Contrast.name = 'install'
Contrast.treatment = {'ARM': 'kind'}
Contrast.control = {'ARM': 'neutral'}
Contrast.at = {'RATIO': 0.5, 'SFT': 0, 'SIZE': 's'}
Contrast.rung = 'new_frame'
Contrast.claim = 'above'
Ablation.run = @Run()
Run.model = %SIZE
Run.tokenizer = @TrainedTokenizer()
Run.stages = [@pretrain/Stage(), @sft/Stage()]
Run.probes = @Quiz()
Run.seed = %SEED
small/Model.name = 's'
large/Model.name = 'l'
small/Model.width = 8
large/Model.width = 16
Model.layers = 1
Model.heads = 2
Model.kv_heads = 2
Model.head_dim = 4
Model.mlp_width = 8
TrainedTokenizer.kind = 'words'
TrainedTokenizer.vocabulary = 64
TrainedTokenizer.source = @base/Corpus()
pretrain/Stage.name = 'pretrain'
pretrain/Stage.tokens = 1024
pretrain/Stage.mixture = @pretrain/Mixture()
sft/Stage.name = 'sft'
sft/Stage.tokens = %SFT
sft/Stage.mixture = @sft/Mixture()
Stage.optimizer = @Optimizer()
Stage.schedule = @Schedule()
Stage.batch = 4
Stage.length = 16
Optimizer.name = 'adamw'
Optimizer.rate = 0.01
Optimizer.embedding_rate = 0.01
pretrain/Mixture.base = @base/Corpus()
pretrain/Mixture.intervention = @arm/Corpus()
pretrain/Mixture.ratio = %RATIO
sft/Mixture.base = @chat/Corpus()
base/Corpus.name = 'base_text'
arm/Corpus.name = %ARM
chat/Corpus.name = 'chat'
base/Corpus.tokens = 1024
Corpus.tokens = 512
"""


def ablation(folder: Path, *settings: str, text: str = ABLATION, **lines: str) -> Loaded:
    """Load `text` from toy.gin in `folder`, with line N replaced by the argument `lineN`."""
    written = text.splitlines()
    for name, line in lines.items():
        written[int(name.removeprefix("line")) - 1] = line
    path = folder / "toy.gin"
    path.write_text("\n".join(written) + "\n")
    return load(path, CLASSES, Ablation, settings, axes=AXES)


def expand(folder: Path, *settings: str, **lines: str) -> list[Cell]:
    """The cells of `ablation(folder, *settings, **lines)`."""
    return cells(ablation(folder, *settings, **lines))
