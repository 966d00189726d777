"""What a person asks of how training is laid out. No jax here: it is read, checked and shown without starting it."""

from dataclasses import dataclass

from caml.config.errors import require
from caml.config.fingerprint import runtime
from caml.models.compute import REMATERIALISATION


@dataclass(frozen=True)
class Execution:
    """What is asked of a layout, where what suits the platform is not wanted: none of it is of a run's identity.

    A model lies over `fsdp` x `tensor` devices, which divide its width (`tensor` its key-value heads and neurons too),
    and its batches over `data` x `fsdp` (`data` 0: as many as members leave free). `rows` sequences go through it at a
    time on each device, and their gradients are added up (0: what suits the platform). `remat` says what the backward
    pass computes again to save memory: `none`, all but the `products`, or all inside `layers`. `fused`: on a GPU, what
    lies between products is computed by kernels that take fewer passes over memory, and logits of next-token losses lie
    there in the stage's precision (the time of it has not been measured yet; other rounding).
    """

    data: int = runtime(0)
    fsdp: int = runtime(1)
    tensor: int = runtime(1)
    rows: int = runtime(0)
    remat: str = runtime("none")
    fused: bool = runtime(False)

    def __post_init__(self) -> None:
        for field, least in (("data", 0), ("fsdp", 1), ("tensor", 1), ("rows", 0)):
            value = getattr(self, field)
            require(value >= least, field, f"a whole number of at least {least}, not {value}")
        require(
            self.remat in REMATERIALISATION,
            "remat",
            f"'{self.remat}' is not one of {', '.join(REMATERIALISATION)}",
        )


AS_SUITS = Execution()
