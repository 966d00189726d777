"""Whether this machine can hold what a launch would train."""

from collections.abc import Sequence

import psutil

from caml.ablations.runs import StageRun
from caml.config.resolve import Loaded
from caml.config.text import counted

# Bytes that a parameter takes in training: itself, its gradient, and an optimizer's two moments, in float32.
BYTES = 16


def refuse_too_large(loaded: Loaded, stageruns: Sequence[StageRun], population: int) -> None:
    """Raise UserError for a model whose members do not fit into this machine's memory as they are trained.

    `population`: the most members trained together (0: as many as fit, and so one is looked at).
    """
    there = psutil.virtual_memory().total
    for model, vocabulary in dict.fromkeys((s.model, s.tokenizer.vocabulary) for s in stageruns):
        together = min(population or 1, sum(s.model == model and not s.parent for s in stageruns))
        parameters = sum(model.parameters(vocabulary))
        needed = BYTES * parameters * together
        if needed > there:
            message = (
                f"{counted(together, 'member')} of {parameters:,} parameters take {needed / 2**30:,.0f} GiB in "
                f"training, and this machine has {there / 2**30:.0f}: a smaller size, or Ablation.population"
            )
            raise loaded.fault(message, (model, "width"), (model, "layers"))
