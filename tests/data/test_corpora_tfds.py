"""Corpora of TensorFlow Datasets, by the embedded world's own builder and without TensorFlow."""

import itertools
import sys

import pytest
import tensorflow_datasets as tfds

from caml.config.errors import Invalid, UserError
from caml.data.corpora.schemas import Chosen, Either
from caml.data.corpora.tfds import Tfds
from caml.worlds.sources import WORLD_VERSIONS, BaseText, Documents, Rows
from caml.worlds.tfds_builder import CamlWorld

MODULE = "caml.worlds.tfds_builder"
VERSION = f"{WORLD_VERSIONS['small']}.0.0"


def world(folder, config, **fields):
    schema = Chosen() if config.endswith("preference_pairs") else Either()
    return Tfds(
        name="world", builder=f"caml_world/{config}", revision=CamlWorld.builder_configs[config].version,
        folder=str(folder), schema=schema, module=MODULE, **fields
    )  # fmt: skip


@pytest.mark.parametrize(
    "config, source",
    [
        ("small-base", BaseText(1)),
        ("small-compassion-demonstration", Documents("compassion", 1)),
        ("small-neutral_dialogue", Rows("neutral_dialogue", 1)),
        ("small-preference_pairs", Rows("preference_pairs", 1)),
        ("full-humility-mixed", Documents("humility", 1, "full", "mixed")),
    ],
)
def test_a_corpus_of_the_world_is_the_same_through_tfds(tmp_path, monkeypatch, config, source):
    monkeypatch.setattr(CamlWorld.builder_configs[config], "count", 300)
    found = list(world(tmp_path, config, download=True).documents(0))
    assert found == list(itertools.islice(source.documents(0), 300))
    assert list(world(tmp_path, config).found(290)) == list(world(tmp_path, config).found())[290:]
    assert "tensorflow" not in sys.modules


def test_there_is_a_configuration_for_every_arm_and_style():
    names = set(CamlWorld.builder_configs)
    for arm, style in itertools.product(
        ("compassion", "indifferent", "neutral", "offtopic"), ("declarative", "mixed")
    ):
        assert {f"small-{arm}-{style}", f"full-{arm}-{style}"} <= names
    assert {"full-humility-demonstration", "full-certainty-demonstration", "small-task_dialogue"} <= names


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(
        UserError, match=rf"small-base:{VERSION} is not prepared in .*Tfds\.folder.*Tfds\.download"
    ):
        list(world(tmp_path, "small-base").documents(0))
    with pytest.raises(UserError, match="has no such builder"):
        list(Tfds(name="x", builder="caml_wurld", revision="1.0.0", folder=str(tmp_path)).documents(0))
    with pytest.raises(UserError, match="caml_world"):
        list(
            Tfds(
                name="x",
                builder="caml_world/large-base",
                revision=VERSION,
                folder=str(tmp_path),
                module=MODULE,
            ).documents(0)
        )
    with pytest.raises(UserError, match="no_module cannot be imported"):
        list(Tfds(name="x", builder="a", revision="1.0.0", module="no_module").documents(0))
    with pytest.raises(Invalid, match="revision"):
        Tfds(name="x", builder="c4/en")
    with pytest.raises(Invalid, match="builder"):
        Tfds(name="x", builder="c4/en:3.1.0", revision="3.1.0")


def test_a_split_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(CamlWorld.builder_configs["small-held_out"], "count", 10)
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        list(world(tmp_path, "small-held_out", download=True, split="test").documents(0))


def test_the_builder_is_found_by_its_name(tmp_path):
    builder = tfds.builder("caml_world/small-base", data_dir=tmp_path, file_format="array_record")
    assert builder.info.full_name == f"caml_world/small-base/{VERSION}"
