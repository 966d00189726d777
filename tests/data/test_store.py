"""The token store: what is written, what a kill or a second writer leaves, and that damage is seen."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy_corpora
from hypothesis import given
from hypothesis import strategies as st
from toy_corpora import TOKENIZER, TRAINED, External, Toy

from caml.config.errors import Failure, Invalid, UserError
from caml.data import store as stores
from caml.data import writing
from caml.data.store import open_store, store_folder
from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
from caml.data.writing import prepare_store, remove_abandoned

FILES = ["tokens.bin", "loss.bin", "bounds.npy", "manifest.json"]


def write(root, source, seed=0, **more):
    return prepare_store(root, source, seed, TRAINED, TOKENIZER, **more)


@pytest.mark.parametrize("at_once", [50, 1 << 17])
@pytest.mark.parametrize("source", [Toy(chat=0.3), Toy(documents_at_most=20)], ids=["cut", "ended"])
def test_holds_the_documents_up_to_the_one_that_reaches_the_tokens(tmp_path, monkeypatch, source, at_once):
    monkeypatch.setattr(writing, "TOKENS_AT_ONCE", at_once)
    store = write(tmp_path, source, seed=3)
    documents = []
    for document in source.documents(3):
        if sum(len(ids) for ids, _ in documents) >= source.tokens:
            break
        documents += TOKENIZER.encode_batch([document])
    places = np.arange(store.manifest.tokens)
    assert store.tokens(places).tolist() == [i for ids, _ in documents for i in ids]
    assert store.loss(places).tolist() == [bears for _, loss in documents for bears in loss]
    assert np.diff(store.bounds).tolist() == [len(ids) for ids, _ in documents]
    assert store.manifest.documents == len(documents)
    assert store.manifest.loss_tokens == sum(sum(loss) for _, loss in documents)
    assert (store.manifest.origin, store.manifest.licence) == ("tests", "CC0-1.0")


def test_large_vocabularies_take_four_bytes(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Wide(Toy):
        def _endless(self, seed):
            return (f"w{i} w{i + 1}" for i in range(0, 70_000, 2))

    trained = TrainedTokenizer("words", 100_000, Wide(tokens=200_000))
    tokenizer = train_tokenizer(trained)
    store = prepare_store(tmp_path, trained.source, 0, trained, tokenizer)
    assert store.manifest.unknown_tokens == 0
    assert (
        tokenizer.decode(store.tokens(np.arange(4 * 34_999, 4 * 35_000)))
        == "<|endoftext|> w69998 w69999 <|endoftext|>"
    )


def test_unknown_words_are_counted(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Foreign(Toy):
        def _endless(self, seed):
            return iter(["word1 strange", "words"])

    assert write(tmp_path, Foreign()).manifest.unknown_tokens == 2


def test_an_endless_source_is_asked_for_what_is_needed(tmp_path):
    asked = 0

    @dataclasses.dataclass(frozen=True)
    class Counted(Toy):
        def documents(self, seed):
            nonlocal asked
            for document in super().documents(seed):
                asked += 1
                yield document

    store = write(tmp_path, Counted(tokens=20_000))
    assert asked < 1.2 * store.manifest.documents


def test_the_folder_is_the_recipe(tmp_path):
    def name(source, seed=0, template="chatml", trained=TRAINED):
        return store_folder(tmp_path, source, seed, trained, template).name

    assert name(Toy()).startswith("toy-") and name(Toy()) == name(Toy())
    assert name(External(), seed=0) == name(External(), seed=1)
    others = [
        name(Toy(), seed=1),
        name(Toy(tokens=2001)),
        name(Toy(), template="plain"),
        name(Toy(), trained=dataclasses.replace(TRAINED, vocabulary=61)),
    ]
    assert len({name(Toy()), *others}) == 5
    for bad in ("", "..", "../up", "a/b", ".hidden"):
        with pytest.raises(Invalid, match="name: a name is of letters"):
            name(Toy(name=bad))


def test_an_empty_source_is_the_users_mistake_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="toy has no documents"):
        write(tmp_path, Toy(documents_at_most=0))
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_written_once_and_the_same_again(tmp_path):
    first = write(tmp_path / "a", Toy())
    moment = (first.folder / "tokens.bin").stat().st_mtime_ns
    assert write(tmp_path / "a", Toy()).manifest == first.manifest
    assert (first.folder / "tokens.bin").stat().st_mtime_ns == moment
    assert write(tmp_path / "b", Toy()).manifest == first.manifest


def test_a_store_of_another_tokenizer_is_refused(tmp_path):
    write(tmp_path, Toy())
    other = train_tokenizer(dataclasses.replace(TRAINED, kind="bpe", vocabulary=300))
    with pytest.raises(Failure, match="another tokenizer: delete this folder"):
        prepare_store(tmp_path, Toy(), 0, TRAINED, other)


def test_a_store_under_anothers_name_is_refused(tmp_path):
    store = write(tmp_path, Toy())
    store.folder.rename(store_folder(tmp_path, Toy(), 1, TRAINED, "chatml"))
    with pytest.raises(Failure, match="another recipe: delete this folder"):
        write(tmp_path, Toy(), seed=1)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return write(tmp_path_factory.mktemp("stores"), Toy(tokens=300)).folder


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_altered_byte_is_caught_and_named(intact, name, where, change):
    content = (intact / name).read_bytes()
    altered = bytearray(content)
    altered[int(where * len(content))] ^= change
    (intact / name).write_bytes(altered)
    try:
        with pytest.raises(Failure, match=rf"{name}: .* delete the folder {intact}"):
            open_store(intact).verify()
    finally:
        (intact / name).write_bytes(content)
    open_store(intact).verify()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b" ", None])
def test_a_file_of_another_size_is_named_when_the_store_is_opened(intact, name, change):
    content = (intact / name).read_bytes()
    (intact / name).unlink()
    if change:
        (intact / name).write_bytes(change(content))
    try:
        with pytest.raises(Failure, match=rf"{name}: {'' if change else 'missing'}"):
            open_store(intact)
    finally:
        (intact / name).write_bytes(content)


def test_chunks_are_checked_when_they_are_first_read(tmp_path, monkeypatch):
    for room in (stores, writing):
        monkeypatch.setattr(room, "CHUNK", 64)
    folder = write(tmp_path, Toy()).folder
    with open(folder / "tokens.bin", "r+b") as file:
        file.seek(64 * 5 + 7)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    store = open_store(folder)
    store.tokens(np.arange(32 * 5))
    store.tokens(np.arange(32 * 6, 32 * 20))
    for _ in range(2):
        with pytest.raises(Failure, match=r"tokens\.bin: chunk 5 "):
            store.tokens(np.array([[3, 32 * 5], [1, 2]]))


@pytest.mark.parametrize(
    "name, read",
    [
        ("tokens.bin", lambda store: store.tokens(np.array([3]))),
        ("loss.bin", lambda store: store.loss(np.array([3]))),
        ("bounds.npy", lambda store: store.packing(10)),
    ],
)
def test_a_reader_meets_damage_without_asking_for_it(tmp_path, name, read):
    folder = write(tmp_path, Toy()).folder
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(Failure, match=f"{name}: chunk 0 "):
        read(open_store(folder))


def test_a_document_that_reaches_the_tokens_exactly_is_the_last(tmp_path):
    ends = write(tmp_path, Toy()).bounds
    shorter = write(tmp_path, Toy(tokens=int(ends[5])))
    assert shorter.manifest.documents == 5 and shorter.manifest.tokens == ends[5]


KILLED = """
import os, signal, sys
from pathlib import Path
from toy_corpora import TOKENIZER, TRAINED, Toy
from caml.data.writing import prepare_store
calls = 0
def kill(tokens):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
prepare_store(Path(sys.argv[1]), Toy(), 0, TRAINED, TOKENIZER, progress=kill)
"""


@pytest.mark.parametrize("moment", ["1", "2"])
def test_a_kill_leaves_nothing_that_opens_and_what_it_leaves_can_be_swept(tmp_path, moment):
    path = os.pathsep.join([str(Path(toy_corpora.__file__).parent), *sys.path])
    command = [sys.executable, "-c", KILLED, str(tmp_path), moment]
    assert subprocess.run(command, env={**os.environ, "PYTHONPATH": path}).returncode == -signal.SIGKILL
    assert not store_folder(tmp_path, Toy(), 0, TRAINED, "chatml").exists()
    (left,) = tmp_path.iterdir()
    # Writers that are there, or on another machine, are not swept away.
    here, there = (left.with_name(left.name.replace(*p)) for p in other_writers(left.name))
    here.mkdir()
    there.mkdir()
    store = write(tmp_path, Toy())
    store.verify()
    remove_abandoned(tmp_path)
    assert set(tmp_path.iterdir()) == {store.folder, here, there}


def test_what_a_writer_left_that_nobody_has_asked_after_is_swept(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    ended.stdout.read()  # it ends, and as long as nobody waits for it, the system keeps its number
    left = tmp_path / f".toy-0123.{socket.gethostname()}.{ended.pid}.abcd.part"
    left.mkdir()
    try:
        deadline = time.monotonic() + 30
        while left.exists() and time.monotonic() < deadline:
            remove_abandoned(tmp_path)
        assert not left.exists() and ended.returncode is None
    finally:
        ended.wait()


def other_writers(name: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """What to change in an unfinished store's name to make it this process's, and another machine's."""
    *_, pid, _, _ = name.split(".")
    return (f".{pid}.", f".{os.getpid()}."), (f".{socket.gethostname()}.", ".elsewhere.")


def test_two_writers_at_once_end_with_one_good_store(tmp_path):
    def other_writer(tokens):
        write(tmp_path, Toy())

    store = write(tmp_path, Toy(), progress=other_writer)
    store.verify()
    assert list(tmp_path.iterdir()) == [store.folder]


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=r"file/toy-.* cannot be written: File exists"):
        write(tmp_path / "file", Toy())
