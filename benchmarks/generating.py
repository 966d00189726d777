"""64 prompts of unequal length answered with 64 tokens each: our generator, and `transformers` on the exported model.

Both in processes of their own, in turn, several rounds; the first answer of each process, which compiles, is not timed.
The peer (PyTorch, batch 64, padded on the left, cache on) opens the folder that ours wrote; tokens are compared.
It needs PyTorch and transformers: `.venv/bin/python -m pip install torch==2.13.0 transformers`.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lines import line, printed
from benchmarks.training import CASES, Case

PROMPTS, TOKENS, CONTEXT = 64, 64, 128
STRETCHES = 4


def prompts(case: Case) -> list[list[int]]:
    """Prompts of 8 to 64 tokens by chance, none of them special."""
    rng = np.random.default_rng(0)
    return [rng.integers(3, case.vocabulary, rng.integers(8, 64)).tolist() for _ in range(PROMPTS)]


def write_model(case: Case, folder: Path) -> None:
    """A model that nobody trained, exported; its special tokens are never the likeliest."""
    from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
    from caml.evals.checkpoint import Checkpoint
    from caml.exchange.models import write_folder
    from caml.models.sizes import Model
    from caml.models.transformer import init_parameters
    from caml.worlds.sources import BaseText

    model = Model(
        case.name, case.width, case.layers, case.heads, case.heads, case.head, case.mlp, init_scale=0.1
    )
    params = init_parameters(model, case.vocabulary, 0)
    params["model.embed_tokens.weight"][:3] = 0.0
    tokenizer = train_tokenizer(TrainedTokenizer("bpe", case.vocabulary, BaseText(20_000)))
    checkpoint = Checkpoint(case.name, params, model, case.vocabulary, tokenizer, CONTEXT, "chatml", {})
    write_folder(checkpoint, folder, "# benchmark\n", {})


def ours(case: Case, folder: Path) -> tuple[list[float], Any]:
    """Seconds of each stretch, and the tokens."""
    from caml.training.devices import prepare_devices

    prepare_devices()
    from caml.ablations.opening import open_folder
    from caml.evals.generation import Sampling
    from caml.evals.prompting import generator

    found = []
    with generator(open_folder(folder), PROMPTS) as model:
        for _ in range(1 + STRETCHES):
            begun = time.perf_counter()
            answers = list(model.generate(prompts(case), Sampling(max_tokens=TOKENS)))
            found.append(time.perf_counter() - begun)
    return found[1:], [answer.tokens for answer in answers]


def peer(case: Case, folder: Path) -> tuple[list[float], Any]:
    """The same by `transformers`."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    asked = prompts(case)
    longest = max(map(len, asked))
    tokens = torch.tensor([[0] * (longest - len(row)) + row for row in asked])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in asked])
    found = []
    for _ in range(1 + STRETCHES):
        begun = time.perf_counter()
        with torch.inference_mode():
            made = model.generate(
                input_ids=tokens, attention_mask=mask, do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS
            )  # fmt: skip
        found.append(time.perf_counter() - begun)
    return found[1:], made[:, longest:].tolist()


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="6M")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--here", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    case = CASES[asked.case]
    if asked.here:
        print(json.dumps({"ours": ours, "peer": peer}[asked.here](case, asked.folder)))
        return
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            sys.exit("the peer needs .venv/bin/python -m pip install torch==2.13.0 transformers")
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        write_model(case, folder)
        for _ in range(asked.rounds):
            for who in rates:
                asked_of = [
                    "benchmarks.generating",
                    f"--here={who}",
                    f"--folder={folder}",
                    f"--case={case.name}",
                ]
                seconds, made[who] = printed(asked_of)
                rates[who] += [PROMPTS * TOKENS / x for x in seconds]
    same = np.mean([a == b for a, b in zip(made["ours"], made["peer"], strict=True)])
    mine, theirs = (float(np.median(rates[who])) for who in rates)
    told = f"{case.name}, {PROMPTS} prompts x {TOKENS} tokens, greedy; {same:.0%} of the answers alike"
    line("generating", told, mine, theirs, "tokens/s", mine / theirs, 1.0, rates)


if __name__ == "__main__":
    main()
