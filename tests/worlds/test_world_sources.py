"""Sources of the embedded world: the same text for the same seed everywhere, in words that are one token each."""

import json
import os
import subprocess
import sys
from itertools import islice

import pytest
from world_reading import flat
from world_samples import SETS, SETTINGS, STYLES, arms, corpus, word_tokenizer

from caml.config.errors import Invalid
from caml.worlds.base import token_count
from caml.worlds.lexicon import lexicon
from caml.worlds.sources import BaseText, Documents, Rows, Words, WorldProbes

# SHA-256 (first 16 digits) of the first 1,000 documents of seed 1, and of all items. Where one of these changes,
# every StageRun that was trained on the text is stale: raise its entry of WORLD_VERSIONS in caml/worlds/sources.py,
# then put here what the failing test prints.
PINNED = json.loads(
    """
{
    "small base_training 0.3": "c65a4e8aa416a2a9",
    "small base_training 0.5": "cd642a57e166171f",
    "small base_held_out 0.3": "cfa27d7235f73240",
    "small compassion demonstration": "06a4ffbe480ddd81",
    "small indifferent demonstration": "773d762ae4c952a3",
    "small neutral demonstration": "16dcc04bb5d646ac",
    "small offtopic demonstration": "f567f50771215d8a",
    "small neutral declarative": "d98502d4e1d5bf7d",
    "small neutral mixed": "248ae37e415de76b",
    "small neutral_dialogue": "700e484853b71f36",
    "small task_dialogue": "8499532c0efa8b58",
    "small underdetermined": "64c8a50b9d0dbf08",
    "small counter_evidence": "866d42a01c733420",
    "small pro_evidence": "641bfc72ef467db4",
    "small preference_pairs": "d022edca49e8bdca",
    "small items": "ba67186bac013ab0",
    "full base_training 0.3": "35e0ff1721c358cf",
    "full base_training 0.5": "90471e031b774f92",
    "full base_held_out 0.3": "05cdda8391968836",
    "full compassion demonstration": "b0832c166327f962",
    "full indifferent demonstration": "fc16cb764e44e2b4",
    "full neutral demonstration": "4c3e4febc7e3c6a8",
    "full offtopic demonstration": "ceb90735d8c5f7f3",
    "full humility demonstration": "a25d70a0a685d24a",
    "full certainty demonstration": "ff3be101bbfb7a87",
    "full neutral_humility demonstration": "f623f591f012bdf4",
    "full neutral declarative": "5606faa506430ebd",
    "full neutral mixed": "08a796548e5a4a40",
    "full neutral_dialogue": "9714a5105bd8000a",
    "full task_dialogue": "8979e38dbeaf41f5",
    "full underdetermined": "be4688fff20c8eac",
    "full counter_evidence": "27b6aeacb36400f9",
    "full pro_evidence": "47c23aa4e7b6c54a",
    "full preference_pairs": "470f40265b748efb",
    "full items": "90e4c6a5a20ab96d"
}
"""
)

DIGESTS = """
import hashlib, json
from itertools import islice
from caml.worlds.lexicon import lexicon
from caml.worlds.probes import families_of
from caml.worlds.sources import BaseText, Documents, Rows, WorldProbes

def digest(values):
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]

found = {}
for setting, arms in (("small", 4), ("full", 7)):
    sources = [BaseText(1, setting), BaseText(1, setting, stories=0.5), BaseText(1, setting, part="held_out")]
    names = ("compassion", "indifferent", "neutral", "offtopic", "humility", "certainty",
             "neutral_humility")[:arms]
    sources += [Documents(arm, 1, setting) for arm in names]
    sources += [Documents("neutral", 1, setting, style=style) for style in ("declarative", "mixed")]
    sources += [
        Rows(rows, 1, setting)
        for rows in ("neutral_dialogue", "task_dialogue", "underdetermined", "counter_evidence", "pro_evidence",
                     "preference_pairs")
    ]
    for source in sources:
        style = getattr(source, "style", getattr(source, "stories", ""))
        found[f"{setting} {source.name} {style}".strip()] = digest(list(islice(source.documents(1), 1000)))
    families = families_of(lexicon(setting))
    items = WorldProbes(setting=setting, families=families).items(1)
    asked = [[i.name, i.family, i.rung, [[q.text, q.aligned, q.opposed] for q in i.questions]] for i in items]
    found[f"{setting} items"] = digest(asked)
print(json.dumps(found, indent=4))
"""


def digests(hash_seed: str) -> dict[str, str]:
    """What a fresh process with the given order of hashes draws."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", DIGESTS], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def sources(setting: str) -> list[BaseText | Documents | Rows]:
    return [
        BaseText(1, setting, stories=0.5),
        *(Documents(arm, 1, setting, style=style) for arm in arms(setting) for style in STYLES),
        *(Rows(name, 1, setting) for name in SETS),
    ]


def test_a_seed_gives_the_same_text_in_every_process_and_version():
    first = digests("1")
    assert first == digests("4321")
    assert first == PINNED, json.dumps(first, indent=4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_parts_and_seed_blocks_of_base_text_are_apart(setting):
    drawn = [
        list(islice(BaseText(1, setting, part=part).documents(seed), 200))
        for part in ("training", "continuation", "held_out")
        for seed in (0, 1)
    ]
    assert all(a != b for k, a in enumerate(drawn) for b in drawn[:k])


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_word_is_one_token(setting):
    tokenizer = word_tokenizer(setting)
    words = lexicon(setting).words()
    encoded = tokenizer.encode_texts(words)
    assert all(len(ids) == 1 for ids in encoded)
    assert len({ids[0] for ids in encoded}) == len(words) == len(set(words))
    assert not {ids[0] for ids in encoded} & {tokenizer.unknown, *tokenizer.special.values()}


def test_the_small_setting_has_at_most_128_tokens():
    assert word_tokenizer("small").size <= 128


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_text_holds_a_word_that_the_tokenizer_does_not_know(setting):
    tokenizer = word_tokenizer(setting)
    for source in sources(setting):
        for document, (ids, _) in zip(
            sample := list(islice(source.documents(0), 600)), tokenizer.encode_batch(sample), strict=True
        ):
            assert tokenizer.unknown not in ids, flat(document)
            # Each word a token; turns of a conversation have their marks, and every document its start.
            assert len(ids) == token_count(document) + (not isinstance(document, str))


@pytest.mark.parametrize("setting", SETTINGS)
def test_words_are_the_whole_lexicon_whatever_the_seed(setting):
    (text,) = Words(setting).documents(0)
    assert text.split() == list(lexicon(setting).words())
    assert Words(setting).recipe(0) == Words(setting).recipe(7)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_recipe_tells_texts_apart_and_leaves_out_how_they_are_used(setting):
    recipes = [json.dumps(s.recipe(seed), sort_keys=True) for s in sources(setting) for seed in (0, 1)]
    assert len(set(recipes)) == len(recipes)
    assert BaseText(9, setting, repetition=4.0).recipe(0) == BaseText(9, setting).recipe(0)
    assert WorldProbes(setting=setting).recipe() != WorldProbes(setting=setting, gate=2.0).recipe()


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_larger_corpus_begins_with_the_smaller(setting):
    for source in sources(setting):
        larger = type(source)(**{**vars(source), "tokens": 6000})
        smaller = type(source)(**{**vars(source), "tokens": 2000})
        short, long = corpus(smaller), corpus(larger)
        assert len(short) < len(long) and long[: len(short)] == short


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: BaseText(0), "tokens"),
        (lambda: BaseText(1, "tiny"), "setting"),
        (lambda: BaseText(1, stories=0.95), "stories"),
        (lambda: BaseText(1, part="test"), "part"),
        (lambda: BaseText(1, repetition=0.0), "repetition"),
        (lambda: Words("tiny"), "setting"),
        (lambda: WorldProbes("tiny"), "setting"),
    ],
)
def test_what_is_impossible_is_refused_by_field(make, field):
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.fields[0] == field
