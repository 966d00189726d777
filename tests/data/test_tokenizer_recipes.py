"""Tokenizers of other people, and those trained on samples of several sources."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from toy_corpora import Toy

from caml.config.errors import Failure, Invalid, UserError
from caml.data.corpora.files import Files
from caml.data.tokenizer_recipes import (
    LoadedTokenizer,
    Several,
    TrainedTokenizer,
    prepare_tokenizer,
    tokenizer_folder,
)

TALK = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": "word1 <|im_end|> 😀"}]


def foreign(path, special=("<|endoftext|>",), last=False):
    """A byte-level tokenizer as others publish them; with `last` their special tokens have the last ids."""
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[] if last else list(special), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    library.train_from_iterator(["hello there hello word word1 there"] * 3, trainer)
    library.add_special_tokens(list(special))
    library.enable_truncation(4)
    library.enable_padding()
    path.parent.mkdir(exist_ok=True)
    library.save(str(path))
    return library


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("special", [(), ("<|endoftext|>",), ("<s>", "<|im_start|>", "<|im_end|>")])
def test_what_a_loaded_tokenizer_lacks_is_added_behind_its_own(tmp_path, special, last):
    library = foreign(tmp_path / "repository" / "tokenizer.json", special, last)
    recipe = LoadedTokenizer(path=str(tmp_path / "repository"), vocabulary=512)
    tokenizer = prepare_tokenizer(tmp_path / "tokenizers", recipe)
    added = [t for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>") if t not in special]
    before = library.get_vocab_size()
    assert [tokenizer.special[token] for token in added] == list(range(before, before + len(added)))
    assert tokenizer.size == before + len(added)
    for token in special:
        if token in tokenizer.special:
            assert tokenizer.special[token] == library.token_to_id(token)
    (ids, loss), (text, _) = tokenizer.encode_batch([TALK, "hello <|endoftext|> <s> there"])
    assert tokenizer.decode(ids) == (
        "<|endoftext|><|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\nword1 <|im_end|> 😀<|im_end|>\n"
    )
    assert ids.count(tokenizer.special["<|im_end|>"]) == 2  # not the one in the text
    assert text.count(tokenizer.special["<|endoftext|>"]) == 2
    assert tokenizer.decode(np.array(ids)[np.array(loss) > 0].tolist()) == "word1 <|im_end|> 😀<|im_end|>"
    noted = json.loads((tokenizer_folder(tmp_path / "tokenizers", recipe) / "manifest.json").read_text())
    assert noted["added"] == added and noted["digest"] == tokenizer.digest
    assert prepare_tokenizer(tmp_path / "tokenizers", recipe).digest == tokenizer.digest


def test_identity_is_the_file_here_and_the_commit_on_the_hub(tmp_path):
    foreign(tmp_path / "a" / "tokenizer.json")
    foreign(tmp_path / "b" / "tokenizer.json")
    here, there = (LoadedTokenizer(path=str(tmp_path / name), vocabulary=512) for name in "ab")
    assert here.recipe() == there.recipe()
    foreign(tmp_path / "b" / "tokenizer.json", ("<|endoftext|>", "<s>"))
    assert here.recipe() != there.recipe()
    commit = "0123456789" * 4
    assert LoadedTokenizer(path="some/model", revision=commit, vocabulary=512).recipe()["revision"] == commit
    for revision in ("main", "x" * 40):
        with pytest.raises(Invalid, match="revision"):
            LoadedTokenizer(path="some/model", revision=revision, vocabulary=512)


def test_what_cannot_be_loaded_is_named(tmp_path):
    foreign(tmp_path / "a" / "tokenizer.json")
    with pytest.raises(UserError, match=r"has \d+ tokens with the 2 chat tokens .*vocabulary is 256"):
        LoadedTokenizer(path=str(tmp_path / "a"), vocabulary=256).make()
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match=r"path: .*empty has no tokenizer\.json"):
        LoadedTokenizer(path=str(tmp_path / "empty"), vocabulary=256).recipe()
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UserError, match=r"bad\.json is no tokenizer"):
        LoadedTokenizer(path=str(tmp_path / "bad.json"), vocabulary=256).make()


def test_without_a_network_one_line_says_what_to_do(tmp_path):
    script = (
        "from caml.config.errors import Failure\nfrom caml.data.tokenizer_recipes import LoadedTokenizer\n"
        "try:\n    LoadedTokenizer(path='some/model', revision='0' * 40, vocabulary=512).make()\n"
        "except Failure as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("some/model cannot be reached") and done.stdout.count("\n") == 1


def test_a_sample_of_several_sources_is_taken_from_each_and_noted(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("one two\n" * 50)
    second.write_text("three four five\n" * 50)
    sources = (Files(name="a", path=str(first), tokens=10), Files(name="b", path=str(second), tokens=7))
    several = Several(sources)
    assert list(several.documents(0)) == ["one two"] * 5 + ["three four five"] * 3
    recipe = TrainedTokenizer("words", 40, several)
    prepare_tokenizer(tmp_path, recipe)
    noted = json.loads((tokenizer_folder(tmp_path, recipe) / "manifest.json").read_text())
    assert (noted["texts"], noted["words"], len(noted["sample_digest"])) == (8, 19, 64)
    other = TrainedTokenizer("words", 40, Several(sources[::-1]))
    assert other.recipe() != recipe.recipe()
    second.write_text("three four six\n" * 50)
    assert TrainedTokenizer("words", 40, several).recipe() != noted["recipe"]
    with pytest.raises(Invalid, match="sources"):
        Several(())


def test_a_trained_tokenizer_that_was_altered_is_refused(tmp_path):
    recipe = TrainedTokenizer("bpe", 300, Toy(tokens=500))
    prepare_tokenizer(tmp_path, recipe)
    file = tokenizer_folder(tmp_path, recipe) / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(Failure, match=r"tokenizer\.json is not the tokenizer that manifest\.json names"):
        prepare_tokenizer(tmp_path, recipe)
