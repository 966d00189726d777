"""What a stage reads: a mixture of sources over slots, and from it each step's batch."""

import dataclasses
from typing import NamedTuple

import numpy as np

from caml.config.errors import require
from caml.data.chat import TEMPLATES
from caml.data.slots import PLACEMENTS
from caml.data.sources import Source

LOSSES = ("all", "assistant")


class Batch(NamedTuple):
    """Sequences of one step, `[B, T]`; from `StageData.batches` with the steps as a leading axis."""

    tokens: np.ndarray  # int32; padding is 0
    segments: np.ndarray  # int32; 0 is padding, documents count from 1 within the sequence
    positions: np.ndarray  # int32; from 0 within each document
    weights: np.ndarray  # float32; 1 where the target, the next token of the same document, bears loss


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Base text, an intervention in `ratio` of its slots, and a second source in others.

    `placement` says where in the stage the intervention lies. `loss` is on `all` tokens, or on what the
    `assistant` says (text documents bear loss everywhere in both). `template` is the chat template in which
    conversations are written.
    """

    base: Source
    intervention: Source | None = None
    ratio: float = 0.0
    placement: str = "uniform"
    second: Source | None = None
    second_ratio: float = 0.0
    loss: str = "all"
    template: str = "chatml"

    def __post_init__(self) -> None:
        require(0 <= self.ratio <= 1, "ratio", f"a share between 0 and 1, not {self.ratio}")
        require(
            0 <= self.second_ratio <= 1, "second_ratio", f"a share between 0 and 1, not {self.second_ratio}"
        )
        require(
            self.ratio + self.second_ratio <= 1,
            "ratio",
            f"ratio {self.ratio} and second_ratio {self.second_ratio} together are more than 1",
        )
        require(
            self.ratio == 0 or self.intervention is not None,
            "intervention",
            f"a ratio of {self.ratio} needs a source to fill its slots",
        )
        require(
            self.second_ratio == 0 or self.second is not None,
            "second",
            f"a second_ratio of {self.second_ratio} needs a source to fill its slots",
        )
        require(
            self.placement in PLACEMENTS,
            "placement",
            f"one of {', '.join(PLACEMENTS)}, not {self.placement!r}",
        )
        require(self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}, not {self.loss!r}")
        require(
            self.template in TEMPLATES, "template", f"one of {', '.join(TEMPLATES)}, not {self.template!r}"
        )
