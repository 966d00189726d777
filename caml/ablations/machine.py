"""What of this machine a launch uses: devices, and where compiled programs are kept.

Set by environment variables that jax reads when it starts, so that commands that need no jax never load it. What
the user has set stays.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import psutil

from caml.ablations.populations import MEMBERS
from caml.ablations.runs import StageRun
from caml.config.resolve import Loaded
from caml.config.text import counted

# Products inside a device then run on its own thread: for small models threads that are handed pieces of a
# product cost more than they bring.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
# Bytes that a parameter takes in training: itself, its gradient, and an optimizer's two moments, in float32.
BYTES = 16


def prepare_devices() -> None:
    """Give each core of a machine without accelerator a virtual device, and keep compiled programs on disk."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "caml" / "programs"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(len(os.sched_getaffinity(0)), MEMBERS)))
    flags = os.environ.get("XLA_FLAGS", "")
    if int(os.environ["JAX_NUM_CPU_DEVICES"]) > 1 and ONE_THREAD not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {ONE_THREAD}".strip()


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
