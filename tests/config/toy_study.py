"""A small tree of configurable dataclasses, a gin file for it, and loading it with lines changed."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from caml.config.errors import require
from caml.config.resolve import Loaded, load


class Source(Protocol):
    @property
    def tokens(self) -> int: ...

    def documents(self, seed: int) -> list[str]: ...


@dataclasses.dataclass(frozen=True)
class Text:
    tokens: int
    arm: str = "base"
    seeded: ClassVar[bool] = True

    def documents(self, seed: int) -> list[str]:
        return []


@dataclasses.dataclass(frozen=True)
class Adam:
    rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    kind: Literal["plain", "fused"] = "plain"

    def __post_init__(self) -> None:
        require(self.rate < 1, "rate", f"below 1, not {self.rate}")
        require(self.betas[0] < 1, "betas", "the first of betas is below 1")


@dataclasses.dataclass(frozen=True)
class Phase:
    base: Source
    optimizer: Adam
    ratio: float = 0.0
    extra: Source | None = None
    flags: dict[str, bool] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        require(0 <= self.ratio <= 1, "ratio", f"a share between 0 and 1, not {self.ratio}")


@dataclasses.dataclass(frozen=True)
class Study:
    name: str
    phases: tuple[Phase, ...]
    axes: dict[str, list[Any]] = dataclasses.field(default_factory=dict)
    seed: int = 0
    verbose: bool = False


CLASSES = (Text, Adam, Phase, Study)

STUDY = """\
RATIO = 0.1
TOKENS = 500
RATE = 0.01
OPTIMIZER = @Adam()
SEED = 3
Study.name = 'toy'
Study.phases = [@first/Phase(), @second/Phase()]
Study.seed = %SEED
Study.axes = {'RATIO': [0.0, 0.1], 'SEED': [0, 1]}
Phase.base = @Text()
Phase.optimizer = %OPTIMIZER
first/Phase.ratio = %RATIO
Text.tokens = %TOKENS
second/Text.arm = 'neutral'
OPTIMIZER/Adam.rate = %RATE
"""


def study(folder: Path, *settings: str, text: str = STUDY, **lines: str) -> Loaded:
    """Load `text` from study.gin in `folder`, with line N replaced by the argument `lineN`."""
    written = text.splitlines()
    for name, line in lines.items():
        written[int(name.removeprefix("line")) - 1] = line
    path = folder / "study.gin"
    path.write_text("\n".join(written) + "\n")
    return load(path, CLASSES, Study, settings, axes="axes")
