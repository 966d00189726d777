"""Token stores as a data set in the format of the Hugging Face Hub: a configuration for each, and a card."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from caml.ablations.prepare import Stores
from caml.ablations.progress import Progress
from caml.ablations.stocking import Stock
from caml.config.errors import UserError
from caml.config.text import counted
from caml.data.chat import END_OF_TEXT
from caml.data.store import Manifest, TokenStore
from caml.data.tokenizer import Tokenizer
from caml.exchange.models import CARD, headed, whole

# Documents of a file, and of a piece that is in memory at once.
OF_A_FILE, AT_ONCE = 500_000, 10_000
MANIFEST = "manifest.json"
USE = """```python
from datasets import load_dataset

load_dataset("FOLDER", "{}")
```"""
SCHEMA = pa.schema(
    [
        ("document", pa.int64()),
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("loss", pa.list_(pa.uint8())),
    ]
)


def export(stock: Stock, folder: Path, progress: Progress) -> list[str]:
    """Write every store of `stock` into `folder`, which must not be there or be empty; the names of configurations.

    It is there whole, or not at all. Raises UserError where a store is not prepared yet, Failure where one is damaged.
    """
    missing = [wanted for wanted in stock.wanted if not stock.folder(wanted).exists()]
    if missing:
        raise UserError(
            f"{counted(len(missing), 'store')} of {stock.file} not prepared yet: `caml data prepare {stock.file}`"
        )
    with whole(folder) as aside:
        return _write(stock, aside, progress)


def _write(stock: Stock, folder: Path, progress: Progress) -> list[str]:
    stores = Stores(stock.where)
    manifests: dict[str, Manifest] = {}
    total = sum(stores.open(*wanted).manifest.documents for wanted in stock.wanted)
    done = 0
    with progress.task("documents", total) as advance:
        for wanted in stock.wanted:
            store = stores.open(*wanted)
            name = store.folder.name  # the source's, and its recipe's digest: no two are alike
            (folder / name).mkdir()
            for table in _files(store, stores.tokenizer(wanted[2]), folder / name):
                done += table
                advance(done, name)
            (folder / name / MANIFEST).write_text(
                json.dumps(asdict(store.manifest), indent=1) + "\n", encoding="utf-8"
            )
            manifests[name] = store.manifest
    (folder / CARD).write_text(_card(stock, manifests), encoding="utf-8")
    return list(manifests)


def _files(store: TokenStore, tokenizer: Tokenizer, folder: Path) -> Iterator[int]:
    """Write the documents of a store, some at a time; how many each time."""
    documents = store.manifest.documents
    files = max(1, -(-documents // OF_A_FILE))
    for number in range(files):
        end = min(documents, (number + 1) * OF_A_FILE)
        path = folder / f"train-{number:05}-of-{files:05}.parquet"
        with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
            for first in range(number * OF_A_FILE, end, AT_ONCE):
                last = min(end, first + AT_ONCE)
                writer.write_table(_table(store, tokenizer, first, last))
                yield last - first


def _table(store: TokenStore, tokenizer: Tokenizer, first: int, last: int) -> pa.Table:
    bounds = np.asarray(store.bounds[first : last + 1])
    places = np.arange(bounds[0], bounds[-1])
    tokens, loss = store.tokens(places).astype(np.int32), store.loss(places)
    cuts = bounds - bounds[0]
    edge = tokenizer.special[END_OF_TEXT]
    texts = [
        tokenizer.decode([token for token in tokens[a:b].tolist() if token != edge])
        for a, b in itertools.pairwise(cuts.tolist())
    ]
    offsets = pa.array(cuts, pa.int32())
    return pa.table(
        {
            "document": pa.array(np.arange(first, last)),
            "text": pa.array(texts),
            "tokens": pa.ListArray.from_arrays(offsets, pa.array(tokens)),
            "loss": pa.ListArray.from_arrays(offsets, pa.array(loss)),
        },
        schema=SCHEMA,
    )


def _card(stock: Stock, manifests: dict[str, Manifest]) -> str:
    licences = sorted({m.licence for m in manifests.values() if m.licence})
    about: dict[str, Any] = {
        "license": licences[0].lower() if len(licences) == 1 else "other",
        "tags": ["caml"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.parquet"}]}
            for name in manifests
        ],
    }
    rows = [
        "| configuration | documents | tokens | bytes of text | licence | origin | revision |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {name} | {m.documents:,} | {m.tokens:,} | {m.text_bytes:,} | {m.licence} | {m.origin} | {m.revision} |"
        for name, m in manifests.items()
    ]
    digests = [
        f"- {name}: recipe {m.recipe_digest}, content {m.content_digest}, tokenizer {m.tokenizer_digest}"
        for name, m in manifests.items()
    ]
    what = (
        f"The token stores of `{stock.file.name}`, written by caml: `text`, its `tokens`, and `loss`, which says for "
        "each token whether it bears loss where only answers do (bit 1), is of a rejected answer (2), or begins a "
        "preference pair's second half (4). Documents are in the order in which slots take them."
    )
    return headed(
        about,
        [
            ("", f"# {stock.file.stem}\n{what}"),
            ("Contents", "\n".join(rows)),
            ("Use", USE.format(next(iter(manifests)))),
            ("Digests", "\n".join(digests) + f"\n\nWhole manifests: `{MANIFEST}` of each configuration."),
            ("Licence", f"{', '.join(licences) or 'Not stated by the sources'}."),
        ],
    )
