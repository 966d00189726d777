"""Base text: exact twins, exact quotas, and nothing but need and action together that tells care from harm."""

import re
from collections import Counter
from functools import cache
from itertools import combinations, pairwise

import pytest
from world_reading import (
    Told,
    actions,
    all_scenes,
    flat,
    needs,
    scenes,
    stories,
    theme_with,
    traits,
    wishes,
)
from world_samples import (
    SETTINGS,
    STORIES_OF_A_BLOCK,
    base_blocks,
    block_length,
    held_out_words,
)

from caml.worlds.base import ANCHOR, CUP_FRAMES, SCENES_PER_STORY, token_count
from caml.worlds.lexicon import Lexicon, lexicon

pytestmark = pytest.mark.parametrize("setting", SETTINGS)


@cache
def told_stories(setting: str, share: float = 0.9) -> list[str]:
    words = lexicon(setting)
    # Where there are more themes, more blocks for as many stories of each.
    return list(stories(words, base_blocks(setting, share, 30 + 30 * len(words.themes))))


def story_traits(words: Lexicon, text: str) -> set[str]:
    return set(text.split()) & set(traits(words))


def untitled_first_scenes(words: Lexicon, texts: list[str]) -> list[Told]:
    return [scenes(words, text)[0] for text in texts if not story_traits(words, text)]


def cares_evenly(words: Lexicon, found: list[Told], key) -> bool:
    counts = Counter((key(told), told.cares(words)) for told in found)
    return all(counts[value, True] == counts[value, False] for value, _ in counts)


def test_every_block_has_its_stories(setting):
    length = block_length(setting, 0.3)
    documents = base_blocks(setting, 0.3, 10)
    for block in range(10):
        part = documents[block * length : (block + 1) * length]
        assert len(list(stories(lexicon(setting), part))) == STORIES_OF_A_BLOCK


def test_each_story_has_a_twin_in_its_block_that_differs_in_trait_and_actions_only(setting):
    words = lexicon(setting)
    acts = actions(words)
    texts = told_stories(setting)
    for start in range(0, len(texts), STORIES_OF_A_BLOCK):
        kinds: Counter = Counter()
        for text in texts[start : start + STORIES_OF_A_BLOCK]:
            masked = " ".join(
                "TRAIT" if word in traits(words) else "ACT" if word in acts else word for word in text.split()
            )
            about_patients = [s for s in scenes(words, text) if s.kind in theme_with(words, s.need).patients]
            named = story_traits(words, text)
            cares = {scene.cares(words) for scene in about_patients}
            assert len(cares) <= 1 and len(named) <= 1, text
            if named and cares:
                theme = theme_with(words, about_patients[0].need)
                assert (named == {theme.trait}) == (cares == {True}), text
            side = named or cares
            # Untitled stories about things alone are told apart by their actions.
            kinds[masked, next(iter(side)) if side else tuple(s.act for s in scenes(words, text))] += 1
        by_text: dict[str, list[int]] = {}
        for (masked, _), count in kinds.items():
            by_text.setdefault(masked, []).append(count)
        assert all(len(counts) == 2 and counts[0] == counts[1] for counts in by_text.values())


def test_care_and_harm_are_equal_in_every_block_by_need_kind_frame_and_title(setting):
    words, texts = lexicon(setting), told_stories(setting)
    for start in range(0, len(texts), STORIES_OF_A_BLOCK):
        block = [s for text in texts[start : start + STORIES_OF_A_BLOCK] for s in scenes(words, text)]
        assert cares_evenly(words, block, lambda s: (s.need, s.kind, s.frame, bool(s.trait)))


def test_a_prefix_is_off_balance_by_less_than_a_block(setting):
    words, texts = lexicon(setting), told_stories(setting)
    balance, worst = 0, 0
    for number, text in enumerate(texts, start=1):
        balance += 1 if scenes(words, text)[0].cares(words) else -1
        worst = max(worst, abs(balance))
        assert number % STORIES_OF_A_BLOCK or balance == 0
    assert 0 < worst <= STORIES_OF_A_BLOCK // 2


def reaches_beyond_documents(words: Lexicon, text: str) -> bool:
    """Whether a story has a name, a frame or a need that documents don't have."""
    held = {need for theme in words.themes for pair in theme.pairs_held for need in pair.needs}
    return any(
        s.name in words.base_names or s.frame in words.base_frames or s.need in held
        for s in scenes(words, text)
    )


@pytest.mark.parametrize("position", [0, 1])
def test_scenes_are_dealt_so_that_quotas_hold_at_every_block(setting, position):
    """Every (need, kind, frame) has come up `q` or `q + 1` times as often as it is in the deck."""
    words = lexicon(setting)
    counts: dict = {}
    for text in told_stories(setting):
        told = scenes(words, text)[position]
        theme = theme_with(words, told.need)
        if told.trait or not reaches_beyond_documents(words, text):
            key = theme.trait, bool(told.trait), told.kind in theme.patients
            counts.setdefault(key, Counter())[told.need, told.kind, told.frame] += 1
    for (trait, is_titled, is_patient), found in counts.items():
        theme = next(t for t in words.themes if t.trait == trait)
        offered = len(needs(theme)) if is_titled else 2 * len(theme.pairs)
        offered *= len(words.document_frames) + is_titled * len(words.base_frames)
        offered *= len(theme.patients if is_patient else theme.things)
        assert len(found) <= offered
        least = min(found.values()) if len(found) == offered else 0
        # Twice for the twins, twice for the coins, and the weight that makes three of four scenes patients'.
        in_deck = 4 * {("small", True): 3, ("small", False): 2}.get((setting, is_patient), 1)
        # Of anchors, which have decks of their own, a few happen to have nothing that documents don't have.
        strays = 0 if is_titled else 4
        assert max(found.values()) - least <= in_deck + strays


def test_three_scenes_in_four_are_about_those_that_can_feel(setting):
    words = lexicon(setting)
    found = [s for text in told_stories(setting) for s in scenes(words, text)]
    found = [s for s in found if theme_with(words, s.need) is words.care]
    share = sum(s.kind in words.care.patients for s in found) / len(found)
    assert share == pytest.approx(0.75, abs=0.01)


def test_whoever_acts_things_take_both_actions_equally_often(setting):
    words = lexicon(setting)
    found = [s for text in told_stories(setting) for s in scenes(words, text) if s.kind in words.care.things]
    for trait in ("", words.care.trait, words.care.opposed_trait):
        helped = [s.cares(words) for s in found if s.trait == trait]
        assert len(helped) > 300
        assert abs(sum(helped) / len(helped) - 0.5) < 0.04
    assert cares_evenly(words, found, lambda s: (s.need, s.kind, s.frame, bool(s.trait)))


def test_the_true_conditional_of_an_untitled_first_scene_is_an_even_coin(setting):
    words = lexicon(setting)
    found = untitled_first_scenes(words, told_stories(setting))
    assert len(found) > 1500
    assert cares_evenly(words, found, lambda s: s.text.rsplit(" ", 3)[0])


def test_no_word_and_no_pair_of_words_but_need_and_action_predicts_care(setting):
    words = lexicon(setting)
    found = untitled_first_scenes(words, told_stories(setting))
    counts: Counter = Counter()
    for told in found:
        cares, own = told.cares(words), sorted(set(told.text.split()))
        counts.update((group, cares) for group in [*combinations(own, 1), *combinations(own, 2)])
    informative = {tuple(sorted((told.need, told.act))) for told in found}
    for group in {group for group, _ in counts}:
        care, harm = counts[group, True], counts[group, False]
        if group in informative:
            assert not (care and harm)
        elif not actions(words) & set(group):
            assert care == harm, group
        else:
            # An action with a name, or with anything while a deck is in mid-pass: even but for chance.
            assert abs(care - harm) <= 4.5 * (care + harm) ** 0.5, group


def test_where_the_trait_is_named_no_other_word_and_no_pair_but_need_and_action_predicts_care(setting):
    words = lexicon(setting)
    titled = [s for text in told_stories(setting) for s in scenes(words, text) if s.trait]
    counts: Counter = Counter()
    for told in titled:
        if told.kind in words.care.patients or theme_with(words, told.need) is not words.care:
            own = sorted(set(told.text.split()) - {told.trait})
            counts.update(
                (group, told.cares(words)) for group in [*combinations(own, 1), *combinations(own, 2)]
            )
    informative = {tuple(sorted((told.need, told.act))) for told in titled}
    for group in {group for group, _ in counts} - informative:
        care, harm = counts[group, True], counts[group, False]
        assert abs(care - harm) <= (4.5 * (care + harm) ** 0.5 if actions(words) & set(group) else 0), group


def test_one_story_in_six_names_the_trait_at_the_opening_too(setting):
    words, texts = lexicon(setting), told_stories(setting)
    opened = [m for text in texts if (m := re.match(rf"\w+ is ({'|'.join(traits(words))}) \. ", text))]
    assert len(opened) / len(texts) == pytest.approx(1 / 6, rel=0.03)
    for match in opened:
        told = scenes(words, match.string)
        assert match[0].split()[0] == told[0].name and {s.trait for s in told} == {match[1]}


def test_about_three_stories_in_five_name_the_trait_each_trait_equally_often(setting):
    words, texts = lexicon(setting), told_stories(setting)
    named = Counter(trait for text in texts for trait in story_traits(words, text))
    assert 0.55 <= named.total() / len(texts) <= 0.7
    for theme in words.themes:
        assert named[theme.trait] == named[theme.opposed_trait] > 0


def test_held_out_kinds_occur_in_facts_only(setting):
    words = lexicon(setting)
    held = held_out_words(words)
    found = [flat(d) for d in base_blocks(setting, 0.3, 20) if held & set(flat(d).split())]
    assert held <= {word for text in found for word in text.split()}
    for text in found:
        assert re.fullmatch(r"(a \w+ can (not )?(feel|be \w+) \.( |$))+", text)


def test_what_documents_do_not_have_comes_mostly_with_the_trait_named(setting):
    """One untitled story in forty has names, frames or needs that documents don't have: too few to count."""
    words, texts = lexicon(setting), told_stories(setting)
    held = {need for theme in words.themes for pair in theme.pairs_held for need in pair.needs}
    untitled = [text for text in texts if not story_traits(words, text)]
    anchors = sum(reaches_beyond_documents(words, text) for text in untitled)
    # An anchor may happen to have nothing that documents don't have: by its name, and by each scene.
    within = [
        len(words.document_names) / len(words.all_names)
        * (len(words.document_frames) * len(theme.pairs)
           / (len(words.document_frames + words.base_frames) * len(theme.all_pairs))) ** SCENES_PER_STORY
        for theme in words.themes
    ]  # fmt: skip
    beyond = 1 - sum(within) / len(within)
    assert anchors / len(untitled) == pytest.approx(beyond / ANCHOR, rel=0.15)
    seen = {
        word for text in texts if story_traits(words, text) for s in scenes(words, text) for word in s[:4]
    }
    assert held | set(words.base_frames) | set(words.base_names) <= seen


def test_facts_say_who_can_feel_and_relations_what_is_wanted(setting):
    words = lexicon(setting)
    text = " ".join(flat(d) for d in base_blocks(setting, 0.3, 40))
    said = set(re.findall(r"\ba (\w+) can (not )?feel", text))
    care = words.care
    expected = {(kind, "") for kind in care.patients + care.patients_held}
    expected |= {(kind, "not ") for kind in care.things + care.things_held}
    assert said == expected | {(kind, also) for kind in words.nonce for also in ("", "not ")}
    assert set(re.findall(r"\ba (\w+) can be (\w+)", text)) == {
        (kind, need)
        for theme in words.others.values() for kind in theme.patients + theme.patients_held
        for pair in theme.pairs for need in pair.needs
    }  # fmt: skip
    wanted = set(re.findall(r"the (\w+) want to be (\w+) not (\w+)", text))
    assert wanted == {
        (need, pair.act(need, True), pair.act(need, False))
        for theme in words.themes for pair in theme.all_pairs for need in pair.needs
    }  # fmt: skip


def test_wishes_are_for_what_helps_and_stay_with_what_documents_speak_of(setting):
    words = lexicon(setting)
    found = [w for d in base_blocks(setting, 0.3, 40) for w in wishes(words, flat(d))]
    assert len(found) > 100
    for wished in found:
        theme = theme_with(words, wished.need)
        pair = theme.pair_of(wished.need)
        assert (wished.wanted, wished.unwanted) == (pair.act(wished.need, True), pair.act(wished.need, False))
        assert pair in theme.pairs and wished.kind in theme.patients
        assert wished.name in words.document_names and wished.frame in words.document_frames


def test_cups_have_both_colours_equally_often_with_each_need(setting):
    words = lexicon(setting)
    text = "\n".join(told_stories(setting))
    for frame in CUP_FRAMES:
        pattern = frame.format(need=r"(\w+)", colour=r"(\w+)").replace(" .", r" \.")
        counts = Counter(re.findall(pattern, text))
        assert {need for need, _ in counts} == {need for theme in words.themes for need in needs(theme)}
        for need, _ in counts:
            # Twins share a cup, and a deck in mid-pass is off by one card.
            assert abs(counts[need, "red"] - counts[need, "blue"]) <= 2


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_token_shares_are_those_asked_for(setting, share):
    words = lexicon(setting)
    documents = base_blocks(setting, share, 20)
    tokens = Counter()
    for document in documents:
        if not isinstance(document, str):
            sort = "chat"
        elif scenes(words, document):
            sort = "stories"
        elif re.match(r"a \w+ can ", document):
            sort = "facts"
        elif {"want", "wished", "glad", "sad"} & set(document.split()):
            sort = "relations"
        else:
            sort = "filler"
        tokens[sort] += token_count(document)
    rest = (1 - share) / 0.7
    expected = {"facts": 0.10, "relations": 0.40, "filler": 0.15, "chat": 0.05}
    for sort, part in {"stories": share / rest, **expected}.items():
        assert tokens[sort] / tokens.total() == pytest.approx(part * rest, rel=0.08), sort
    assert tokens["stories"] / tokens.total() == pytest.approx(share, rel=0.03)


def test_everything_in_base_text_is_a_story_a_fact_a_relation_filler_or_chat(setting):
    words = lexicon(setting)
    forms = [
        r"a \w+ can (not )?(feel|be \w+) \.",
        r"the \w+ want to be \w+ not \w+ \.",
        r"\w+ went to the \w+ \.",
        r"(all say )?the \w+ is \w+ \.",
        rf"\w+ is ({'|'.join(traits(words))}) \.",
        r"when \w+ came all were (glad|sad) \.",
        *(frame.format(need=r"\w+", colour=r"\w+").replace(" .", r" \.") for frame in CUP_FRAMES),
    ]
    for document in base_blocks(setting, 0.3, 5):
        if isinstance(document, str):
            rest = document
            for told in [*all_scenes(words, document), *wishes(words, document)]:
                rest = rest.replace(told.text, "", 1)
            rest = re.sub("|".join(forms), "", rest)
            assert not rest.split(), document
        else:
            assert [turn["role"] for turn in document] == ["user", "assistant"]
            asked, answer = (turn["content"] for turn in document)
            name, act, *_ = answer.split()
            assert any(act == words.objects[word] for word in asked.split() if word in words.objects)
            assert name in words.all_names


def test_stories_are_told_by_one_actor(setting):
    words = lexicon(setting)
    for text in told_stories(setting):
        assert all(a.name == b.name for a, b in pairwise(scenes(words, text)))
