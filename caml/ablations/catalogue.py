"""Every dataclass that a gin file may configure, and the loading of an ablation from its file."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caml.ablations.grid import AXES
from caml.ablations.imported import Imported
from caml.ablations.runs import Ablation, Run, Stage
from caml.analysis.contrasts import Contrast
from caml.config import files
from caml.config.errors import UserError
from caml.config.files import Binding
from caml.config.resolve import Loaded, load
from caml.data.corpora.files import Files
from caml.data.corpora.hub import HuggingFace
from caml.data.corpora.schemas import Chosen, Completion, Either, Instruction, Messages, Rated, Template, Text
from caml.data.corpora.tfds import Tfds
from caml.data.hygiene.hygiene import Hygiene
from caml.data.matching import Matched
from caml.data.mixture import Mixture
from caml.data.tokenizer_recipes import LoadedTokenizer, Several, TrainedTokenizer
from caml.evals.benchmarks.benchmark import Benchmark
from caml.evals.fileprobes import FileProbes, Items
from caml.models.sizes import Model
from caml.training.execution import Execution
from caml.training.optimizer import Optimizer, Schedule
from caml.worlds.sources import BaseText, Documents, Rows, Words, WorldProbes

CLASSES = (
    Ablation, Run, Stage, Imported, Contrast, Mixture, TrainedTokenizer, LoadedTokenizer, Several, Model, Optimizer,
    Schedule, Execution, BaseText, Documents, Rows, Words, WorldProbes, Items, FileProbes, Benchmark,
    Files, HuggingFace, Tfds, Matched, Hygiene,
    Text, Template, Messages, Instruction, Completion, Either, Chosen, Rated,
)  # fmt: skip


LONGEST = 100  # characters of an ablation's name with what settings add to it


def load_ablation(path: str | Path, settings: Sequence[str] = ()) -> Loaded:
    """The ablation in the gin file `path`, with `settings` (`MACRO=VALUE`) on top.

    With settings that change what is trained or stated it is another ablation: its name tells them, as in
    `quickstart+tokens=65536`, and so its results have a folder of their own.
    """
    bound = {binding.configurable for binding in files.read(Path(path))}
    if "Corpora" in bound and "Ablation" not in bound:
        raise UserError(
            f"{path} binds Corpora and no Ablation: it is for `caml data prepare`, show, verify and match"
        )
    loaded = load(path, CLASSES, Ablation, settings, axes=AXES)
    altering = loaded.text.altering()
    if not altering:
        return loaded
    return loaded.bound("Ablation", "name", _told(loaded.tree.name, altering))


def _told(name: str, settings: Sequence[Binding]) -> str:
    """`name` with `settings` in it, in characters that a folder takes."""
    told = ",".join(sorted(f"{b.parameter.lower()}={_value(b.value)}" for b in settings))
    plain = re.sub(r"[^A-Za-z0-9_.,=+-]", "_", f"{name}+{told}")
    if plain == f"{name}+{told}" and len(plain) <= LONGEST:
        return plain
    return f"{plain[: LONGEST - 13]}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def _value(value: Any) -> str:
    """A value in words; 0 and 0.0 are one."""
    return f"{value:.12g}" if type(value) in (int, float) else str(value)
