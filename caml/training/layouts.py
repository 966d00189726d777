"""How a population is laid out on a platform: by measurements that stand here, never tuned while something runs.

Whatever is laid out otherwise has other bits, so a layout is recorded with what was trained.
"""

import math
from dataclasses import dataclass, replace

from caml.models.attention import kernel_of
from caml.models.compute import FLOAT32, Compute
from caml.models.sharded import ROWS
from caml.training.execution import AS_SUITS, Execution


@dataclass(frozen=True)
class Layout:
    """Members turn by turn on each device, so that the bits of one do not depend on its company, or side by side.

    `beside`: how many members a device computes at once (0: they come in turn). A model lies over `fsdp` x `tensor`
    devices and a batch over `data` x `fsdp`, each of which takes `rows` sequences of it at a time (0: all of its own).
    There are members on so many `groups` of such devices (0: on all), which no member's bits depend on.
    """

    beside: int = 0
    rows: int = 0
    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    compute: Compute = FLOAT32
    groups: int = 0

    @property
    def over(self) -> tuple[str, ...]:
        """Axes of the mesh over which a batch lies, so that a step adds up over them."""
        if self.compute.sharded:
            return ROWS
        return ("data",) if self.data > 1 else ()

    def __str__(self) -> str:
        parts = [f"members side by side, {self.beside} at once" if self.beside else "members in turn"]
        rows = "1 row" if self.rows == 1 else f"{self.rows} rows"
        parts.append(f"{rows} at a time" if self.rows else "whole batches")
        if self.data > 1:
            parts.append(f"a batch over {self.data} devices")
        if self.fsdp * self.tensor > 1:
            parts.append(f"a model in parts on {self.fsdp} x {self.tensor} devices (fsdp x tensor)")
        if self.compute.precision != FLOAT32.precision:
            parts.append(f"in {self.compute.precision}")
        if self.compute.kernel not in ("", "blocks"):
            apart = "" if self.compute.fused else "queries and keys normalised apart, "
            parts.append(f"{apart}attention by {self.compute.kernel}")
        if self.compute.remat != "none":
            parts.append(f"{self.compute.remat} computed again")
        if self.compute.fused:
            parts.append(f"fused between products, logits of next tokens in {self.compute.precision}")
        return ", ".join(parts)


PLAIN = Layout()

# How many tokens of a batch are taken at a time, by platform and by models up to a width: on a CPU what a piece needs
# is to stay in the cache of its core, and gradients of every piece are added up, of wide models at some cost (measured:
# experiments/LOG.md). An accelerator takes all at once.
AT_A_TIME: dict[str, tuple[tuple[float, int], ...]] = {
    "cpu": ((48, 64), (64, 256), (128, 128), (math.inf, 512))
}
# On a GPU 32 members of 3M side by side have 4.0 times the tokens/s of one, and in turn they would have those of one
# (benchmarks/results/README.md); on a TPU nothing was measured yet.
MEMBERS_LIE = {"cpu": "turn", "gpu": "stacked", "tpu": "stacked"}


class Unfit(ValueError):
    """What was asked of a layout cannot be, on these devices or of this model; `field` of Execution says what."""

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field


def layout_of(
    platform: str,
    devices: int,
    places: int,
    batch: int,
    length: int,
    width: int,
    asked: Execution = AS_SUITS,
    precision: str = "float32",
    kv_heads: int = 1,
    neurons: int = 0,
) -> Layout:
    """The layout of a population of `places` members, `width` wide, with batches of `batch` rows of `length` tokens.

    Members are spread over the devices. Where there are fewer of them than devices, so is the batch of each, over as
    many as divide it; what devices are left have nothing to do. A model that lies over several devices takes all of
    them, and its members come in turn; a layer has so many `kv_heads` and `neurons`. Raises Unfit where the devices,
    the batch or the model's sides cannot be divided as `asked`.
    """
    over = asked.fsdp * asked.tensor
    if asked.fused and platform != "gpu":
        raise Unfit("fused", f"there are such kernels for a GPU, not for a {platform.upper()}")
    for size, named in ((kv_heads, "key-value heads"), (neurons, "neurons")):
        if size % asked.tensor:
            raise Unfit("tensor", f"{asked.tensor} devices do not divide the model's {size} {named}")
    if devices % over:
        raise Unfit(
            "fsdp", f"{asked.fsdp} x {asked.tensor} devices for a model do not divide {devices} devices"
        )
    if width % over:
        field = "fsdp" if asked.fsdp > 1 else "tensor"
        raise Unfit(field, f"{over} devices do not divide the model's width of {width}")
    if over > 1:
        data = devices // over
        if asked.data not in (0, data):
            raise Unfit(
                "data", f"of {devices} devices, {over} for a model, {data} share a batch, not {asked.data}"
            )
    elif asked.data:
        data = asked.data
        if devices % data:
            raise Unfit("data", f"{data} devices for a batch do not divide {devices} devices")
    else:
        data = next(n for n in range(max(1, devices // places), 0, -1) if batch % n == 0)
    groups = min(places, devices // (data * over))
    if batch % (data * asked.fsdp):
        raise Unfit(
            "data" if data > 1 else "fsdp", f"{data * asked.fsdp} devices do not divide a batch of {batch}"
        )
    own, rows = batch // (data * asked.fsdp), 0
    # Devices of `tensor` have the same rows, and each its share of their tokens.
    shared = [rows for rows in range(1, own + 1) if own % rows == 0 and rows * length % asked.tensor == 0]
    if not shared:
        raise Unfit(
            "tensor", f"{own} rows of {length} tokens have no equal shares for {asked.tensor} devices"
        )
    if asked.rows:
        if own % asked.rows:
            raise Unfit(
                "rows", f"{asked.rows} rows at a time do not divide the {own} that a device has of a batch"
            )
        rows = asked.rows
        if rows not in shared:
            raise Unfit(
                "rows", f"{rows} rows of {length} tokens have no equal shares for {asked.tensor} devices"
            )
    elif platform in AT_A_TIME:
        tokens = next(tokens for widest, tokens in AT_A_TIME[platform] if width <= widest)
        most = max(1, tokens // length)
        rows = max((rows for rows in shared if rows <= most), default=shared[0])
    stacked = over == 1 and MEMBERS_LIE.get(platform, "stacked") == "stacked"
    return Layout(
        beside=-(-places // groups) if stacked else 0,
        rows=rows if rows < own else 0,
        data=data,
        fsdp=asked.fsdp,
        tensor=asked.tensor,
        compute=replace(
            FLOAT32,
            precision=precision,
            kernel=kernel_of(platform),
            remat=asked.remat,
            sharded=over > 1,
            fused=asked.fused,
        ),
        groups=groups,
    )
