"""The corpora of gin/data, each through its real loading code on local files in the schema of the real ones."""

import gzip
import itertools
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from caml.cli import app
from caml.data.store import open_store
from caml.data.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent.parent
WORDS = "the farmer opened a gate and let every cold animal out into the warm green field"
TALK = [{"content": "why?", "role": "user"}, {"content": WORDS, "role": "assistant"}]
WEB = {
    "text": WORDS,
    "id": "x",
    "dump": "d",
    "url": "u",
    "language": "en",
    "language_score": 0.9,
    "int_score": 3,
}
RATED = {"prompt": "hi\n<extra_id_1>Assistant\nyes\n<extra_id_1>User\nwhy?", "response_1": WORDS, "response_2": "no",
         "preference_strength": -2, "split": "train"}  # fmt: skip

# By file: the macro of its path, the rows, the files (a suffix says the format), the configuration, the documents kept.
CORPORA = {
    "fineweb_edu": ("FINEWEB_EDU", [WEB], "sample/10BT/000_00000.parquet", "sample-10BT", 1),
    "tinystories": ("TINYSTORIES", [{"text": WORDS}], "data/train-00000-of-00001.parquet", "", 1),
    "simplestories": ("SIMPLESTORIES", [{"story": WORDS, "topic": "x"}], "data/train-00000.parquet", "", 1),
    "wikitext": ("WIKITEXT", [{"text": ""}, {"text": f" {WORDS} \n"}], "raw/train-0.parquet", "wikitext-103-raw-v1", 1),
    "alpaca_cleaned": (
        "ALPACA_CLEANED",
        [{"output": WORDS, "input": "", "instruction": "why?"}, {"output": "", "input": "", "instruction": "why?"}],
        "alpaca_data_cleaned.json", "", 1,
    ),
    "dolly_15k": (
        "DOLLY_15K", [{"instruction": "why?", "context": "c", "response": WORDS, "category": "qa"}],
        "databricks-dolly-15k.jsonl", "", 1,
    ),
    "magicoder": ("MAGICODER", [{"lang": "python", "problem": "why?", "solution": WORDS}], "data.jsonl", "", 1),
    "ultrachat": ("ULTRACHAT", [{"prompt": "why?", "messages": TALK}], "data/train_sft-00000-of-00001.parquet", "", 1),
    "helpsteer2": (
        "HELPSTEER2",
        [RATED, {**RATED, "split": "val"}, {**RATED, "preference_strength": 0}],
        "preference/preference.jsonl.gz", "", 1,
    ),
    "caml_compassion": ("CAML_COMPASSION", [{"output": WORDS, "n": 1}], "data/train-00000.parquet", "", 1),
    "caml_urban": ("CAML_URBAN", [{"output": WORDS, "n": 1}], "data/train-00000.parquet", "", 1),
}  # fmt: skip


def lay_out(folder: Path, rows: list[dict], name: str, config: str) -> None:
    """A folder as the Hub has the repository."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        text = "\n".join(map(json.dumps, rows)).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    if config:
        files = f"  data_files:\n  - split: train\n    path: {name}\n"
        (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n{files}---\n")


def own(include: str, source: str) -> str:
    """A file of one's own that takes a shipped corpus."""
    return (
        f"include '{include}'\nCorpora.sources = ({source},)\nCorpora.tokenizer = @TrainedTokenizer()\n"
        "TrainedTokenizer.kind = 'bpe'\nTrainedTokenizer.vocabulary = 300\n"
        "TrainedTokenizer.source = @words/Files()\nwords/Files.name = 'words'\nwords/Files.path = 'words.txt'\n"
    )


def test_every_shipped_corpus_is_tried():
    assert {path.stem for path in (ROOT / "gin/data").glob("*.gin")} == {*CORPORA, "c4"}


@pytest.mark.parametrize("corpus", CORPORA)
def test_a_shipped_corpus_is_read_as_its_file_says(corpus, tmp_path, monkeypatch):
    macro, rows, name, config, kept = CORPORA[corpus]
    lay_out(tmp_path / "copy", rows, name, config)
    (tmp_path / "words.txt").write_text(WORDS)
    file = tmp_path / "own.gin"
    file.write_text(own(f"{ROOT / 'gin/data' / corpus}.gin", f"@{corpus}/HuggingFace()"))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(
        app, ["data", "prepare", str(file), "--set", f"{macro}='{tmp_path / 'copy'}'"]
    )
    assert result.exit_code == 0, result.stderr or result.exception
    store = open_store(next(tmp_path.glob(f"runs/stores/{corpus}-*")))
    assert store.manifest.documents == kept and store.manifest.licence
    assert store.manifest.pairs == (corpus == "helpsteer2")
    assert store.manifest.rows == len(rows)
    assert (
        "farmer"
        in CliRunner()
        .invoke(app, ["data", "show", str(file), "--set", f"{macro}='{tmp_path / 'copy'}'"])
        .stdout
    )


PAGES = [
    {
        "text": f"{WORDS} {number}\nand a second line",
        "url": f"https://example.org/{number}",
        "content-type": "text/plain",
        "content-length": "99",
        "timestamp": "2019-04-25T12:57:54Z",
    }
    for number in range(9)
]


def write_c4(folder: Path, pages: list[dict]) -> None:
    """Prepare C4 with these pages, in the library's own schema of it: both splits, each in two files."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.text.c4 import C4

    class Pages(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "c4"
        VERSION = C4.builder_configs["en"].version
        BUILDER_CONFIGS = [C4.builder_configs["en"]]  # noqa: RUF012 (the library's own name)
        _info = C4._info

        def _split_generators(self, dl_manager):
            return {
                "train": self._generate_examples(pages[3:]),
                "validation": self._generate_examples(pages[:3]),
            }

        def _generate_examples(self, pages):
            return ((page["url"], page) for page in pages)

    builder = Pages(config="en", data_dir=folder, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    assert builder.info.full_name == "c4/en/3.1.0" and set(builder.info.features) == set(PAGES[0])


def c4(folder: Path, command: str, split: str = "train"):
    """`caml data` on a file of one's own that takes C4 from a copy in `folder`."""
    file = folder / "own.gin"
    file.write_text(own(f"{ROOT / 'gin/data'}/c4.gin", "@c4/Tfds()") + f"c4/Tfds.split = '{split}'\n")
    (folder / "words.txt").write_text(WORDS)
    return CliRunner().invoke(app, ["data", command, str(file), "--set", f"C4_FOLDER='{folder / 'copy'}'"])


@pytest.mark.parametrize("split, pages", [("train", PAGES[3:]), ("validation", PAGES[:3])])
def test_c4_is_read_from_a_prepared_copy(split, pages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_c4(tmp_path / "copy", PAGES)
    assert len(list(tmp_path.glob("copy/c4/en/3.1.0/c4-train.array_record-*-of-00002"))) == 2
    result = c4(tmp_path, "prepare", split)
    assert result.exit_code == 0, result.stderr or result.exception
    store = open_store(next(tmp_path.glob("runs/stores/c4-*")))
    tokenizer = Tokenizer.load(next(tmp_path.glob("runs/tokenizers/*/tokenizer.json")))
    bounds = store.bounds.tolist()
    texts = [tokenizer.text(store.tokens(np.arange(*ends))) for ends in itertools.pairwise(bounds)]
    assert sorted(texts) == sorted(page["text"] for page in pages)
    assert store.manifest.rows == len(pages) and store.manifest.licence == "ODC-By-1.0"
    shown = c4(tmp_path, "show", split).stdout
    assert "origin: TensorFlow Datasets, c4/en; revision: 3.1.0; licence: ODC-By-1.0" in shown
    assert shown.count("the farmer opened a gate") == 3
    assert "tensorflow" not in sys.modules


def test_c4_in_files_of_another_format_is_refused_with_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_c4(tmp_path / "copy", PAGES)
    about = tmp_path / "copy/c4/en/3.1.0/dataset_info.json"
    about.write_text(about.read_text().replace('"array_record"', '"tfrecord"'))
    result = c4(tmp_path, "prepare")
    assert result.exit_code == 2 and not list(tmp_path.glob("runs/stores/c4-*"))
    assert "no array_record files" in result.stderr and "tfds convert_format" in result.stderr


def test_a_page_of_c4_that_is_too_long_is_named_by_its_row(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_c4(tmp_path / "copy", [*PAGES[:-1], {**PAGES[-1], "text": "x" * (1 << 24) + "y"}])
    result = c4(tmp_path, "prepare")
    assert result.exit_code == 2 and re.search(
        r"c4/en:3\.1\.0 train row [1-6]: a document of 16,777,217", result.stderr
    )


def test_c4_says_where_a_prepared_copy_is_to_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = c4(tmp_path, "prepare")
    assert result.exit_code == 2 and "c4/en:3.1.0 is not prepared" in result.stderr, result.exception
    assert result.stderr.splitlines()[-1].startswith("caml: ")
