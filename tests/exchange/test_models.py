"""Folders of models: what `transformers` makes of ours, and we of those of others."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_exchange as toy
from safetensors.numpy import save_file

from caml.ablations.imported import gin_lines
from caml.ablations.opening import open_folder
from caml.config.errors import UserError
from caml.evals.checkpoint import Checkpoint
from caml.evals.generation import Sampling
from caml.evals.prompting import ask, encode
from caml.exchange import models
from caml.exchange.models import write_folder
from caml.models.transformer import logits

TEXTS = ["ana was kind .", "the dog was wet . gus", "what is hot ?"]


def written(checkpoint: Checkpoint, folder: Path) -> Path:
    write_folder(checkpoint, folder / "toy", "# toy\n", {"caml.json": [{"seed": 0}]})
    return folder / "toy"


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("kind", "template"), [("bpe", "chatml"), ("bpe", "plain"), ("words", "chatml")])
def test_transformers_opens_it_with_the_same_tokens_logits_and_text(tmp_path, kind, template, tied):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ours = toy.checkpoint(kind, template, tied)
    folder = written(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    assert type(theirs).__name__ == "Qwen3ForCausalLM"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for prompt, answer in zip(TEXTS, ask(ours, TEXTS, Sampling(max_tokens=20)), strict=True):
        tokens = encode(ours, prompt)
        asked = tokenizer(prompt, return_tensors="pt")
        assert asked["input_ids"][0].tolist() == tokens
        row = np.array([tokens], np.int32)
        own = logits(
            ours.params, ours.model, row, np.ones_like(row), np.arange(row.size, dtype=np.int32)[None]
        )
        with torch.no_grad():
            found = theirs(input_ids=asked["input_ids"]).logits.numpy()
        assert np.abs(np.asarray(own) - found).max() < 1e-4
        made = theirs.generate(**asked, max_new_tokens=20, do_sample=False)[0, len(tokens) :].tolist()
        assert tuple(made) == answer.answer.tokens
    for turns in (1, 2, 4):
        told = tokenizer.apply_chat_template(
            toy.CHAT[:turns], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert list(told) == encode(ours, toy.CHAT[:turns])


@pytest.mark.parametrize("tied", [True, False])
def test_what_was_written_is_read_back_to_the_bit(tmp_path, tied):
    ours = toy.checkpoint(tied=tied)
    back = open_folder(written(ours, tmp_path))
    assert back.model == ours.model
    assert (back.vocabulary, back.context, back.template) == (ours.vocabulary, ours.context, "chatml")
    assert back.params.keys() == ours.params.keys()
    assert all((back.params[name] == ours.params[name]).all() for name in ours.params)
    assert encode(back, toy.CHAT) == encode(ours, toy.CHAT)
    assert encode(back, TEXTS[0]) == encode(ours, TEXTS[0])


def test_a_large_model_is_written_in_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "SHARD", 20_000)
    ours = toy.checkpoint(tied=False)
    folder = written(ours, tmp_path)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert max((folder / name).stat().st_size for name in files) < 20_000 + 4 * 300 * 24
    back = open_folder(folder)
    assert all((back.params[name] == ours.params[name]).all() for name in ours.params)


def test_weights_of_half_precision_in_several_files_with_the_head_twice_are_read(tmp_path):
    import ml_dtypes

    ours = toy.checkpoint()
    folder = written(ours, tmp_path)
    (folder / "model.safetensors").unlink()
    halves = {name: array.astype(ml_dtypes.bfloat16) for name, array in ours.params.items()}
    halves["lm_head.weight"] = halves["model.embed_tokens.weight"]
    names = sorted(halves)
    places = {name: f"model-0000{1 + (i > 9)}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: halves[name] for name in names if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    back = open_folder(folder)
    assert back.params.keys() == ours.params.keys()
    for name, array in back.params.items():
        assert array.dtype == np.float32
        assert (array == halves[name].astype(np.float32)).all()
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks model-00002-of-00002\.safetensors"):
        open_folder(folder)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    ours = toy.checkpoint()
    folder = written(ours, tmp_path)
    with pytest.raises(UserError, match="not empty"):
        written(ours, tmp_path)
    shutil.rmtree(folder)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="no space"):
        written(ours, tmp_path)
    assert list(tmp_path.iterdir()) == []


CHANGES = {
    "model_type": ("llama", "model_type is 'llama'"),
    "rope_parameters": ({"rope_type": "yarn", "rope_theta": 1e4}, "rope_type 'yarn'"),
    "attention_bias": (True, "attention_bias"),
    "use_sliding_window": (True, "a sliding window"),
    "hidden_act": ("gelu", "hidden_act 'gelu'"),
    "quantization_config": ({"bits": 4}, "quantised"),
    "hidden_size": (32, r"\[300, 24\], and \[300, 32\]"),
    "num_hidden_layers": (3, r"lacks model\.layers\.2"),
    "tie_word_embeddings": (False, r"lacks lm_head\.weight"),
    "vocab_size": (280, "model.embed_tokens.weight|vocabulary is 280"),
    "intermediate_size": ("48", r"intermediate_size is '48', and not a whole number"),
    "num_attention_heads": (0, r"config\.json: num_attention_heads: 0 is not a positive number"),
    "rms_norm_eps": ("small", r"rms_norm_eps is 'small', and not a number"),
    "max_position_embeddings": (64.5, r"max_position_embeddings is 64\.5, and not a whole"),
    "num_key_value_heads": (3, "3 key-value heads do not divide 4"),
}


@pytest.mark.parametrize("field", CHANGES)
def test_a_model_that_is_not_as_ours_is_refused_and_named(tmp_path, field):
    folder = written(toy.checkpoint(), tmp_path)
    value, says = CHANGES[field]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=says):
        open_folder(folder)
    with pytest.raises(UserError, match=says.partition("|")[0]):
        gin_lines(str(folder))


def test_what_is_broken_in_a_folder_is_named(tmp_path):
    folder = written(toy.checkpoint(), tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-9])
    for read in (open_folder, gin_lines):
        with pytest.raises(UserError, match="no whole safetensors file"):
            read(folder if read is open_folder else str(folder))
    models.write_folder(toy.checkpoint(), tmp_path / "other", "# toy\n", {})
    (tmp_path / "other/tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        gin_lines(str(tmp_path / "other"))
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is no JSON"):
        open_folder(folder)


def test_greedy_text_is_the_same_after_a_round_trip(tmp_path):
    ours = toy.checkpoint()
    back = open_folder(written(ours, tmp_path))
    how = Sampling(max_tokens=8)
    told = [[asked.row() for asked in ask(one, TEXTS, how)] for one in (ours, back)]
    assert told[0] == told[1]
    assert jax.tree.leaves(told)
