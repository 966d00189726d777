"""On one GPU, in bfloat16: a model of 124M against PyTorch, and populations of small models against one of them alone.

Each in a process of its own, in turn, several rounds; medians over dispatches. The peer is compiled by `torch.compile`,
its attention is PyTorch's flash attention, its AdamW fused. `--tiny` runs the same on any machine in seconds, and
measures nothing: it is for trying this file.
"""

import argparse
import json

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
    parser.add_argument("--alone", action="store_true", help="without the peer, where there is no PyTorch")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    cases = TINY if asked.tiny else CASES
    tiny = ["--tiny"] if asked.tiny else []
    if asked.ours:
        case, members = cases[asked.ours[0]], int(asked.ours[1])
        rates = train_here(case, members, case.steps * (STRETCHES + 1), members, precision="bfloat16")
        print(json.dumps([rates, *flops_of(case)]))
        return

    def ours(name: str, members: int) -> tuple[list[float], float, float | None]:
        """Rates, FLOPs of a token, and those of the device in a second."""
        return tuple(printed(["benchmarks.accelerator", *tiny, "--ours", name, str(members)]))

    one: list[float] = []
    theirs: list[float] = []
    case = cases["124M"]
    device = "cpu" if asked.tiny else "cuda"
    peer = [*peer_of(case, STRETCHES), "--compile", "--bfloat16", f"--device={device}"]
    if not asked.alone:
        require_torch()
    for _ in range(asked.rounds):
        rates, flops, peak = ours("124M", 1)
        one += rates
        theirs += [] if asked.alone else printed(peer)
    mine = float(np.median(one))
    if theirs:
        peers = float(np.median(theirs))
        spread = {"ours": one, "peer": theirs}
        told = f"{case.told}, bfloat16; PyTorch compiled"
        line("accelerator", told, mine, peers, "tokens/s", mine / peers, 1.1, spread)
    if peak:
        shares = [flops * rate / peak for rate in one]
        share = float(np.median(shares))
        told = f"{case.told}, bfloat16; model FLOP utilisation (causal), of {peak:.3g} FLOP/s"
        line(
            "accelerator",
            told,
            share,
            UTILISATION,
            "of the peak",
            share / UTILISATION,
            1.0,
            {"ours": shares},
        )
    for name, members, goal in POPULATIONS:
        together, alone = [], []
        for _ in range(asked.rounds):
            together += ours(name, members)[0]
            alone += ours(name, 1)[0]
        all_of_them, single = float(np.median(together)), float(np.median(alone))
        told = f"{members} members of {cases[name].told}, bfloat16; one such model alone"
        spread = {"ours": together, "peer": alone}
        line("accelerator", told, all_of_them, single, "tokens/s", all_of_them / single, goal, spread)


def flops_of(case: Case) -> tuple[float, float | None]:
    """FLOPs of training on a token, and those that this device does in a second at most, where that is known."""
    import jax

    from caml.models.sizes import Model
    from caml.training.instruments import peak_flops, training_flops

    model = Model(case.name, case.width, case.layers, case.heads, case.heads, case.head, case.mlp)
    peak = peak_flops(jax.devices()[0].device_kind, "bfloat16")
    return training_flops(model, case.vocabulary, case.length), peak


if __name__ == "__main__":
    main()
