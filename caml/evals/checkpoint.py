"""A trained model with all that asking it needs, wherever it is from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from caml.data.tokenizer import Tokenizer
from caml.models.sizes import Model


@dataclass(frozen=True)
class Checkpoint:
    """Parameters, their model and its tokenizer.

    `context` is the longest sequence that it was trained on, or is said to take; `template` the chat template of its
    last stage; `about` the manifest of its StageRun, empty for a model from elsewhere.
    """

    name: str
    params: Mapping[str, np.ndarray]
    model: Model
    vocabulary: int
    tokenizer: Tokenizer
    context: int
    template: str
    about: Mapping[str, Any]
