"""On one GPU, in bfloat16: a model of 124M against PyTorch, and populations of small models against one of them alone.

Each in a process of its own, in turn, several rounds, as it is and with `Execution.fused`; medians over dispatches. The
peer is compiled by `torch.compile`, its attention is PyTorch's flash attention, its AdamW fused. `--tiny` runs the same
on any machine in seconds, and measures nothing: it is for trying this file.
"""

import argparse
import json
import shutil
from collections.abc import Callable

import numpy as np

from benchmarks.lines import line, printed
from benchmarks.training import Case, peer_of, require_torch, train_here

STRETCHES = 5
CASES = {
    "124M": Case("124M", 768, 12, 12, 64, 2048, 50_257, 1024, 16, 8),
    "3M": Case("3M", 192, 6, 6, 32, 512, 4096, 256, 16, 8),
    "30M": Case("30M", 512, 9, 8, 64, 1408, 16_384, 512, 16, 8),
}
TINY = {name: Case(name, 32, 1, 2, 16, 64, 128, 64, 2, 2) for name in CASES}
# Size, members together, and how many times the tokens a second of one alone they are to reach.
POPULATIONS = (("3M", 32, 6.0), ("30M", 8, 1.5))
UTILISATION = 0.45


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--ways", nargs="+", choices=("plain", "fused"), help="both, but with --tiny")
    parser.add_argument("--alone", action="store_true", help="without the peer, where there is no PyTorch")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--ours", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cases = TINY if asked.tiny else CASES
    tiny = ["--tiny"] if asked.tiny else []
    if asked.rounds < 1:
        parser.error("--rounds is at least 1")
    if "fused" in (asked.ways or ()) and not shutil.which("nvidia-smi"):
        parser.error("--ways fused needs a GPU")
    asked.ways = asked.ways or (["plain"] if asked.tiny else ["plain", "fused"])
    if asked.ours:
        name, members, way = asked.ours
        case, places = cases[name], int(members)
        fused = way == "fused"
        steps = case.steps * (STRETCHES + 1)
        rates = train_here(case, places, steps, places, precision="bfloat16", fused=fused)
        print(json.dumps([rates, *flops_of(case)]))
        return

    def ours(name: str, members: int, way: str) -> tuple[list[float], float, float | None]:
        """Rates, FLOPs of a token, and those of the device in a second."""
        return tuple(printed(["benchmarks.accelerator", *tiny, "--ours", name, str(members), way]))

    if "124M" in asked.sizes:
        one_model(cases["124M"], asked, ours)
    for name, members, goal in POPULATIONS:
        if name in asked.sizes:
            population(cases[name], members, goal, asked, ours)


def told_of(case: Case, way: str) -> str:
    """The case, in words."""
    return f"{case.told}, bfloat16{', fused' if way == 'fused' else ''}"


def one_model(case: Case, asked: argparse.Namespace, ours: Callable) -> None:
    """One model against PyTorch, and against the device's peak."""
    found: dict[str, list[float]] = {way: [] for way in asked.ways}
    theirs: list[float] = []
    peer = [
        *peer_of(case, STRETCHES),
        "--compile",
        "--bfloat16",
        f"--device={'cpu' if asked.tiny else 'cuda'}",
    ]
    if not asked.alone:
        require_torch()
    flops: float = 0
    peak: float | None = None
    for _ in range(asked.rounds):
        for way, rates in found.items():
            more, flops, peak = ours(case.name, 1, way)
            rates += more
        theirs += [] if asked.alone else printed(peer)
    for way, rates in found.items():
        mine, told = float(np.median(rates)), told_of(case, way)
        if theirs:
            peers, spread = float(np.median(theirs)), {"ours": rates, "peer": theirs}
            line(
                "accelerator", f"{told}; PyTorch compiled", mine, peers, "tokens/s", mine / peers, 1.1, spread
            )
        if peak:
            shares = [flops * rate / peak for rate in rates]
            share, goal = float(np.median(shares)), UTILISATION
            told += f"; model FLOP utilisation (causal), of {peak:.3g} FLOP/s"
            line("accelerator", told, share, goal, "of the peak", share / goal, 1.0, {"ours": shares})


def population(case: Case, members: int, goal: float, asked: argparse.Namespace, ours: Callable) -> None:
    """So many models together, against one of them alone."""
    found: dict[tuple[str, int], list[float]] = {(way, n): [] for way in asked.ways for n in (members, 1)}
    for _ in range(asked.rounds):
        for (way, n), rates in found.items():
            rates += ours(case.name, n, way)[0]
    for way in asked.ways:
        together, alone = found[way, members], found[way, 1]
        all_of_them, single = float(np.median(together)), float(np.median(alone))
        told = f"{members} members of {told_of(case, way)}; one such model alone"
        spread = {"ours": together, "peer": alone}
        line("accelerator", told, all_of_them, single, "tokens/s", all_of_them / single, goal, spread)


def flops_of(case: Case) -> tuple[float, float | None]:
    """FLOPs of training on a token, and those that this device does in a second at most, where that is known."""
    import jax

    from caml.models.sizes import Model
    from caml.training.instruments import peak_flops

    model = Model(case.name, case.width, case.layers, case.heads, case.heads, case.head, case.mlp)
    peak = peak_flops(jax.devices()[0].device_kind, "bfloat16")
    return model.training_flops(case.vocabulary, case.length), peak


if __name__ == "__main__":
    main()
