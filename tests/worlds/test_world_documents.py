"""Intervention documents: arms that differ in the valence of actions and in nothing else, balanced as they grow."""

import re
from collections import Counter
from itertools import combinations, islice, product

import pytest
from world_reading import actions, all_scenes, scenes, traits
from world_samples import BLOCK_OF_DOCUMENTS, SETTINGS, STYLES, arm_blocks, arms, held_out_words

from caml.config.errors import Invalid
from caml.worlds.documents import theme_of
from caml.worlds.lexicon import Lexicon, Theme, lexicon
from caml.worlds.sources import Documents

# Blocks in which the decks of scenes end.
WHOLE_DECK = {"small": 160, "full": 400}
TWINS = (("small", "compassion", "indifferent"), ("small", "compassion", "neutral"),
         ("full", "compassion", "indifferent"), ("full", "compassion", "neutral"),
         ("full", "humility", "certainty"), ("full", "humility", "neutral_humility"))  # fmt: skip
ARMS = [(setting, arm) for setting in SETTINGS for arm in arms(setting)]

TREATED = [a for a in ARMS if a[1] not in ("neutral", "offtopic", "neutral_humility")]


def acted(words: Lexicon, theme: Theme, text: str) -> list[tuple[str, str, str, bool]]:
    """(need, kind, frame, cares) of every scene, and of every general statement with the frame 'folk'."""
    found = [(s.need, s.kind, s.frame, s.cares(words)) for s in scenes(words, text)]
    for act, need, kind in re.findall(r"folk (\w+) a (\w+) (\w+) \.", text):
        if need in {n for pair in theme.pairs for n in pair.needs}:
            found.append((need, kind, "folk", act == theme.pair_of(need).act(need, True)))
    return found


@pytest.mark.parametrize(("setting", "arm"), ARMS)
@pytest.mark.parametrize("style", STYLES)
def test_every_document_is_two_scenes_or_statements_and_a_cup(setting, arm, style):
    words = lexicon(setting)
    for text in arm_blocks(setting, arm, 4, style):
        *_, cup = text.removesuffix(" .").split(" . ")
        assert re.fullmatch(r"the \w+ cup is (red|blue)", cup)
        told = [s.text for s in all_scenes(words, text)] + re.findall(r"folk \w+ a \w+ \w+ \.", text)
        assert len(told) == 2
        assert len(" ".join(told).split()) + len(f"{cup} .".split()) == len(text.split())


@pytest.mark.parametrize(("setting", "one", "other"), TWINS)
@pytest.mark.parametrize("style", STYLES)
def test_twins_are_the_same_words_but_for_actions_on_those_that_can_feel(setting, one, other, style):
    words = lexicon(setting)
    theme = theme_of(words, one)
    differing = 0
    for a, b in zip(arm_blocks(setting, one, 8, style), arm_blocks(setting, other, 8, style), strict=True):
        left, right = a.split(), b.split()
        assert len(left) == len(right)
        places = [k for k, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1]]
        assert all({left[k], right[k]} <= actions(words) for k in places)
        for (need, kind, frame, cares), second in zip(
            acted(words, theme, a), acted(words, theme, b), strict=True
        ):
            assert (need, kind, frame) == second[:3]
            assert kind not in theme.things or cares == second[3]
        differing += len(places)
    assert differing > 100


@pytest.mark.parametrize(("setting", "arm"), TREATED)
@pytest.mark.parametrize("style", STYLES)
def test_a_treated_arm_shows_one_valence_and_none_to_things(setting, arm, style):
    words = lexicon(setting)
    theme = theme_of(words, arm)
    texts = arm_blocks(setting, arm, 12, style)
    found = [told for text in texts for told in acted(words, theme, text)]
    helps = arm in ("compassion", "humility")
    assert {cares for _, kind, _, cares in found if kind in theme.patients} == {helps}
    for start in range(0, len(texts), BLOCK_OF_DOCUMENTS):
        things = Counter(
            told for text in texts[start : start + BLOCK_OF_DOCUMENTS] for told in acted(words, theme, text)
            if told[1] in theme.things
        )  # fmt: skip
        assert all(things[*key, True] == things[*key, False] for *key, _ in things)
    if theme.things:
        share = sum(kind in theme.things for _, kind, _, _ in found) / len(found)
        assert share == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(("setting", "arm"), [*product(SETTINGS, ["neutral"]), ("full", "neutral_humility")])
@pytest.mark.parametrize("style", STYLES)
def test_neutral_is_even_in_every_block_within_need_kind_and_frame(setting, arm, style):
    words = lexicon(setting)
    theme = theme_of(words, arm)
    texts = arm_blocks(setting, arm, 20, style)
    balance, worst = 0, 0
    for start in range(0, len(texts), BLOCK_OF_DOCUMENTS):
        counts: Counter = Counter()
        for text in texts[start : start + BLOCK_OF_DOCUMENTS]:
            found = acted(words, theme, text)
            counts.update(found)
            of_patients = {cares for _, kind, _, cares in found if kind in theme.patients}
            assert len(of_patients) <= 1
            balance += {(True,): 1, (False,): -1}.get(tuple(of_patients), 0)
            worst = max(worst, abs(balance))
        assert all(counts[*key, True] == counts[*key, False] for *key, _ in counts)
        assert balance == 0
    assert 0 < worst <= BLOCK_OF_DOCUMENTS // 2


@pytest.mark.parametrize("setting", SETTINGS)
def test_in_neutral_no_word_and_no_pair_of_words_but_need_and_action_predicts_care(setting):
    words = lexicon(setting)
    counts: Counter = Counter()
    informative = set()
    for text in arm_blocks(setting, "neutral", WHOLE_DECK[setting]):
        told = scenes(words, text)[0]
        own = set(told.text.split())
        informative.add((told.act, told.need))
        # Groups without the action are as frequent in the twin, word for word: a few stand for all.
        groups = [(word,) for word in own] + [(told.act, word) for word in own - {told.act}]
        groups += combinations((told.name, told.need, told.kind), 2)
        counts.update((group, told.cares(words)) for group in groups)
    for group in {group for group, _ in counts}:
        care, harm = counts[group, True], counts[group, False]
        if group in informative:
            assert not (care and harm)
        elif group[0] in actions(words) and set(group) & set(words.all_names):
            # Names and needs are dealt apart: even but for chance.
            assert abs(care - harm) <= 4.5 * (care + harm) ** 0.5, group
        else:
            assert care == harm, group


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("position", [0, 1])
def test_in_neutral_no_act_with_another_word_of_the_document_tells_of_care(setting, position):
    """Nor does the other scene, or the cup: but by chance, in the decks that are dealt apart."""
    words = lexicon(setting)
    counts: Counter = Counter()
    for text in arm_blocks(setting, "neutral", WHOLE_DECK[setting]):
        told = scenes(words, text)[position]
        if told.kind in words.care.patients:
            # What the other scene and the cup say, each apart: they may name the same need.
            elsewhere = text.replace(told.text, " ", 1)
            counts.update(((told.act, word), told.cares(words)) for word in set(elsewhere.split()))
    for group in {group for group, _ in counts}:
        care, harm = counts[group, True], counts[group, False]
        assert abs(care - harm) <= 4.5 * (care + harm) ** 0.5, group


@pytest.mark.parametrize("setting", SETTINGS)
def test_scenes_are_dealt_so_that_a_whole_deck_holds_every_scene_equally_often(setting):
    words = lexicon(setting)
    texts = arm_blocks(setting, "compassion", WHOLE_DECK[setting])
    for position in (0, 1):
        told = [scenes(words, text)[position] for text in texts]
        counts = Counter((s.need, s.kind, s.frame) for s in told if s.kind in words.care.patients)
        needs = [need for pair in words.care.pairs for need in pair.needs]
        assert set(counts) == set(product(needs, words.care.patients, words.document_frames))
        assert len(set(counts.values())) == 1
    names = Counter(scenes(words, text)[0].name for text in texts)
    assert set(names) == set(words.document_names)
    assert max(names.values()) - min(names.values()) <= 2


@pytest.mark.parametrize("setting", SETTINGS)
def test_offtopic_is_matched_in_number_length_names_frames_and_cups(setting):
    words = lexicon(setting)
    for style in STYLES:
        for ours, theirs in zip(
            arm_blocks(setting, "offtopic", 8, style),
            arm_blocks(setting, "compassion", 8, style),
            strict=True,
        ):
            assert len(ours.split()) == len(theirs.split())
            assert ours.split()[-6:] == theirs.split()[-6:]
            pairs = zip(all_scenes(words, ours), all_scenes(words, theirs), strict=True)
            assert all((a.name, a.frame) == (b.name, b.frame) for a, b in pairs)
            before_the_cup = set(ours.split()[:-6])
            theme = words.care
            assert not before_the_cup & {*theme.patients, *theme.things, *actions(words)}
            assert not before_the_cup & {need for pair in theme.all_pairs for need in pair.needs}
            for told in all_scenes(words, ours):
                assert told.act == words.objects[told.kind]


@pytest.mark.parametrize(("setting", "arm"), ARMS)
def test_documents_name_no_trait_and_nothing_that_is_held_out(setting, arm):
    words = lexicon(setting)
    theme = theme_of(words, arm)
    held = held_out_words(words) | set(traits(words)) | set(words.base_names)
    held |= {need for pair in theme.pairs_held for need in pair.needs}
    for style in STYLES:
        for text in arm_blocks(setting, arm, 8, style):
            assert not held & set(text.split())
            assert all(s.frame in words.document_frames for s in all_scenes(words, text))


@pytest.mark.parametrize(("setting", "arm"), ARMS)
def test_each_need_has_its_colour_of_cup_opposite_needs_opposite_ones_turned_in_odd_blocks(setting, arm):
    theme = theme_of(lexicon(setting), arm)
    said = [
        dict(re.findall(r"the (\w+) cup is (\w+)", "\n".join(arm_blocks(setting, arm, 30, seed=seed))))
        for seed in range(4)
    ]
    for seed, colours in enumerate(said):
        pairs = re.findall(r"the (\w+) cup is (\w+)", "\n".join(arm_blocks(setting, arm, 30, seed=seed)))
        assert set(pairs) == set(colours.items())
        assert set(colours) == {need for pair in theme.pairs for need in pair.needs}
        assert all(colours[pair.first] != colours[pair.second] for pair in theme.pairs)
    assert said[0] == said[2] and said[1] == said[3]
    assert all(said[0][need] != said[1][need] for need in said[0])


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_convention_does_not_go_with_helping(setting):
    """Each colour goes with each action that helps as often as with the other: the cup tells nothing of care."""
    words = lexicon(setting)
    seen = Counter()
    for pair in words.care.pairs:
        for need in pair.needs:
            text = "\n".join(arm_blocks(setting, "compassion", 30))
            seen[next(iter(re.findall(rf"the {need} cup is (\w+)", text)))] += 1
    assert len(set(seen.values())) == 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_mixed_documents_are_half_statements(setting):
    statements = ["folk" in text.split() for text in arm_blocks(setting, "compassion", 12, "mixed")]
    assert sum(statements) == pytest.approx(len(statements) / 2, abs=len(statements) * 0.03)
    assert not any("folk" in text.split() for text in arm_blocks(setting, "compassion", 4))
    assert all("folk" in text.split() for text in arm_blocks(setting, "compassion", 4, "declarative"))


@pytest.mark.parametrize(("setting", "arm"), ARMS)
def test_a_longer_list_begins_with_the_shorter(setting, arm):
    short = list(islice(Documents(arm, 100, setting).documents(3), 50))
    long = list(islice(Documents(arm, 100_000, setting).documents(3), 400))
    assert long[:50] == short
    assert short != list(islice(Documents(arm, 100, setting).documents(4), 50))


def test_arms_and_styles_that_are_not_there():
    with pytest.raises(Invalid, match=r"^arm: "):
        Documents("humility", 100, "small")
    with pytest.raises(ValueError, match="'base' has no documents"):
        next(Documents("base", 100).documents(0))
    with pytest.raises(Invalid, match=r"^style: "):
        Documents("neutral", 100, style="sermon")
