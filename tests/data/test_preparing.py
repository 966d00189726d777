"""A corpus into its store: what is kept, in constant memory; killed and continued; two at once; damage."""

import gzip
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from caml.config.errors import Failure, UserError
from caml.data import preparing, writing
from caml.data.corpora.files import Files
from caml.data.corpora.schemas import Chosen, Messages
from caml.data.hygiene.hygiene import Cleaner, Hygiene
from caml.data.mixture import Mixture, StageData
from caml.data.preparing import prepare_corpus
from caml.data.store import open_store
from caml.data.tokenizer import BEARS, REJECTED, SECOND_HALF
from caml.data.tokenizer_recipes import TrainedTokenizer, prepare_tokenizer, tokenizer_folder

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "pu") for b in ("ra", "sto", "vi", "xen", "zu")]


def corpus_file(path, documents=400, seed=0):
    """Lines of which some are repeated, some nearly, some short, one no JSON."""
    rng, written = random.Random(seed), []
    for number in range(documents):
        words = rng.choices(WORDS, k=rng.randint(20, 60))
        if number % 7 == 6:
            words = list(rng.choice(written)) if number % 2 else [*rng.choice(written)[:-1], "changed"]
        if number % 31 == 30:
            words = ["short"]
        written.append(words)
    lines = [json.dumps({"text": " ".join(words)}) for words in written]
    lines.insert(50, "no row")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return corpus_file(tmp_path_factory.mktemp("corpus") / "rows.jsonl")


HYGIENE = Hygiene(shortest=10, near=True)


def source(file, tokens=0, hygiene=HYGIENE, **fields):
    return Files(name="corpus", path=str(file), tokens=tokens, misfits="skip", hygiene=hygiene, **fields)


def prepared(root, corpus, **more):
    trained = TrainedTokenizer("bpe", 300, Files(name="sample", path=corpus.path, misfits="skip"))
    tokenizer = prepare_tokenizer(root / "tokenizers", trained)
    file = tokenizer_folder(root / "tokenizers", trained) / "tokenizer.json"
    return prepare_corpus(root / "stores", corpus, trained, tokenizer, file, **more), tokenizer


def plainly(corpus, tokenizer):
    """The documents that are kept, in their order, and the counts of the others, read off one by one."""
    clean, seen, kept, counts, tokens, rows = Cleaner(corpus.hygiene), [set(), set()], [], {}, 0, 0
    for found in corpus.found():
        if corpus.tokens and tokens >= corpus.tokens:
            break
        rows += 1
        reason = found.left_out
        if found.document is not None:
            verdict = clean.verdict(found.document)
            reason = verdict.step
            if not reason:
                exact, near = set(verdict.keys[:1].tolist()), set(verdict.keys[1:].tolist())
                reason = "duplicate" if exact & seen[0] else "near duplicate" if near & seen[1] else ""
                seen[0] |= exact
                seen[1] |= near
        if reason:
            counts[reason] = counts.get(reason, 0) + 1
        else:
            kept.append(found.document)
            tokens += len(tokenizer.encode_batch([found.document])[0][0])
    return kept, counts, rows


@pytest.mark.parametrize("size", [4000, 1 << 22], ids=["parts", "one part"])
@pytest.mark.parametrize("tokens", [0, 3000, 9000])
def test_holds_what_a_plain_reading_keeps(tmp_path, file, monkeypatch, tokens, size):
    monkeypatch.setattr(preparing, "PART_CHARACTERS", size)
    monkeypatch.setattr(preparing, "CHARACTERS_AT_ONCE", 1000)
    corpus = source(file, tokens)
    told = []
    store, tokenizer = prepared(tmp_path, corpus, progress=told.append)
    kept, counts, rows = plainly(corpus, tokenizer)
    ids = [i for ids, _ in tokenizer.encode_batch(kept) for i in ids]
    manifest = store.manifest
    assert store.tokens(np.arange(manifest.tokens)).tolist() == ids
    assert np.diff(store.bounds).tolist() == [len(ids) for ids, _ in tokenizer.encode_batch(kept)]
    assert (manifest.left_out, manifest.rows, manifest.documents) == (counts, rows, len(kept))
    assert {"duplicate", "near duplicate", "short"} <= set(counts)
    assert manifest.text_bytes == sum(len(text.encode()) for text in kept)
    assert manifest.software["datasketch"] and told == sorted(told)
    lines = [json.loads(line) for line in (store.folder / "left_out.jsonl").read_text().splitlines()]
    assert len(lines) == sum(counts.values())
    places = [int(line["place"].rsplit(":", 1)[1]) for line in lines]
    assert places == sorted(places)
    text = Path(file).read_text().splitlines()
    for line, place in zip(lines, places, strict=True):
        if line["step"] != "misfit":
            assert json.loads(text[place - 1])["text"].startswith(line["begins"][:40])
    assert list(store.folder.parent.iterdir()) == [store.folder]


def test_a_longer_stretch_begins_with_the_shorter_one(tmp_path, file):
    short, _ = prepared(tmp_path, source(file, 3000))
    long, _ = prepared(tmp_path, source(file, 9000))
    places = np.arange(short.manifest.tokens)
    assert (short.tokens(places) == long.tokens(places)).all()


def test_conversations_and_pairs(tmp_path):
    ask, yes, no = ({"role": role, "content": text} for role, text in
                    (("user", "will ana come"), ("assistant", "yes she will"), ("assistant", "no")))  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"messages": [ask, yes], "chosen": [ask, yes], "rejected": [ask, no]}))
    chats, tokenizer = prepared(tmp_path, source(path, schema=Messages(), hygiene=Hygiene()))
    pairs, _ = prepared(tmp_path, source(path, schema=Chosen(prompt=""), hygiene=Hygiene()))
    assert (chats.manifest.pairs, pairs.manifest.pairs, pairs.manifest.documents) == (0, 1, 1)
    ids, codes = pairs.tokens(np.arange(pairs.manifest.tokens)), pairs.loss(np.arange(pairs.manifest.tokens))
    half = int(np.flatnonzero(codes & SECOND_HALF)[0])
    assert ids[:half].tolist() == tokenizer.encode_batch([[ask, yes]])[0][0]
    assert ids[half:].tolist() == tokenizer.encode_batch([[ask, no]])[0][0]
    assert tokenizer.decode(ids[:half][codes[:half] & BEARS > 0]) == "yes she will<|im_end|>"
    assert tokenizer.decode(ids[half:][codes[half:] & BEARS > 0]) == "no<|im_end|>"
    assert (
        not (codes[:half] & REJECTED).any()
        and (codes & REJECTED > 0).sum() == (codes[half:] & BEARS > 0).sum()
    )


def test_a_stage_does_not_learn_from_both_answers_of_a_pair(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "will ana come", "chosen": "yes", "rejected": "no"}')
    corpus = source(path, schema=Chosen(), hygiene=Hygiene())
    store, _ = prepared(tmp_path, corpus)
    with pytest.raises(UserError, match="corpus holds 1 preference pairs"):
        StageData(Mixture(corpus, loss="assistant"), {"base": store}, 0, "sft", 1, 64, 1)


def test_a_row_that_is_refused_leaves_nothing(tmp_path, file, monkeypatch):
    monkeypatch.setattr(preparing, "PART_CHARACTERS", 2000)
    corpus = Files(name="corpus", path=str(file))
    trained = TrainedTokenizer("bpe", 300, source(file))
    tokenizer = prepare_tokenizer(tmp_path, trained)
    with pytest.raises(UserError, match=r"rows\.jsonl:51: not a JSON object on one line"):
        prepare_corpus(
            tmp_path / "stores",
            corpus,
            trained,
            tokenizer,
            tokenizer_folder(tmp_path, trained) / "tokenizer.json",
        )
    assert not list((tmp_path / "stores").iterdir())


def test_a_corpus_that_cannot_be_reached_leaves_what_was_read(tmp_path, file, monkeypatch):
    monkeypatch.setattr(preparing, "PART_CHARACTERS", 2000)
    whole, _ = prepared(tmp_path / "whole", source(file))
    prepared(tmp_path, source(file, 100))  # the tokenizer is there
    found, lines = Files.found, []

    def cut(self, skip=0):
        yield from itertools.islice(found(self, skip), 200)
        raise UserError("cannot be reached")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be reached"):
        patch.setattr(Files, "found", cut)
        prepared(tmp_path, source(file))
    assert list((tmp_path / "stores").glob(".corpus-*.parts/part-000000.npz"))
    store, _ = prepared(tmp_path, source(file), announce=lines.append)
    assert "goes on after" in lines[0] and store.manifest == whole.manifest


def test_the_rest_of_a_broken_file_is_told_apart_from_rows(tmp_path, file):
    path = tmp_path / "rows.txt.gz"
    packed = gzip.compress(
        "\n".join(random.Random(0).choices(Path(file).read_text().splitlines(), k=500)).encode()
    )
    path.write_bytes(packed[: len(packed) // 2])
    store, _ = prepared(tmp_path, Files(name="corpus", path=str(path), misfits="skip"))
    assert store.manifest.left_out["broken"] == 1
    assert "1 from where a file is broken to its end" in writing.told(store.manifest.left_out)
    (line,) = [
        row
        for row in map(json.loads, (store.folder / "left_out.jsonl").read_text().splitlines())
        if row["step"] == "broken"
    ]
    assert line["place"].startswith(f"{path}, after ") and "cut short or altered" in line["why"]


def test_a_corpus_of_which_nothing_is_left_says_why(tmp_path, file):
    says = "corpus has no documents: of 401 rows 1 that do not fit the schema, 400 too short (read from "
    with pytest.raises(UserError, match=re.escape(f"{says}{file})")):
        prepared(tmp_path, source(file, hygiene=Hygiene(shortest=10_000)))
    assert not list((tmp_path / "stores").iterdir())


CHILD = """
import os, signal, sys
from pathlib import Path
import test_preparing as t
from caml.data import preparing, writing
def main():
    preparing.PART_CHARACTERS = 900
    when, root, file = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    def progress(tokens):
        if 0 < when <= tokens:
            os.kill(os.getpid(), signal.SIGKILL)
    store, _ = t.prepared(root, t.source(file), progress=progress, announce=lambda line: print(line, flush=True))
    print("done", store.manifest.content_digest)
if __name__ == "__main__":
    main()
"""


def child(script, when, root, file):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    arguments = [sys.executable, str(script), str(when), str(root), str(file)]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)


def test_killed_at_any_moment_it_goes_on_to_the_same_store(tmp_path, file):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    whole, _ = prepared(tmp_path / "whole", source(file))
    rows = []
    for when in (1, 4000, 8000):
        killed = child(script, when, tmp_path / "cut", file)
        said = killed.communicate(timeout=120)[0]
        assert killed.returncode == -signal.SIGKILL, said
        rows += [int(line.split()[4].replace(",", "")) for line in said.splitlines() if "goes on" in line]
        assert not [p for p in (tmp_path / "cut" / "stores").iterdir() if not p.name.startswith(".")]
    assert len(rows) == 2 and 0 < rows[0] < rows[1] < 401
    done = child(script, -1, tmp_path / "cut", file)
    assert f"done {whole.manifest.content_digest}" in done.communicate(timeout=120)[0]


def test_of_two_at_once_one_writes_and_both_have_it(tmp_path, file):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    prepared(tmp_path, source(file, 100))  # the tokenizer is there
    both = [child(script, -1, tmp_path, file) for _ in range(2)]
    said = [one.communicate(timeout=120)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    digests = {line for text in said for line in text.splitlines() if line.startswith("done")}
    assert len(digests) == 1
    assert sum("another launch is writing" in text for text in said) <= 1


def test_a_launch_that_is_told_to_stop_while_it_waits_does(tmp_path, file):
    from filelock import FileLock

    class Told(Exception):
        pass

    def stop(tokens):
        raise Told

    store, _ = prepared(tmp_path, source(file))
    lock = FileLock(tmp_path / "stores" / f".{store.folder.name}.lock")
    store.folder.rename(tmp_path / "elsewhere")
    lines = []
    with lock, pytest.raises(Told):
        # A lock of the same process would be taken: another thread asks for it.
        thread_error = []

        def ask():
            try:
                prepared(tmp_path, source(file), progress=stop, announce=lines.append)
            except Told as told:
                thread_error.append(told)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(60)
        raise thread_error[0]
    assert lines == [f"another launch is writing {store.folder.name}; waiting for it"]


def test_a_part_that_was_altered_is_named_and_made_again(tmp_path, file, monkeypatch):
    monkeypatch.setattr(preparing, "PART_CHARACTERS", 2000)
    whole, _ = prepared(tmp_path / "whole", source(file))

    class Stop(Exception):
        pass

    seen = 0

    def progress(tokens):
        nonlocal seen
        seen += 1
        if seen == 6:
            raise Stop

    with pytest.raises(Stop):
        prepared(tmp_path, source(file), progress=progress)
    part = next((tmp_path / "stores").glob(".corpus-*.parts/part-000001.npz"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(Failure, match=r"part-000001\.npz is not as it was written"):
        prepared(tmp_path, source(file))
    assert prepared(tmp_path, source(file))[0].manifest == whole.manifest


def test_a_changed_byte_is_named_when_it_is_read(tmp_path, file):
    store, _ = prepared(tmp_path, source(file))
    for name in ("tokens.bin", "left_out.jsonl"):
        content = (store.folder / name).read_bytes()
        (store.folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(Failure, match=f"{name}: chunk 0 "):
            open_store(store.folder).verify()
        (store.folder / name).write_bytes(content)
    open_store(store.folder).verify()
