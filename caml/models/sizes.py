"""The size of a model: the shape of its layers, and how many parameters that makes."""

import re
from dataclasses import dataclass

from caml.config.errors import require

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True)
class Model:
    """A Qwen3 dense transformer, without the vocabulary (the tokenizer decides that)."""

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
        for field in ("rope_theta", "norm_epsilon", "init_scale"):
            value = getattr(self, field)
            require(0 < value < float("inf"), field, f"{value} is not a positive finite number")

    def parameters(self, vocab: int) -> tuple[int, int]:
        """Counts of parameters outside the embedding tables, and in them (both tables where untied)."""
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        norms = 2 * self.width + 2 * self.head_dim
        layer = attention + 3 * self.width * self.mlp_width + norms
        tables = 1 if self.tied_embeddings else 2
        return self.layers * layer + self.width, tables * vocab * self.width
