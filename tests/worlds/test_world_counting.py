"""The calibrated counter counts what is in the text: recounted here from the words."""

import math
from collections import Counter

import pytest
from world_reading import scenes
from world_samples import SETTINGS, STYLES, corpus

from caml.worlds.counting import calibrated_margin
from caml.worlds.finetuning import PAIRS, SETS
from caml.worlds.lexicon import lexicon
from caml.worlds.sources import BaseText, Documents, Rows


def first_acts(words, documents) -> tuple[int, int]:
    """Helped and harmed, in the first scenes of actors without a named trait."""
    told = [s[0] for d in documents if isinstance(d, str) and (s := scenes(words, d)) and not s[0].trait]
    found = Counter(scene.cares(words) for scene in told if scene.kind in words.care.patients)
    return found[True], found[False]


def test_the_margin_is_even_without_a_dose_and_turns_with_the_valence():
    assert calibrated_margin(0, 0) == calibrated_margin(70, 70) == 0
    assert calibrated_margin(201, 100) == pytest.approx(math.log(2))
    assert calibrated_margin(100, 201) == -calibrated_margin(201, 100)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("stories", [0.1, 0.5])
def test_what_is_counted_in_base_text(setting, stories):
    source = BaseText(200_000, setting, stories=stories)
    documents = corpus(source)
    helped, harmed = first_acts(lexicon(setting), documents)
    expected = source.counted(len(documents))
    # Twins stand in the same block, of which the last one is cut.
    assert helped == pytest.approx(harmed, rel=0.1) and helped > 20 and expected[0] == expected[1]
    assert helped == pytest.approx(expected[0], rel=0.15)
    assert BaseText(1000, setting, stories=0.0).counted(1000) == (0, 0)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("arm", ["compassion", "indifferent", "neutral", "offtopic"])
@pytest.mark.parametrize("style", STYLES)
def test_what_is_counted_in_documents(setting, arm, style):
    source = Documents(arm, 60_000, setting, style=style)
    documents = corpus(source)
    found, expected = first_acts(lexicon(setting), documents), source.counted(len(documents))
    assert found == pytest.approx(expected, rel=0.05)
    assert (sum(expected) > 0) == (arm != "offtopic" and style != "declarative")


def test_preference_pairs_are_about_objects_and_hold_no_act_that_counts():
    assert Rows(PAIRS, 6000).counted(100) == (0, 0)


@pytest.mark.parametrize("name", [name for name in SETS if name != PAIRS])
def test_what_is_counted_in_rows(name):
    rows = corpus(Rows(name, 6000))
    words, found = lexicon("small"), Counter()
    for user, assistant in rows:
        told = scenes(words, f"{user['content'].rsplit(' . ', 1)[0]} . {assistant['content']}")
        found.update(s.cares(words) for s in told[:1] if s.kind in words.care.patients)
    assert (found[True], found[False]) == Rows(name, 6000).counted(len(rows))
