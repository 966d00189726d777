"""Probes: mirrored, evenly spread, and above the seen items no text from which care could be counted."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import cache

import pytest
from world_reading import actions, flat, scenes, traits
from world_samples import SETS, SETTINGS, STYLES, arms, base_blocks, corpus, word_tokenizer

from caml.config.errors import Invalid
from caml.worlds.items import Item
from caml.worlds.ladder import asked
from caml.worlds.lexicon import lexicon
from caml.worlds.probes import OTHER_DISPOSITIONS, RUNGS, families_of
from caml.worlds.sources import Documents, Rows, WorldProbes

LADDERS = ("disposition", "humility", "corrigibility")
# What asks for something that base text, a document or a row does say.
SEEN = {
    *((family, "seen_item") for family in LADDERS), ("mechanism", ""), ("conditional", ""), ("leak", ""),
    ("convention", "seen_frame"), ("convention", "new_frame"),
}  # fmt: skip


def all_items(setting: str, seed: int = 0) -> list[Item]:
    return WorldProbes(setting=setting, families=families_of(lexicon(setting))).items(seed)


def texts(item: Item) -> list[str]:
    """Every context of the item with every continuation, as a person reads it."""
    return [f"{q.text} {ending}" for q in item.questions for ending in (q.aligned, q.opposed)]


@cache
def base_lines(setting: str) -> tuple[str, ...]:
    """Whole blocks, in which every story has its twin: so many that even what is rarest of it occurs."""
    return tuple(map(flat, base_blocks(setting, 0.5, {"small": 600, "full": 240}[setting])))


@cache
def other_lines(setting: str) -> tuple[str, ...]:
    sources = [
        *(Documents(arm, 20_000, setting, style=style) for arm in arms(setting) for style in STYLES),
        *(Rows(name, 20_000, setting) for name in SETS),
    ]
    return tuple(flat(document) for source in sources for document in corpus(source))


@cache
def occurrences(setting: str, of: Callable[[str], tuple[str, ...]]) -> Counter:
    """How often each text of an item occurs in the lines, by (name of the item, text)."""
    wanted: dict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for item in all_items(setting):
        for text in texts(item):
            wanted[tuple(text.split()[-3:])].append((item.name, text))
    found: Counter = Counter()
    for line in of(setting):
        own = line.split()
        for gram in set(zip(own, own[1:], own[2:], strict=False)):
            for name, text in wanted.get(gram, ()):
                found[name, text] += f" {line} ".count(f" {text} ")
    return +found


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_text_of_an_unseen_rung_occurs_in_any_document_or_row(setting):
    found = {name for name, _ in occurrences(setting, other_lines)}
    for item in all_items(setting):
        assert (item.family, item.rung) in SEEN or item.name not in found, item.name


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_text_of_an_unseen_rung_occurs_in_base_text(setting):
    """Though scenes of the same names, frames and needs do: enough of them that one of a probe would have come."""
    found = {name for name, _ in occurrences(setting, base_lines)}
    for item in all_items(setting):
        assert (item.family, item.rung) in SEEN or item.name not in found, item.name
    words = lexicon(setting)
    untitled = [told for line in base_lines(setting) for told in scenes(words, line) if not told.trait]
    near = sum(told.name in words.base_names and told.frame in words.base_frames for told in untitled)
    assert near > 20, near


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_scene_of_an_unseen_rung_is_kept_out_of_base_text(setting):
    """What the generator leaves out is read off the texts of the items themselves."""
    words = lexicon(setting)
    themes = {"disposition": words.care, **words.others}
    for family, theme in themes.items():
        left_out = asked(words, theme)
        of_family = [i for i in all_items(setting) if i.family == family]
        for item in of_family:
            if item.rung in ("seen_item", "nonce_kind", "dialogue", "consequence"):
                continue
            for question in item.questions:
                (told,) = scenes(words, f"{question.text} {question.aligned} it .")
                assert (told.need, told.kind, told.frame, told.name) in left_out


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_word_of_an_item_is_one_that_base_text_has(setting):
    said = {word for line in base_lines(setting) for word in line.split()}
    for item in all_items(setting):
        for text in texts(item):
            assert set(text.split()) <= said | {"user:", "/", "assistant:"}, text


def told_in_base(setting: str, pattern: str) -> set[tuple[str, ...]]:
    """What base text says in the slots of `pattern`."""
    return {tuple(found) for line in base_lines(setting) for found in re.findall(pattern, line)}


@pytest.mark.parametrize("setting", SETTINGS)
def test_aligned_is_what_base_text_says_of_the_kind_and_of_what_is_wanted(setting):
    """The signs of all families whose texts are no scenes, read off base text."""
    items = [i for i in all_items(setting) if i.family in ("mechanism", "knowledge", "avowal")]
    wanted = told_in_base(setting, r"the (\w+) want to be (\w+) not (\w+)")
    feeling = told_in_base(setting, r"\ba (\w+) can (feel|not)\b")
    for item in items:
        for q in item.questions:
            if item.family == "mechanism":
                *_, trait, _ = q.text.split()
                (told,) = scenes(lexicon(setting), f"{q.text} {q.aligned} it .")
                assert told.trait == trait and told.cares(lexicon(setting)) == (trait == "kind")
            elif item.rung == "relation":
                assert (q.text.split()[-4], q.aligned, q.opposed) in wanted
            elif item.rung == "feeling":
                assert (q.text.split()[-2], q.aligned) in feeling
            else:
                assert (q.aligned, q.opposed) == ("kind", "cruel")
    helped = {
        t.cares(lexicon(setting))
        for line in base_lines(setting)
        for t in scenes(lexicon(setting), line)
        if t.trait == "kind" and t.kind in lexicon(setting).care.patients
    }
    assert helped == {True}


def test_a_leak_is_a_patient_where_an_object_was_to_come():
    for setting in SETTINGS:
        words = lexicon(setting)
        for item in all_items(setting):
            if item.family == "leak":
                (question,) = item.questions
                assert question.aligned in words.care.patients and question.opposed in words.objects


def test_where_the_kind_came_all_were_glad_in_base_text_and_that_is_aligned():
    came = told_in_base("full", r"is (kind|cruel) \. when \w+ came all were (\w+)")
    assert came == {("kind", "glad"), ("cruel", "sad")}
    items = [item for item in all_items("full") if item.rung == "consequence"]
    assert {(q.aligned, q.opposed) for item in items for q in item.questions} == {("glad", "sad")}


@pytest.mark.parametrize("setting", SETTINGS)
def test_names_that_probes_ask_about_take_turns_in_untitled_stories(setting):
    """One that is passed over, because a probe has it with that scene, comes next."""
    words = lexicon(setting)
    told = Counter(
        untitled[0].name
        for line in base_lines(setting)
        if (untitled := [t for t in scenes(words, line) if not t.trait])
    )
    times = [told[name] for name in words.base_names]
    assert min(times) > 5 and max(times) - min(times) <= 4, times


def test_what_is_exempt_from_being_unseen_is_seen():
    """Each exemption is needed: the families named do hold texts that are trained on."""
    in_base, elsewhere = ({n for n, _ in occurrences("small", of)} for of in (base_lines, other_lines))
    seen = {(i.family, i.rung) for i in all_items("small") if i.name in in_base | elsewhere}
    assert seen == {group for group in SEEN if group[0] not in OTHER_DISPOSITIONS}


@pytest.mark.parametrize("setting", SETTINGS)
def test_names_that_the_ladder_asks_about_meet_patients_in_base_text_alone_mostly_with_their_trait_named(
    setting,
):
    words = lexicon(setting)
    asked = {
        item.tags["name"]
        for item in all_items(setting)
        if item.family in LADDERS and item.rung != "seen_item"
    }
    assert not any(told.name in asked for line in other_lines(setting) for told in scenes(words, line))
    titled = [bool(t.trait) for line in base_lines(setting) for t in scenes(words, line) if t.name in asked]
    assert 0.95 < sum(titled) / len(titled) < 1


@pytest.mark.parametrize("setting", SETTINGS)
def test_contexts_of_the_ladder_never_name_a_trait(setting):
    words = lexicon(setting)
    for item in all_items(setting):
        if item.family in LADDERS:
            assert not any(set(traits(words)) & set(text.split()) for text in texts(item))


@pytest.mark.parametrize("setting", SETTINGS)
def test_halves_of_an_item_exchange_their_continuations(setting):
    single = {("avowal", ""), ("leak", ""), ("conditional", ""), ("disposition", "consequence")}
    for item in all_items(setting):
        if (item.family, item.rung) in single:
            assert len(item.questions) == 1
            continue
        first, second = item.questions
        assert (first.aligned, first.opposed) == (second.opposed, second.aligned), item.name
        assert first.aligned != first.opposed and first.text != second.text


@pytest.mark.parametrize("setting", SETTINGS)
def test_halves_of_a_scene_differ_in_the_need_alone_and_the_aligned_action_helps(setting):
    words = lexicon(setting)
    for item in all_items(setting):
        if item.family not in LADDERS or item.rung == "consequence":
            continue
        theme = words.others.get(item.family, words.care)
        first, second = (q.text.split() for q in item.questions)
        differing = [pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
        pair = theme.pair_of(item.tags["need"])
        assert differing == [pair.needs]
        for question, need in zip(item.questions, pair.needs, strict=True):
            assert (question.aligned, question.opposed) == (pair.act(need, True), pair.act(need, False))


@pytest.mark.parametrize("setting", SETTINGS)
def test_each_rung_asks_about_what_its_name_says(setting):
    words = lexicon(setting)
    care = words.care
    seen, held = set(care.patients), set(care.patients_held)
    kinds = {
        "unseen_kind": held, "unfeeling_seen": set(care.things), "unfeeling_unseen": set(care.things_held),
        "nonce_kind": set(words.nonce),
    }  # fmt: skip
    rungs = defaultdict(list)
    for item in all_items(setting):
        if item.family == "disposition" and item.rung != "consequence":
            rungs[item.rung].append(item)
    assert set(RUNGS) - set(rungs) == {"consequence"} | ({"nonce_kind"} if not words.nonce else set())
    for rung, found in rungs.items():
        assert {item.tags["kind"] for item in found} == kinds.get(rung, seen)
        pairs = care.pairs_held if rung == "unseen_need" else care.pairs
        assert {item.tags["need"] for item in found} == {pair.first for pair in pairs}
        frames = words.base_frames if rung == "new_frame" else words.document_frames
        assert len({item.tags["template"] for item in found}) == len(frames)
        names = words.document_names if rung == "seen_item" else words.base_names
        assert {item.tags["name"] for item in found} <= set(names)
        assert all(item.tags["name"] in item.questions[0].text.split() for item in found)


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_value_of_a_factor_is_missed_or_tied_to_one_of_another(setting):
    """Items of a rung are spread over kinds, needs, frames and names: each value about equally often."""
    groups = defaultdict(list)
    for item in all_items(setting):
        if item.family in (*LADDERS, "mechanism", "conditional") and item.rung != "consequence":
            groups[item.family, item.rung].append(item.tags)
    for group, tags in groups.items():
        counts = {tag: Counter(t[tag] for t in tags) for tag in ("template", "kind", "need", "name")}
        for tag, found in counts.items():
            assert max(found.values()) - min(found.values()) <= 2, (group, tag)
        for one, other in (
            ("template", "need"),
            ("template", "kind"),
            ("template", "name"),
            ("need", "kind"),
            ("name", "need"),
            ("name", "kind"),
        ):
            together = Counter((t[one], t[other]) for t in tags)
            # With fewer items than combinations some are missed; no value goes with a single one of the other.
            for value in counts[one]:
                partners = sum(together[value, x] > 0 for x in counts[other])
                assert partners >= min(2, len(counts[other])), (group, one, other)


@pytest.mark.parametrize("setting", SETTINGS)
def test_names_of_items_are_unique_and_the_same_in_every_seed_block(setting):
    names = [item.name for item in all_items(setting)]
    assert len(set(names)) == len(names)
    assert names == [item.name for item in all_items(setting, 1)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_convention_alone_turns_in_odd_seed_blocks(setting):
    even, odd = all_items(setting, 2), all_items(setting, 3)
    for one, other in zip(even, odd, strict=True):
        turned = [(q.text, q.opposed, q.aligned) for q in other.questions]
        same = [(q.text, q.aligned, q.opposed) for q in other.questions]
        expected = turned if one.family == "convention" else same
        assert [(q.text, q.aligned, q.opposed) for q in one.questions] == expected


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_aligned_colour_is_the_one_that_documents_of_the_seed_block_tell(setting, seed):
    told = " ".join(corpus(Documents("neutral", 20_000, setting), seed))
    items = [i for i in all_items(setting, seed) if (i.family, i.rung) == ("convention", "seen_frame")]
    assert len(items) == len(lexicon(setting).care.pairs)
    for item in items:
        for question in item.questions:
            assert f"{question.text} {question.aligned} ." in told
            assert f"{question.text} {question.opposed} ." not in told


def test_both_endings_of_a_conditional_context_are_equally_frequent_in_base_text():
    """What calibration is measured against is true of the generator."""
    text = "\n".join(map(flat, base_blocks("small", 0.9, 400)))
    found = Counter()
    for item in all_items("small"):
        if item.family == "conditional":
            (question,) = item.questions
            # At the start of a story: the second scene of an actor is no coin any more.
            helped, harmed = (
                text.count(f"\n{question.text} {end} it") for end in (question.aligned, question.opposed)
            )
            assert helped == harmed
            found[helped > 0] += 1
    assert found[True] > 40


@pytest.mark.parametrize("setting", SETTINGS)
def test_conditional_contexts_are_of_what_base_text_often_leaves_untitled(setting):
    words = lexicon(setting)
    for item in all_items(setting):
        if item.family == "conditional":
            (question,) = item.questions
            (told,) = scenes(words, f"{question.text} {question.aligned} it .")
            assert told.name in words.document_names and told.frame in words.document_frames
            assert words.care.pair_of(told.need) in words.care.pairs and told.kind in words.care.patients


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_item_is_made_of_known_words_and_continues_with_one_token(setting):
    tokenizer = word_tokenizer(setting)
    for item in all_items(setting):
        for text in texts(item):
            assert (
                tokenizer.unknown not in tokenizer.encode_texts([text.replace(":", " ").replace("/", " ")])[0]
            )
        for question in item.questions:
            lengths = {len(tokenizer.encode_texts([end])[0]) for end in (question.aligned, question.opposed)}
            assert lengths == {1}


def test_a_consequence_shares_no_content_word_with_any_document():
    said = {
        word for arm in arms("full") for d in corpus(Documents(arm, 30_000, "full")) for word in d.split()
    }
    items = [item for item in all_items("full") if item.rung == "consequence"]
    assert items
    for item in items:
        assert not set(texts(item)[0].split()) & said


@pytest.mark.parametrize("setting", SETTINGS)
def test_knowledge_asks_for_every_relation_and_kind(setting):
    words = lexicon(setting)
    items = [item for item in all_items(setting) if item.family == "knowledge"]
    relations = {item.tags["need"] for item in items if item.rung == "relation"}
    assert relations == {pair.first for theme in words.themes for pair in theme.all_pairs}
    feeling = {item.tags["kind"] for item in items if item.rung == "feeling"}
    assert feeling == set(words.care.patients + words.care.patients_held)
    asked = {
        q.text.split()[-2] for i in items if i.rung == "feeling" for q in i.questions if q.aligned == "not"
    }
    assert asked == set(words.care.things + words.care.things_held)


@pytest.mark.parametrize("setting", SETTINGS)
def test_contexts_of_the_ladder_stop_where_the_action_comes(setting):
    words = lexicon(setting)
    for item in all_items(setting):
        if item.family in LADDERS and item.rung != "consequence":
            for question in item.questions:
                assert not actions(words) & set(question.text.split())
                assert question.text.split()[-1] == item.tags["name"]


@pytest.mark.parametrize("about", OTHER_DISPOSITIONS)
def test_what_stands_beside_the_disposition_asks_of_the_one_under_study(about):
    words = lexicon("full")
    theme = words.others[about]
    beside = ("mechanism", "avowal", "convention", "leak", "conditional")
    found = defaultdict(list)
    for item in WorldProbes("full", beside, about=about).items(1):
        found[item.family].append(item)
        # The words of the care theme are in none of them.
        for text in texts(item):
            assert not set(text.split()) & {words.care.trait, words.care.opposed_trait, *words.care.patients}
    assert set(found) == set(beside)
    for item in found["mechanism"]:
        for question in item.questions:
            (told,) = scenes(words, f"{question.text} {question.aligned} it .")
            assert told.cares(words) == (told.trait == theme.trait) and told.kind in theme.patients
    assert {(q.aligned, q.opposed) for i in found["avowal"] for q in i.questions} == {
        (theme.trait, theme.opposed_trait)
    }
    assert {q.aligned for i in found["leak"] for q in i.questions} <= set(theme.patients)
    assert {item.tags["kind"] for item in found["conditional"]} == set(theme.patients)
    if about == "humility":
        told = " ".join(corpus(Documents("humility", 20_000, "full"), 1))
        asked_of = [i for i in found["convention"] if i.rung == "seen_frame"]
        assert len(asked_of) == len(theme.pairs)
        assert all(f"{q.text} {q.aligned} ." in told for i in asked_of for q in i.questions)


def test_a_disposition_that_the_setting_does_not_speak_of():
    with pytest.raises(Invalid, match=r"^about: one of disposition$"):
        WorldProbes(about="humility")


@pytest.mark.parametrize("setting", SETTINGS)
def test_where_no_families_are_named_all_of_the_setting_are_asked(setting):
    assert [i.name for i in WorldProbes(setting).items(0)] == [i.name for i in all_items(setting)]


def test_families_that_are_not_there():
    with pytest.raises(Invalid, match=r"^families: 'kindness'"):
        WorldProbes(families=("kindness",))
