"""The peer of the training benchmarks: the same architecture and step in PyTorch, as one would write it.

Qwen3 dense as in caml/models/transformer.py, causal attention by PyTorch's own kernel, AdamW fused. It is spared what
ours honours besides: documents in a sequence see each other here. Run as a process of its own, it prints the tokens a
second of each stretch of steps.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn


class Norm(nn.Module):
    """Root-mean-square normalisation."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Over the last axis."""
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-6)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the halves of each head against each other."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Layer(nn.Module):
    """Attention and MLP, each normalised before and added to the stream."""

    def __init__(self, width: int, heads: int, head: int, mlp: int):
        super().__init__()
        self.heads, self.head = heads, head
        self.before, self.between = Norm(width), Norm(width)
        self.q_norm, self.k_norm = Norm(self.head), Norm(self.head)
        inner = heads * head
        self.qkv, self.out = nn.Linear(width, 3 * inner, bias=False), nn.Linear(inner, width, bias=False)
        self.gate_up, self.down = nn.Linear(width, 2 * mlp, bias=False), nn.Linear(mlp, width, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """The stream `[B, T, width]` after this layer."""
        rows, length, _ = x.shape
        q, k, v = (
            part.view(rows, length, self.heads, self.head).transpose(1, 2)
            for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        q, k = rotate(self.q_norm(q), cos, sin), rotate(self.k_norm(k), cos, sin)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, -1))
        gate, up = self.gate_up(self.between(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Qwen3(nn.Module):
    """The model with tied embeddings; its output is the mean loss of the next tokens."""

    def __init__(self, a: argparse.Namespace):
        super().__init__()
        self.embed = nn.Embedding(a.vocabulary, a.width)
        self.layers = nn.ModuleList([Layer(a.width, a.heads, a.head, a.mlp) for _ in range(a.layers)])
        self.norm = Norm(a.width)
        half = a.head // 2
        angles = torch.arange(a.length)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean nats of `targets`, both `[B, T]`."""
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.cross_entropy(F.linear(self.norm(x), self.embed.weight).flatten(0, 1), targets.flatten())


def main() -> None:
    """Train on tokens by chance; a line of JSON with the tokens a second of each stretch."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in (
        "width", "layers", "heads", "head", "mlp", "vocabulary", "length", "batch", "steps", "stretches",
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="products by autocast, parameters in float32")
    a = parser.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    model = Qwen3(a).to(a.device)
    run = torch.compile(model) if a.compile else model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    data = torch.randint(
        0, a.vocabulary, (a.steps * (a.stretches + 1), a.batch, a.length + 1), device=a.device
    )

    def step(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(a.device, torch.bfloat16, enabled=a.bfloat16):
            loss = run(rows[:, :-1], rows[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    rates = []
    for stretch in range(a.stretches + 1):  # the first warms up
        begun = time.perf_counter()
        for rows in data[stretch * a.steps : (stretch + 1) * a.steps]:
            loss = step(rows)
        loss.item()
        rates.append(a.steps * a.batch * a.length / (time.perf_counter() - begun))
    print(json.dumps(rates[1:]))


if __name__ == "__main__":
    main()
