"""How a model is computed: in what precision, by which kernel of attention, and what is kept for the backward pass."""

from dataclasses import dataclass

PRECISIONS = ("float32", "bfloat16")
REMATERIALISATION = ("none", "products", "layers")


@dataclass(frozen=True)
class Compute:
    """Nothing here changes what is computed but in its rounding, its memory and its time.

    `precision` is that of products and of the stream between layers; parameters, normalisation, softmax and loss are in
    float32 always. `kernel` is of attention (caml/models/attention.py; empty: the platform's). `remat` says what the
    backward pass computes again: `none`, all but the outputs of `products`, or all inside `layers`. `sharded`: the
    model lies over several devices, and this is of one of them (caml/models/sharded.py). `fused`: what lies between
    products is computed in fewer passes over memory, by kernels that only a GPU has (elsewhere they are interpreted,
    slowly), and logits of next-token losses lie there in `precision`.
    """

    precision: str = "float32"
    kernel: str = ""
    remat: str = "none"
    sharded: bool = False
    fused: bool = False


FLOAT32 = Compute()
