"""The size of a model: the shape of its layers, and how many parameters that makes."""

import re
from dataclasses import dataclass

from caml.config.errors import require

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True)
class Model:
    """A Qwen3 dense transformer, without the vocabulary (the tokenizer decides that).

    With a `base_width`, `init_scale` and the learning rates of its stages are those of a model of that width, and are
    carried over to this one, so that sizes can be compared at one setting (muP: Yang et al. 2022, Tensor Programs V,
    arXiv 2203.03466): matrices begin smaller by the square root of `transfer`, the last normalisation, which stands for
    the output's multiplier, by `transfer`, and steps of both by AdamW are smaller by `transfer`. Muon's steps have the
    right size at every width already (Yang et al. 2023, arXiv 2310.17813). 0: all numbers are used as they are.
    """

    name: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_width: int
    tied_embeddings: bool = True
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-6
    init_scale: float = 0.02
    base_width: int = 0

    def __post_init__(self) -> None:
        require(
            NAME.fullmatch(self.name) is not None,
            "name",
            "a size is named with up to 40 letters, digits, '-', '_' and '.', beginning with a letter or a digit",
        )
        for field in ("width", "layers", "heads", "kv_heads", "head_dim", "mlp_width"):
            value = getattr(self, field)
            require(value >= 1, field, f"{value} is not a positive number")
        # Not heads x head_dim == width: published sizes of this architecture (0.6B: width 1024, 16 heads
        # of 128) differ there, while in all of them the heads divide the width.
        require(
            self.width % self.heads == 0,
            "width",
            f"a width of {self.width} cannot be divided by {self.heads} heads",
            "heads",
        )
        require(
            self.heads % self.kv_heads == 0,
            "kv_heads",
            f"{self.kv_heads} key-value heads do not divide {self.heads} heads",
            "heads",
        )
        require(
            self.head_dim % 2 == 0,
            "head_dim",
            f"{self.head_dim} is odd; rotary positions turn pairs of numbers, so it must be even",
        )
        require(self.base_width >= 0, "base_width", f"{self.base_width} is no width, nor 0 for its own")
        for field in ("rope_theta", "norm_epsilon", "init_scale"):
            value = getattr(self, field)
            require(0 < value < float("inf"), field, f"{value} is not a positive finite number")

    @property
    def transfer(self) -> float:
        """The width for which rates and scale were chosen, as a share of this one's; 1 without a `base_width`."""
        return self.base_width / self.width if self.base_width else 1.0

    @property
    def _matrices(self) -> int:
        """Count of parameters in the matrices of all layers."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp_width)

    def parameters(self, vocab: int) -> tuple[int, int]:
        """Counts of parameters outside the embedding tables, and in them (both tables where untied)."""
        norms = self.layers * (2 * self.width + 2 * self.head_dim) + self.width
        tables = 1 if self.tied_embeddings else 2
        return self._matrices + norms, tables * vocab * self.width

    def training_flops(self, vocab: int, length: int, preference: bool = False) -> float:
        """Floating-point operations of training for one token of rows of `length` tokens, forward and backward.

        6 for each parameter of a matrix: those of the layers, and the output matrix, tied or not; looking an embedding
        up takes none. For attention 12 x layers x heads x head_dim x length, of which half is counted, the causal
        convention: what a mask hides need not be computed. PaLM, arXiv 2204.02311, appendix B, counts the whole square.
        Documents packed in a row count as one. A preference loss takes a forward pass of its reference besides: 8
        for 6.

        Not counted: norms, rotations, softmax, the optimizer, and what a program computes again or another way.
        """
        scores = self.layers * self.heads * self.head_dim * length
        return (8.0 if preference else 6.0) * (self._matrices + vocab * self.width + scores)
