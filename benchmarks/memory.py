"""Memory of writing a token store, whatever the size of the input, and what a document costs near-duplicate removal."""

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.lines import Memory, line, write_jsonl
from caml.data import processes
from caml.data.corpora.files import Files
from caml.data.hygiene.duplicates import FirstSeen
from caml.data.hygiene.hygiene import Hygiene
from caml.data.preparing import prepare_corpus
from caml.data.tokenizer_recipes import TOKENIZER, TrainedTokenizer, prepare_tokenizer, tokenizer_folder

LIMIT = 1e9


def most(root: Path, text: Path, name: str, hygiene: Hygiene) -> tuple[float, int]:
    """The most bytes in memory while the store of `text` is written, and its documents."""
    trained = TrainedTokenizer("bpe", 8192, Files(name="text", path=str(root / "sample.jsonl")))
    tokenizer = prepare_tokenizer(root / "tokenizers", trained)
    file = tokenizer_folder(root / "tokenizers", trained) / TOKENIZER
    with Memory() as memory:
        store = prepare_corpus(
            root / "stores", Files(name=name, path=str(text), hygiene=hygiene), trained, tokenizer, file
        )
    return float(memory.most), store.manifest.rows


def of_a_document(root: Path, millions: int = 3, keys: int = 15) -> float:
    """Bytes in memory that a document costs while its keys (14 bands and the exact one) are compared, on disk."""
    rng = np.random.default_rng(0)
    most = {}
    for count in (1, millions):
        seen = FirstSeen(root / f"seen-{count}")
        with Memory(every=0.01) as memory:
            for _ in range(count * 20):
                seen.add(rng.integers(0, 2**64, (50_000, keys), np.uint64))
            seen.repeated()
        most[count] = memory.most
        shutil.rmtree(root / f"seen-{count}")
    return (most[millions] - most[1]) / ((millions - 1) * 1e6)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=2000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_jsonl(root / "sample.jsonl", 4)
        found = {}
        for megabytes in (asked.megabytes / 10, asked.megabytes):
            text = root / f"{megabytes:.0f}.jsonl"
            size = write_jsonl(text, megabytes, seed=int(megabytes)) / 1e6
            # The longer one without near duplicates: what they cost is told by the two shorter ones.
            for near in (False, True) if megabytes < asked.megabytes else (False,):
                bytes_, rows = most(root, text, f"text{near:d}-{megabytes:.0f}", Hygiene(near=near))
                found[near, megabytes] = bytes_, rows
                what = "exact and near duplicates removed" if near else "exact duplicates removed"
                case = f"{size:.0f} MB of JSONL, {rows:,} documents, {processes.cores()} processes, {what}"
                line("memory", case, bytes_ / 1e6, LIMIT / 1e6, "MB at most", LIMIT / bytes_, 1.0)
            text.unlink()
        each = of_a_document(root)
        # The peer keeps all keys in memory, 8 bytes each, and nothing about them.
        line(
            "memory",
            "near duplicates, 15 keys a document",
            each,
            15 * 8.0,
            "bytes a document",
            120 / each,
            0.0,
        )


if __name__ == "__main__":
    main()
