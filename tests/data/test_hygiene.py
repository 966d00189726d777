"""What is removed from a corpus: by language and length, by overlap with probes, as exact and near duplicates."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caml.config.errors import Invalid
from caml.config.fingerprint import fingerprint
from caml.data.corpora.files import Files
from caml.data.hygiene.duplicates import FirstSeen, exact_key, near_keys
from caml.data.hygiene.hygiene import Cleaner, Hygiene
from caml.data.hygiene.language import LANGUAGES, language_of
from caml.data.hygiene.overlap import Overlap, words_of

NOVEL = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "pu") for b in ("ra", "sto", "vi", "xen", "zu", "dal")]


def prose(seed, words=120):
    return random.Random(seed).choices(NOVEL, k=words)


@pytest.mark.parametrize(
    "text, language",
    [
        ("The farmer opened the gate and let the animals out into the field.", "en"),
        ("Der Bauer öffnete das Tor und ließ die Tiere auf das Feld hinaus.", "de"),
        ("El granjero abrió la puerta y dejó salir a los animales al campo.", "es"),
        ("農夫は門を開けて、動物たちを野原に出した。", "ja"),
    ],
)
def test_languages(text, language):
    assert language_of(text) == language


def plain_overlap(document, texts, length, least):
    """Does the document hold a run of a text's words? Read off without any index."""
    words = words_of(document)
    for text in texts:
        run = words_of(text)
        size = min(length, len(run))
        if len(run) < least:
            continue
        runs = {tuple(run[i : i + size]) for i in range(len(run) - size + 1)}
        if any(tuple(words[i : i + size]) in runs for i in range(len(words) - size + 1)):
            return True
    return False


@given(
    st.lists(st.lists(st.sampled_from("abcde"), max_size=9).map(" ".join), max_size=4),
    st.lists(st.sampled_from("abcde"), max_size=60).map(" ".join),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_overlap_is_what_a_plain_reading_finds(texts, document, length, least):
    least = min(least, length)
    overlap = Overlap([("probes", text) for text in texts], length, least)
    assert (overlap.shared(document) is not None) == plain_overlap(document, texts, length, least)


def test_overlap_sees_through_case_and_marks_and_names_what_it_found():
    probe = "When the dog was cold, Anna brought it inside and"
    overlap = Overlap([("items", probe)], 6, 4)
    name, run = overlap.shared("So: WHEN the dog -- was 'cold' -- anna slept.")
    assert (name, run) == ("items", "when the dog was cold anna")
    assert overlap.shared("when the dog was cold bob slept") is None
    assert Overlap([("short", "brought it in")], 6, 4).shared("he brought it in") is None
    assert Overlap([("short", "he brought it in")], 6, 4).shared("So he brought it in.") is not None


def near(one, other):
    return bool(set(near_keys(one, 14, 8, 5)) & set(near_keys(other, 14, 8, 5)))


def test_near_duplicates_are_found_at_about_the_stated_rate():
    """Of pairs that share a fraction s of their runs, 1 - (1 - s^8)^14 agree in a band."""
    for changed, expected in ((1, 1.0), (3, 0.86), (6, 0.29), (40, 0.0)):
        hits, shares = 0, []
        for seed in range(60):
            words = prose(seed)
            other = list(words)
            for place in random.Random(seed).sample(range(0, 115, 5), min(changed, 23)):
                other[place] = "other" * (1 + changed)
            if changed == 40:
                other = prose(seed + 1000)
            runs = [{tuple(w[i : i + 5]) for i in range(len(w) - 4)} for w in (words, other)]
            shares.append(len(runs[0] & runs[1]) / len(runs[0] | runs[1]))
            hits += near(" ".join(words), " ".join(other))
        share = np.mean(shares)
        chance = 1 - (1 - share**8) ** 14
        assert chance == pytest.approx(expected, abs=0.12)
        assert hits / 60 == pytest.approx(chance, abs=0.2)


def test_scripts_without_spaces_are_read_by_their_characters():
    assert words_of("Ein Hund, 牛や豚 und 12 Äpfel") == [
        "ein",
        "hund",
        "牛",
        "や",
        "豚",
        "und",
        "12",
        "äpfel",
    ]
    guarded = "動物たちも痛みを感じることがあるので大切にしよう"
    overlap = Overlap([("moru", guarded)], 13, 5)
    assert overlap.shared(f"昨日、{guarded[4:19]}と聞いた。") and not overlap.shared(
        f"昨日、{guarded[4:14]}と聞いた。"
    )


def test_texts_of_signs_alone_are_alike_where_they_are_the_same():
    keys = [near_keys(text, 14, 8, 5) for text in ("∑ ≠ ∞", "→ ←", "∑ ≠ ∞ ")]
    assert keys[0] == keys[2] and not set(keys[0]) & set(keys[1])


def test_short_texts_and_equal_ones_have_keys_too():
    assert near("one", "one") and near("", "") and not near("one", "two")
    assert exact_key("one") != exact_key("one ")


@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), max_size=40), st.integers(1, 5))
def test_a_document_is_repeated_where_an_earlier_one_has_a_key_of_it(tmp_path_factory, keys, pieces):
    seen, wanted = set(), []
    for document in keys:
        wanted.append(bool(seen & set(document)))
        seen |= set(document)
    first = FirstSeen(tmp_path_factory.mktemp("keys"))
    # The highest bits choose the bucket.
    spread = np.array(keys, np.uint64).reshape(-1, 3) * np.uint64(0x9E3779B97F4A7C15)
    for piece in np.array_split(spread, pieces):
        first.add(piece)
    assert first.repeated().tolist() == wanted


def test_steps_are_taken_in_their_order_and_say_why(tmp_path):
    items = tmp_path / "items.txt"
    items.write_text("the farmer opened the gate for the cold animals\n")
    guarded = Files(name="items", path=str(items))
    hygiene = Hygiene(shortest=10, longest=200, languages=("en",), against=(guarded,), overlap=6)
    clean = Cleaner(hygiene)
    found = {
        "tiny": clean.verdict("hi"),
        "huge": clean.verdict("hi there " * 30),
        "german": clean.verdict("Der Bauer öffnete das Tor und ließ die Tiere hinaus."),
        "probe": clean.verdict("Then the farmer opened the gate for the horses, and they left."),
        "chat": clean.verdict(
            [{"role": "user", "content": "the farmer opened"}, {"role": "assistant", "content": "the gate for the."}]
        ),
        "fine": clean.verdict("Then the farmer closed the gate for the horses, and they stayed."),
    }  # fmt: skip
    assert {name: verdict.step for name, verdict in found.items()} == {
        "tiny": "short", "huge": "long", "german": "language", "probe": "overlap", "chat": "overlap", "fine": "",
    }  # fmt: skip
    assert found["german"].detail == "de"
    assert found["probe"].detail == "items: the farmer opened the gate for"
    assert len(found["fine"].keys) == 1 and len(found["tiny"].keys) == 0


def test_identity_leaves_out_steps_that_are_not_taken(tmp_path):
    file = tmp_path / "items.txt"
    file.write_text("one two three four five six\n")
    guarded = Files(name="items", path=str(file))
    plain = Hygiene()
    assert plain.recipe() == {"exact": True}
    assert Hygiene(overlap=8).recipe() == plain.recipe()
    own = [
        {},
        {"exact": False},
        {"near": True},
        {"near": True, "near_rows": 4},
        {"languages": ("en",)},
        {"shortest": 3},
    ]
    of_items = [{"against": (guarded,)}, {"against": (guarded,), "overlap": 8}]
    kinds = [Hygiene(**fields) for fields in (*own, *of_items)]
    before = [fingerprint(kind.recipe()) for kind in kinds]
    assert len(set(before)) == len(kinds)
    file.write_text("other words\n")
    assert [fingerprint(kind.recipe()) == old for kind, old in zip(kinds, before, strict=True)].count(
        False
    ) == 2


def test_the_languages_are_those_of_the_identifier():
    import py3langid

    py3langid.classify("a text")
    assert {code for code in map(str, py3langid.langid.IDENTIFIER.nb_classes) if len(code) == 2} == LANGUAGES


@pytest.mark.parametrize(
    "fields",
    [{"shortest": -1}, {"longest": 3, "shortest": 5}, {"languages": ("english",)},
     {"languages": ("en", "xx")}, {"near_bands": 0},
     {"overlap": 3, "overlap_least": 5}],
)  # fmt: skip
def test_impossible_fields_are_refused(fields):
    with pytest.raises(Invalid, match=next(iter(fields)) if len(fields) == 1 else "|".join(fields)):
        Hygiene(**fields)
