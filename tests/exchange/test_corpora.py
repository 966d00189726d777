"""Token stores as data sets: what `datasets` opens is what training reads."""

import json
from pathlib import Path

import numpy as np
import pytest
from fake_hub import hub
from typer.testing import CliRunner, Result

from caml.ablations.prepare import Stores
from caml.ablations.stocking import stock_of
from caml.cli import app
from caml.exchange import corpora, models

FILE = """
Corpora.sources = (@text/Files(), @chats/Files())
Corpora.tokenizer = @TrainedTokenizer()
TrainedTokenizer.kind = 'bpe'
TrainedTokenizer.vocabulary = 300
TrainedTokenizer.source = @text/Files()
text/Files.name = 'text'
text/Files.path = 'text.jsonl'
text/Files.licence = 'CC-BY-4.0'
chats/Files.name = 'chats'
chats/Files.path = 'chats.jsonl'
chats/Files.licence = 'CC-BY-4.0'
chats/Files.schema = @Messages()
"""
TEXTS = [f"Ana was kind. Number {i}: naïve – ok\n\n and on." for i in range(25)]
CHATS = [
    [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"It is {i}."}]
    for i in range(7)
]


def caml(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS))
    (tmp_path / "stock.gin").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_what_datasets_opens_is_what_training_reads(folder: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(corpora, "OF_A_FILE", 10)
    monkeypatch.setattr(corpora, "AT_ONCE", 4)
    assert caml("data", "prepare", "stock.gin").exit_code == 0
    done = caml("data", "export", "stock.gin", "out")
    assert (done.exit_code, done.stdout) == (0, "out: 2 configurations\n"), done.output
    stock = stock_of(Path("stock.gin"), ())
    for wanted, texts in zip(stock.wanted, (TEXTS, None), strict=True):
        store = Stores(stock.where).open(*wanted)
        read = datasets.load_dataset(
            str(folder / "out"), store.folder.name, split="train", cache_dir=str(folder / "cache")
        )
        assert len(read) == store.manifest.documents
        assert read["document"][:] == list(range(len(read)))
        for key, found in (("tokens", store.tokens), ("loss", store.loss)):
            whole = np.concatenate([np.asarray(row) for row in read[key]])
            assert (whole == found(np.arange(store.manifest.tokens))).all()
        assert [len(row) for row in read["tokens"]] == np.diff(store.bounds).tolist()
        if texts:
            assert read["text"][:] == texts
        else:
            assert read["text"][0] == (
                "<|im_start|>user\nWhat is 0?<|im_end|>\n<|im_start|>assistant\nIt is 0.<|im_end|>\n"
            )
        assert f"{store.manifest.tokens:,} |" in (folder / "out/README.md").read_text()
        assert store.manifest.content_digest in (folder / "out/README.md").read_text()
    assert "license: cc-by-4.0" in (folder / "out/README.md").read_text()


def test_a_data_set_is_pushed_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    caml("data", "prepare", "stock.gin")
    caml("data", "export", "stock.gin", "out")
    with hub() as server:
        told = models.push(folder / "out", "me/texts", "hf_secret", server.address, "dataset")
    assert told.startswith(f"{server.address}/datasets/me/texts/commit/")
    written = {
        str(path.relative_to(folder / "out")) for path in (folder / "out").rglob("*") if path.is_file()
    }
    assert server.files["me/texts"].keys() == written


def test_what_cannot_be_exported_is_one_line(folder: Path):
    early = caml("data", "export", "stock.gin", "out")
    assert early.exit_code == 2 and "2 stores of stock.gin not prepared yet" in early.stderr
    caml("data", "prepare", "stock.gin")
    full = caml("data", "export", "stock.gin", ".")
    assert full.exit_code == 2 and "not empty" in full.stderr
    tokens = next(folder.glob("runs/stores/text-*/tokens.bin"))
    content = bytearray(tokens.read_bytes())
    content[5] ^= 1
    tokens.write_bytes(content)
    damaged = caml("data", "export", "stock.gin", "out")
    assert damaged.exit_code == 1 and "tokens.bin: chunk 0" in damaged.stderr
    assert not (folder / "out").exists() and not list(folder.glob(".out*"))
