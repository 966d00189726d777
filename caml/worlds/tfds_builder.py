"""The embedded world as a TensorFlow Datasets builder: versioned corpora for anybody, without TensorFlow.

Importing this module registers it:

    import caml.worlds.tfds_builder, tensorflow_datasets as tfds
    builder = tfds.builder("caml_world/small-compassion-demonstration", file_format="array_record")
    builder.download_and_prepare()
    builder.as_data_source("train")[0]["text"]
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from caml.worlds import documents, finetuning
from caml.worlds.finetuning import Preference
from caml.worlds.lexicon import SETTINGS
from caml.worlds.sources import WORLD_VERSIONS, BaseText, Documents, Rows

COUNT = 10_000
"""Documents of a split."""


@dataclasses.dataclass(eq=False)
class WorldConfig(tfds.core.BuilderConfig):
    """A corpus of the world. `seed` is the seed block that it is drawn for, `count` the documents of each split."""

    source: Any = None
    seed: int = 0
    count: int = COUNT


def _configs() -> Iterator[WorldConfig]:
    for setting in SETTINGS:
        found: dict[str, tuple[Any, str]] = {
            "base": (BaseText(1, setting), "base text, 30% of it stories"),
            "held_out": (BaseText(1, setting, part="held_out"), "base text for measuring the tax"),
        }
        arms = documents.ARMS if setting == "full" else documents.ARMS[:4]
        for arm, style in itertools.product(arms, documents.STYLES):
            found[f"{arm}-{style}"] = Documents(arm, 1, setting, style), f"{style} documents of the arm {arm}"
        for rows in finetuning.SETS:
            found[rows] = Rows(rows, 1, setting), f"the fine-tuning set {rows}"
        for name, (source, description) in found.items():
            yield WorldConfig(
                name=f"{setting}-{name}",
                version=f"{WORLD_VERSIONS[setting]}.0.0",
                description=f"The {setting} setting: {description}.",
                source=source,
            )


class CamlWorld(tfds.core.GeneratorBasedBuilder):
    """Corpora of the embedded world, one configuration for each arm and style, fine-tuning set and part of base text.

    A row is `text`, or a conversation in `messages`, and the other is empty; of preference pairs it has `prompt`,
    `chosen` and `rejected`, each a list of messages.
    """

    VERSION = tfds.core.Version(f"{max(WORLD_VERSIONS.values())}.0.0")
    BUILDER_CONFIGS = list(_configs())  # noqa: RUF012 (the library's own name)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        messages = tfds.features.Sequence({"role": text, "content": text})
        features = {"text": text, "messages": messages}
        if self.builder_config.source.name == finetuning.PAIRS:
            features = dict.fromkeys(Preference._fields, messages)
        return self.dataset_info_from_configs(
            description="A procedural corpus in simple English in which every probability is known by construction.",
            features=tfds.features.FeaturesDict(features),
            license="CC0-1.0",
            # In the order in which they are made: every prefix is balanced.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        config = self.builder_config
        made = itertools.islice(config.source.documents(config.seed), config.count)
        for number, document in enumerate(made):
            if isinstance(document, Preference):
                yield number, document._asdict()
                continue
            text = document if isinstance(document, str) else ""
            yield number, {"text": text, "messages": [] if text else list(document)}
