"""Text into a token store, against `datasets.map` with the same tokenizer and as many processes, and its save.

The peer is given its rows as they are after loading: what loading took is told in a line of its own.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lines import line, write_jsonl
from caml.data import processes
from caml.data.corpora.files import Files
from caml.data.hygiene.hygiene import Hygiene
from caml.data.preparing import prepare_corpus
from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TOKENIZER, TrainedTokenizer, prepare_tokenizer, tokenizer_folder

VOCABULARY = 8192


def ours(
    root: Path, text: Path, trained: TrainedTokenizer, tokenizer: Tokenizer, hygiene: Hygiene
) -> tuple[float, int]:
    """Seconds that the store of `text` takes, and its tokens."""
    shutil.rmtree(root / "stores", ignore_errors=True)
    corpus = Files(name="text", path=str(text), hygiene=hygiene)
    file = tokenizer_folder(root / "tokenizers", trained) / TOKENIZER
    begun = time.perf_counter()
    store = prepare_corpus(root / "stores", corpus, trained, tokenizer, file)
    return time.perf_counter() - begun, store.manifest.tokens


def peer(root: Path, text: Path, tokenizer_file: Path) -> tuple[float, float, int]:
    """Seconds that `datasets` takes to load, and to map and save, and the tokens that it makes."""
    import datasets
    import tokenizers

    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    datasets.disable_progress_bars()
    shutil.rmtree(root / "peer", ignore_errors=True)
    begun = time.perf_counter()
    rows = datasets.load_dataset(
        "json", data_files=str(text), split="train", cache_dir=str(root / "peer/cache")
    )
    loaded = time.perf_counter()
    library = tokenizers.Tokenizer.from_file(str(tokenizer_file))

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = [encoding.ids for encoding in library.encode_batch_fast(batch["text"])]
        return {"input_ids": ids, "length": [len(one) for one in ids]}

    cores = processes.cores()
    mapped = rows.map(tokenize, batched=True, num_proc=cores, remove_columns=["text"])
    mapped.save_to_disk(str(root / "peer/saved"), num_proc=cores)
    return loaded - begun, time.perf_counter() - loaded, sum(mapped["length"])


def main() -> None:
    """Measure, in turns, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=200)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = write_jsonl(root / "text.jsonl", asked.megabytes) / 1e6
        trained = TrainedTokenizer(
            "bpe", VOCABULARY, Files(name="text", path=str(root / "text.jsonl"), tokens=10**6)
        )
        tokenizer = prepare_tokenizer(root / "tokenizers", trained)
        file = tokenizer_folder(root / "tokenizers", trained) / TOKENIZER
        plain, checked, theirs, loads = [], [], [], []
        for _ in range(asked.runs):
            seconds, tokens = ours(root, root / "text.jsonl", trained, tokenizer, Hygiene(exact=False))
            plain.append(seconds)
            checked.append(ours(root, root / "text.jsonl", trained, tokenizer, Hygiene())[0])
            load, seconds, of_peer = peer(root, root / "text.jsonl", file)
            loads.append(load)
            theirs.append(seconds)
        print(f"tokens: ours {tokens:,} with two about each document, peer {of_peer:,}", flush=True)
        middle = asked.runs // 2
        mine, with_duplicates, other, load = (sorted(x)[middle] for x in (plain, checked, theirs, loads))
        case = f"{size:.0f} MB of JSONL, {processes.cores()} processes"
        for what, own, against, goal in (
            ("read, tokenize and write, against map and save", mine, other, 1.0),
            ("the same, against load, map and save", mine, load + other, 1.0),
            ("with exact duplicates removed, against map and save", with_duplicates, other, 0.0),
        ):
            line("writing", f"{case}: {what}", size / own, size / against, "MB/s", against / own, goal)


if __name__ == "__main__":
    main()
