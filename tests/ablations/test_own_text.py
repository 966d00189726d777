"""A run on text of files: what training was given, counted anew from the stores' files, is what manifests say."""

import json
import random
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from whole_runs import HERE, manifests, run

from caml.data.tokenizer import Tokenizer

LENGTH = 64
WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "pu") for b in ("ra", "sto", "vi", "xen", "zu")]
GUARDED = "seven kind owls helped one small fox"


class Sequence(NamedTuple):
    """What stands in one sequence of a store besides its tokens."""

    documents: int  # that begin in it
    loss_tokens: int


def write_texts(folder: Path) -> None:
    """Texts of random words; each corpus has documents that hygiene leaves out, and some longer than a sequence."""
    rng = random.Random(0)

    def texts(count: int, least: int, most: int) -> list[str]:
        made = [" ".join(rng.choices(WORDS, k=rng.randint(least, most))) for _ in range(count)]
        return [*made, made[3], f"{made[4]} {GUARDED}"]

    def rows(found: list[dict]) -> str:
        return "\n".join(map(json.dumps, found))

    talks = [
        {
            "messages": [
                {"role": role, "content": text}
                for role, text in zip(("user", "assistant"), talk, strict=True)
            ]
        }
        for talk in zip(texts(60, 2, 6), texts(60, 2, 9), strict=True)
    ]
    (folder / "base.txt").write_text("\n".join(texts(120, 5, 30)))
    (folder / "care.jsonl").write_text(rows([{"text": text} for text in texts(20, 10, 80)]))
    (folder / "pool.txt").write_text("\n\n".join(texts(90, 5, 120)))
    (folder / "chats.jsonl").write_text(rows(talks))
    (folder / "held_out.txt").write_text("\n".join(texts(9, 5, 20)[:9]))
    (folder / "items.jsonl").write_text(rows([{"context": GUARDED, "aligned": "kind", "opposed": "cruel"}]))


def sequences(store: Path, loss: str) -> dict[tuple[int, ...], Sequence]:
    """The sequences of a store by their tokens, by the plainest loop over its files."""
    tokens = np.fromfile(store / "tokens.bin", json.loads((store / "manifest.json").read_text())["dtype"])
    bears = np.fromfile(store / "loss.bin", np.uint8) > 0
    found: dict[tuple[int, ...], Sequence] = {}
    held: list[int] = []
    documents = loss_tokens = 0

    def close() -> None:
        assert tuple(held) not in found
        found[tuple(held)] = Sequence(documents, loss_tokens)

    for begin, end in pairwise(np.load(store / "bounds.npy").tolist()):
        for start in range(begin, end, LENGTH):
            stop = min(start + LENGTH, end)
            if len(held) + stop - start > LENGTH:
                close()
                held, documents, loss_tokens = [], 0, 0
            held += tokens[start:stop].tolist()
            documents += start == begin
            loss_tokens += stop - start - 1 if loss == "all" else int(bears[start + 1 : stop].sum())
    close()
    return found


def given(folder: Path, stagerun: str, steps: int) -> list[np.ndarray]:
    """Tokens, segments and weights that training was given for a StageRun, each step once: `[slots, LENGTH]`."""
    parts = {int(path.stem): dict(np.load(path)) for path in (folder / "seen" / stagerun).glob("*.npz")}
    in_order = [parts[first] for first in sorted(parts)]
    begun = np.cumsum([0, *(len(part["tokens"]) for part in in_order)])
    assert sorted(parts) == begun[:-1].tolist() and begun[-1] == steps
    fields = ("tokens", "segments", "weights")
    return [np.concatenate([part[field] for part in in_order]).reshape(-1, LENGTH) for field in fields]


def assert_counted(folder: Path, stagerun: str, manifest: dict[str, Any]) -> None:
    """The manifest's counts are those of the batches, whose every sequence is one of the stores' files."""
    tokens, segments, weights = given(folder, stagerun, manifest["steps"])
    rows = [tuple(row[inside].tolist()) for row, inside in zip(tokens, segments > 0, strict=True)]
    shares = {"intervention": 0.25, "second": 0.125}
    shares["base"] = 1 - sum(shares.get(role, 0) for role in manifest["sources"])
    seen = 0
    for role, source in manifest["sources"].items():
        (store,) = (folder / "runs/stores").glob(f"{source['name']}-*")
        known = sequences(store, "assistant" if manifest["stage"] == "sft" else "all")
        taken = [row for row in rows if row in known]
        slots, held = len(taken), sum(map(len, taken))
        assert source == {
            "name": source["name"],
            "requested_slots": shares[role] * len(rows),
            "slots": slots,
            "documents": sum(known[row].documents for row in taken),
            "tokens": held,
            "padding": slots * LENGTH - held,
            "loss_tokens": sum(known[row].loss_tokens for row in taken),
            "epochs": slots / len(known),
            "cut": (np.diff(np.load(store / "bounds.npy")) > LENGTH).sum(),
        }
        assert slots == round(shares[role] * len(rows)) > 0
        assert np.count_nonzero(weights[[row in known for row in rows]]) == source["loss_tokens"]
        seen += slots
    assert seen == len(rows)  # each is of one source


def test_manifests_count_what_training_was_given(
    tmp_path: Path, cache: Path, stored: Callable[[Path], None]
) -> None:
    write_texts(tmp_path)
    stored(tmp_path / "runs")
    seeing = [sys.executable, str(HERE / "seeing.py"), "seen"]
    done = run([*seeing, "run", str(HERE / "own_text.gin")], tmp_path, cache)
    assert done.returncode == 0, done.stderr
    found = manifests(tmp_path / "runs")
    assert len(found) == 12
    for stagerun, manifest in found.items():
        assert_counted(tmp_path, stagerun, manifest)
        names = {role: source["name"] for role, source in manifest["sources"].items()}
        if manifest["stage"] == "sft":
            assert names == {"base": "chats", "second": "base"}
        else:
            arm = manifest["arm"]
            assert names == {"base": "base"} | ({} if arm == "base" else {"intervention": arm})
    # What hygiene leaves out is in no batch.
    for name in ("base", "care", "pool", "chats"):
        (path,) = (tmp_path / "runs/stores").glob(f"{name}-*/manifest.json")
        assert json.loads(path.read_text())["left_out"] == {"duplicate": 1, "overlap": 1}
    tokenizer = Tokenizer.load(next((tmp_path / "runs/tokenizers").glob("*/tokenizer.json")))
    for path in (tmp_path / "seen").glob("*/*.npz"):
        assert GUARDED not in tokenizer.decode(np.load(path)["tokens"].ravel().tolist())
    # The arms of a seed block differ in nothing that is counted.
    for seed in (0, 1):
        treated = [m for m in found.values() if m["seed"] == seed and "intervention" in m["sources"]]
        one, other = (m["sources"] for m in treated)
        assert {sources["intervention"].pop("name") for sources in (one, other)} == {"care", "matched"}
        assert one == other and one["intervention"]["epochs"] > 1 and one["intervention"]["cut"] > 0
