"""Every dataclass that a gin file may configure, and the loading of an ablation from its file."""

from collections.abc import Sequence
from pathlib import Path

from caml.ablations.grid import AXES
from caml.ablations.runs import Ablation, Run, Stage
from caml.analysis.contrasts import Contrast
from caml.config.resolve import Loaded, load
from caml.data.mixture import Mixture
from caml.data.sources import TextFile
from caml.data.tokenizer import TrainedTokenizer
from caml.models.sizes import Model
from caml.training.optimizer import Optimizer, Schedule
from caml.worlds.sources import BaseText, Documents, Rows, Words, WorldProbes

CLASSES = (
    Ablation, Run, Stage, Contrast, Mixture, TrainedTokenizer, Model, Optimizer, Schedule,
    TextFile, BaseText, Documents, Rows, Words, WorldProbes,
)  # fmt: skip


def load_ablation(path: str | Path, settings: Sequence[str] = ()) -> Loaded:
    """The ablation in the gin file `path`, with `settings` (`MACRO=VALUE`) on top."""
    return load(path, CLASSES, Ablation, settings, axes=AXES)
