"""Probe items by 8 models: our population, and `transformers` on the exported models, one after the other.

Items are the small world's probes, with words of their contexts changed so that no two are alike. Both are given token
ids; both are timed after one pass, which compiles. The peer (PyTorch) reads a context with each of its continuations,
64 rows of about equal length at once, without gradients; ours reads the continuations without their context too, which
one of its margins takes. It needs PyTorch and transformers:
`.venv/bin/python -m pip install torch==2.13.0 transformers`.
"""

import argparse
import dataclasses
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

MEMBERS, BATCH = 8, 64
SMALL = Case("29k", 32, 2, 4, 16, 64, 128, 64, 16, 1)
# Case -> how many times as fast it is to be.
GOALS = {"29k": 5.0, "6M": 2.0}


def _case(name: str) -> Case:
    return SMALL if name == SMALL.name else CASES[name]


def checkpoint(case: Case, seed: int) -> Any:
    """A model that nobody trained, in the size of a case."""
    from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
    from caml.evals.checkpoint import Checkpoint
    from caml.models.sizes import Model
    from caml.models.transformer import init_parameters
    from caml.worlds.sources import BaseText, Words

    recipe = (
        TrainedTokenizer("words", case.vocabulary, Words())
        if case is SMALL
        else TrainedTokenizer("bpe", case.vocabulary, BaseText(200_000))
    )
    model = Model(case.name, case.width, case.layers, case.heads, case.heads, case.head, case.mlp)
    params = init_parameters(model, case.vocabulary, seed)
    return Checkpoint(
        f"{case.name}-{seed}", params, model, case.vocabulary, train_tokenizer(recipe), 128, "chatml", {}
    )


def items(count: int) -> list[Any]:
    """So many probe items of the small world, a word of each context changed by chance until no two are alike."""
    from caml.worlds.sources import WorldProbes

    probes = [
        item for item in WorldProbes().items(0) if all(isinstance(q.context, str) for q in item.questions)
    ]
    words = sorted({word for item in probes for q in item.questions for word in q.text.split()})
    rng, found, seen = np.random.default_rng(0), list[Any](), set[str]()
    while len(found) < count:
        item = probes[len(found) % len(probes)]
        asked = []
        for question in item.questions:
            context = question.text.split()
            while (text := " ".join(context)) in seen:
                context[rng.integers(len(context))] = words[rng.integers(len(words))]
            seen.add(text)
            asked.append(dataclasses.replace(question, context=text))
        found.append(dataclasses.replace(item, name=f"{item.name}/{len(found)}", questions=tuple(asked)))
    return found


def ours(case: Case, count: int, folder: Path) -> tuple[list[float], list[list[float]]]:
    """Seconds of each pass, and each member's margins."""
    from caml.training.devices import prepare_devices

    prepare_devices()
    import jax

    from caml.evals import scoring
    from caml.evals.questions import question_rows
    from caml.training.mesh import member_mesh
    from caml.training.population import stack

    models = [checkpoint(case, seed) for seed in range(MEMBERS)]
    questions = question_rows(items(count), models[0].tokenizer)
    params = jax.tree.map(np.asarray, stack([one.params for one in models]))
    rows = jax.tree.map(lambda x: np.stack([x] * MEMBERS), questions.rows)
    score = scoring.build(models[0].model, member_mesh())
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        found = score(params, params, rows, None)["log_probs"]
        margins = [questions.margins(member)["margin"].tolist() for member in found]
        seconds.append(time.perf_counter() - begun)
    return seconds[1:], margins


def peer(case: Case, count: int, folder: Path) -> tuple[list[float], list[list[float]]]:
    """The same by `transformers`."""
    import torch
    from transformers import AutoModelForCausalLM

    rows, endings, item, sign = np.load(folder / "rows.npz", allow_pickle=True).values()
    order = np.argsort([len(row) for row in rows], kind="stable")
    asked = np.bincount(item)
    models = [
        AutoModelForCausalLM.from_pretrained(folder / str(seed)).float().eval() for seed in range(MEMBERS)
    ]
    seconds: list[float] = []
    margins: list[list[float]] = []
    for _ in range(2):
        begun, margins = time.perf_counter(), []
        for model in models:
            found = np.zeros(len(rows))
            with torch.inference_mode():
                for start in range(0, len(rows), BATCH):
                    own = order[start : start + BATCH]
                    length = max(len(rows[i]) for i in own)
                    tokens = torch.tensor([[*rows[i], *[0] * (length - len(rows[i]))] for i in own])
                    mask = torch.tensor([[1] * len(rows[i]) + [0] * (length - len(rows[i])) for i in own])
                    logits = model(input_ids=tokens, attention_mask=mask).logits
                    likely = torch.log_softmax(logits[:, :-1], -1).gather(-1, tokens[:, 1:, None])[..., 0]
                    for place, i in enumerate(own):
                        end = len(rows[i]) - 1
                        found[i] = likely[place, end - endings[i] : end].sum()
            margins.append((np.bincount(item, found * sign) / (asked / 2)).tolist())
        seconds.append(time.perf_counter() - begun)
    return seconds[1:], margins


def write_models(case: Case, number_of: int, folder: Path) -> None:
    """The models in the format of Hugging Face, and the rows that the peer reads."""
    from caml.evals.questions import encoded
    from caml.exchange.models import write_folder

    for seed in range(MEMBERS):
        one = checkpoint(case, seed)
        write_folder(one, folder / str(seed), "# benchmark\n", {})
    rows, endings, item, sign = [], [], [], []
    for number, asked in enumerate(items(number_of)):
        for context, continuations in encoded(asked.questions, one.tokenizer):
            for ending, turned in zip(continuations, (1, -1), strict=True):
                rows.append([*context, *ending])
                endings.append(len(ending))
                item.append(number)
                sign.append(turned)
    listed = np.empty(len(rows), object)
    listed[:] = rows
    np.savez(folder / "rows.npz", rows=listed, endings=endings, item=item, sign=np.array(sign))


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--here", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.here:
        print(
            json.dumps(
                {"ours": ours, "peer": peer}[asked.here](_case(asked.cases[0]), asked.items, asked.folder)
            )
        )
        return
    for module in ("torch", "transformers"):
        if importlib.util.find_spec(module) is None:
            sys.exit("the peer needs .venv/bin/python -m pip install torch==2.13.0 transformers")
    for name in asked.cases:
        with tempfile.TemporaryDirectory() as root:
            folder = Path(root)
            write_models(_case(name), asked.items, folder)
            rates: dict[str, list[float]] = {"ours": [], "peer": []}
            margins: dict[str, Any] = {}
            for _ in range(asked.rounds):
                for who in rates:
                    asked_of = [
                        "benchmarks.scoring",
                        "--here",
                        who,
                        "--cases",
                        name,
                        "--items",
                        str(asked.items),
                    ]
                    seconds, margins[who] = printed([*asked_of, "--folder", str(folder)])
                    rates[who] += [MEMBERS * asked.items / s for s in seconds]
        off = float(np.abs(np.array(margins["ours"]) - np.array(margins["peer"])).max())
        medians = {who: float(np.median(found)) for who, found in rates.items()}
        line(
            "scoring",
            f"{asked.items:,} items by {MEMBERS} models of {name}; margins alike to {off:.1g} nats",
            medians["ours"],
            medians["peer"],
            "items/s",
            medians["ours"] / medians["peer"],
            GOALS[name],
            {who: [min(found), max(found)] for who, found in rates.items()},
        )


if __name__ == "__main__":
    main()
