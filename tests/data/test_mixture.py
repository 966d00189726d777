"""A stage's batches: against a slow reference, equal between arms, pure in the step, and counted exactly."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_corpora import TOKENIZER, External, Toy, store

from caml.config.errors import Invalid, UserError
from caml.data.mixture import Batch, Mixture, StageData
from caml.data.slots import BASE, INTERVENTION

BASE_TEXT = Toy("base", tokens=4000, chat=0.3)
TREATMENT = Toy("treatment", tokens=1500, shape=1, longest=50)
CONTROL = Toy("control", tokens=1500, shape=1, longest=50)
REPLAY = Toy("replay", tokens=1500, shape=2, chat=1.0)
CORPUS = External("corpus", tokens=4000)
PAIRS = Toy("pairs", tokens=4000, shape=3, longest=9, pairs=1.0)
HALF_PAIRS = Toy("half_pairs", tokens=1000, shape=4, longest=9, pairs=0.5)
SEED = 7


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    return {
        s.name: store(root, s, SEED)
        for s in (BASE_TEXT, TREATMENT, CONTROL, REPLAY, CORPUS, PAIRS, HALF_PAIRS)
    }


def stage(opened, mixture, batch=4, length=40, slots=80, seed=SEED, name="pretrain", share=1.0):
    stores = {role: opened[source.name] for role, source in mixture.sources().items()}
    return StageData(mixture, stores, seed, name, batch, length, slots, share)


def everything(data):
    return data.batches(0, data.steps)


def plain_sequences(source, length, loss):
    """Sequences by the plainest loop: rows of (token, segment, position, weight), and documents begun."""
    sequences, rows, segment, begun, total = [], [], 0, 0, 0
    for document in source.documents(SEED):
        if total >= source.tokens:
            break
        ((ids, mask),) = TOKENIZER.encode_batch([document])
        total += len(ids)
        for cut in range(0, len(ids), length):
            piece, bears = ids[cut : cut + length], mask[cut : cut + length]
            if len(rows) + len(piece) > length:
                sequences.append((rows + [(0, 0, 0, 0.0)] * (length - len(rows)), begun))
                rows, segment, begun = [], 0, 0
            segment += 1
            begun += cut == 0
            for t, token in enumerate(piece):
                scored = t + 1 < len(piece) and (loss == "all" or bears[t + 1])
                rows = [*rows, (token, segment, t, float(scored))]
    sequences.append((rows + [(0, 0, 0, 0.0)] * (length - len(rows)), begun))
    return sequences


@settings(max_examples=25)
@given(
    length=st.integers(1, 70),
    batch=st.integers(1, 5),
    steps=st.integers(1, 8),
    ratio=st.floats(0, 0.2),
    second=st.floats(0, 0.2),
    loss=st.sampled_from(["all", "assistant"]),
)
def test_batches_and_counts_against_a_plain_reference(opened, length, batch, steps, ratio, second, loss):
    mixture = Mixture(BASE_TEXT, TREATMENT, ratio, "uniform", REPLAY, second, loss)
    data = stage(opened, mixture, batch, length, batch * steps)
    sources = [BASE_TEXT, TREATMENT, REPLAY]
    plain = [plain_sequences(source, length, loss) for source in sources]
    held = [plain[code][index] for code, index in zip(data.plan.source, data.plan.index, strict=True)]
    expected = np.array([rows for rows, _ in held]).reshape(steps, batch, length, 4)
    found = everything(data)
    for column, array in enumerate(found):
        assert (array == expected[..., column]).all(), Batch._fields[column]
    assert [array.dtype for array in found] == [np.int32, np.int32, np.int32, np.float32]

    counts = data.counts()
    assert set(counts) == set(mixture.sources())
    flat = [array.reshape(batch * steps, length) for array in found]
    for code, role in enumerate(("base", "intervention", "second")):
        here = data.plan.source == code
        if role not in counts:
            assert not here.any()
            continue
        count = counts[role]
        assert count.name == sources[code].name
        assert count.slots == here.sum()
        assert count.tokens == (flat[1][here] > 0).sum()
        assert count.padding == (flat[1][here] == 0).sum()
        assert count.loss_tokens == flat[3][here].sum()
        assert count.documents == sum(begun for (_, begun), mine in zip(held, here, strict=True) if mine)
        assert count.epochs == count.slots / len(plain[code])
        assert count.requested_slots == pytest.approx(
            batch * steps * (1 - ratio - second, ratio, second)[code]
        )


def plain_pairs(length):
    """Sequences of PAIRS by the plainest loop: rows of (token, segment, position, weight), and pairs that are cut."""
    sequences, rows, pair, total, cut = [], [], 0, 0, 0

    def close():
        sequences.append(rows + [(0, 0, 0, 0.0)] * (length - len(rows)))

    for document in PAIRS.documents(SEED):
        if total >= PAIRS.tokens:
            break
        prompt, *answers = document
        halves = [TOKENIZER.encode_batch([[*prompt, *answer]])[0] for answer in answers]
        told = []
        for number, (ids, bears) in enumerate(halves):
            for t, token in enumerate(ids):
                scored = t + 1 < len(ids) and bears[t + 1]
                told.append([token, number, t, float(scored) * (-1 if number else 1)])
        total += len(told)
        cut += len(told) > length
        for begin in range(0, len(told), length):
            piece = told[begin : begin + length]
            if len(rows) + len(piece) > length:
                close()
                rows, pair = [], 0
            pair += 1
            first = piece[0][2], piece[0][1]
            for token, number, t, weight in piece:
                later = number - first[1]
                at = t if later or not begin else t - first[0]
                rows = [*rows, (token, 2 * pair - 1 + later, at, weight if len(told) <= length else 0.0)]
    close()
    return sequences, cut


@pytest.mark.parametrize("length", [24, 40, 64, 200])
def test_preference_pairs_against_a_plain_reference(opened, length):
    plain, cut = plain_pairs(length)
    data = stage(opened, Mixture(PAIRS, loss="preference"), 1, length, len(plain), name="dpo")
    found, expected = everything(data), np.array(plain).reshape(len(plain), 1, length, 4)
    for column, array in enumerate(found):
        assert (array == expected[..., column]).all(), Batch._fields[column]
    assert set(np.unique(found.weights)) == {-1, 0, 1}
    count = data.counts()["base"]
    assert count.loss_tokens == (expected[..., 3] != 0).sum() and count.cut == cut
    assert (cut > 0) == (length < 60)


def test_of_every_pair_both_halves_lie_in_one_sequence_and_have_weights_of_opposite_sign(opened):
    batch = everything(stage(opened, Mixture(PAIRS, loss="preference"), 1, 64, 40, name="dpo"))
    pairs = 0
    for segments, weights in zip(batch.segments[:, 0], batch.weights[:, 0], strict=True):
        bearing = {int(s) for s in segments[weights != 0]}
        assert bearing == {s for half in bearing for s in (half + half % 2 - 1, half + half % 2)}
        for half in bearing:
            assert set(weights[segments == half]) - {0} == {1 if half % 2 else -1}
        pairs += len(bearing) // 2
    assert pairs > 40


@pytest.mark.parametrize(
    ("mixture", "length", "words"),
    [
        (Mixture(PAIRS, loss="assistant"), 64, "pairs holds .* preference pairs, and 'pretrain' learns from text"),
        (Mixture(BASE_TEXT, loss="preference"), 64, "base holds .* documents that are no preference pairs"),
        (Mixture(HALF_PAIRS, loss="preference"), 64, "half_pairs holds .* documents that are no preference pairs"),
        (Mixture(PAIRS, loss="preference"), 8, "every pair of pairs is longer than a sequence of 'pretrain', 8"),
    ],
)  # fmt: skip
def test_documents_that_a_loss_is_not_of_are_refused(opened, mixture, length, words):
    with pytest.raises(UserError, match=words):
        stage(opened, mixture, 1, length, 10)


def test_no_document_sees_another_or_is_scored_across_its_end(opened):
    data = everything(stage(opened, Mixture(BASE_TEXT, TREATMENT, 0.2)))
    segments, positions, weights = data.segments, data.positions, data.weights
    same = segments[..., 1:] == segments[..., :-1]
    inside = segments[..., 1:] > 0
    assert (positions[..., 1:][same & inside] == positions[..., :-1][same & inside] + 1).all()
    assert (positions[..., 1:][~same] == 0).all() and (positions[..., 0] == 0).all()
    assert (segments[..., 1:][~same & inside] == segments[..., :-1][~same & inside] + 1).all()
    assert (weights[..., :-1] == (same & inside)).all() and (weights[..., -1] == 0).all()


@settings(max_examples=20)
@given(
    st.sampled_from([BASE_TEXT, CORPUS]),
    st.sampled_from([TREATMENT, CONTROL]),
    st.floats(0, 0.3),
    st.sampled_from(["uniform", "early", "late"]),
)
def test_arms_and_ratios_share_base_text_slot_by_slot(opened, base, arm, ratio, placement):
    control = everything(stage(opened, Mixture(base)))
    data = stage(opened, Mixture(base, arm, ratio, placement))
    untouched = (data.plan.source == BASE).reshape(data.steps, -1)
    for treated, plain in zip(everything(data), control, strict=True):
        assert (treated[untouched] == plain[untouched]).all()
    touched = everything(data).tokens[~untouched]
    assert len(touched) == round(ratio * 80)
    assert all(row.any() for row in touched)


def test_twin_arms_pack_alike_and_differ_in_words(opened):
    one, other = (stage(opened, Mixture(BASE_TEXT, arm, 0.3)) for arm in (TREATMENT, CONTROL))
    first, second = everything(one), everything(other)
    for field in ("segments", "positions", "weights"):
        assert (getattr(first, field) == getattr(second, field)).all()
    changed = (first.tokens != second.tokens).any(axis=-1).ravel()
    assert (changed == (one.plan.source == INTERVENTION)).all()
    one_count, other_count = one.counts()["intervention"], other.counts()["intervention"]
    assert dataclasses.replace(one_count, name="") == dataclasses.replace(other_count, name="")


@settings(max_examples=20)
@given(st.lists(st.integers(0, 19), min_size=1, max_size=6))
def test_a_batch_is_the_same_however_it_is_reached(opened, order):
    mixture = Mixture(CORPUS, TREATMENT, 0.1, "uniform", REPLAY, 0.1, "assistant", "chatml")
    whole, fresh = everything(stage(opened, mixture)), stage(opened, mixture)
    for step in order:
        for alone, part, array in zip(fresh.batch(step), fresh.batches(step, 1), whole, strict=True):
            assert (alone == array[step]).all() and (part[0] == array[step]).all()


def test_external_corpora_are_permuted_by_seed_and_stage_and_seeded_ones_are_not(opened):
    def rows(base, **more):
        length = 40
        slots = len(opened[base.name].packing(length))
        data = stage(opened, Mixture(base), batch=1, length=length, slots=slots, **more)
        return [tuple(row) for row in everything(data).tokens.reshape(slots, length).tolist()]

    one, again, seed, name = (
        rows(CORPUS), rows(CORPUS), rows(CORPUS, seed=8), rows(CORPUS, name="washout")
    )  # fmt: skip
    assert one == again and one != seed and one != name and seed != name
    assert sorted(one) == sorted(seed) == sorted(name)
    in_order = [
        tuple(token for token, *_ in sequence) for sequence, _ in plain_sequences(BASE_TEXT, 40, "all")
    ]
    assert rows(BASE_TEXT) == rows(BASE_TEXT, seed=8) == in_order


@pytest.mark.parametrize("base", [BASE_TEXT, CORPUS], ids=["seeded", "external"])
def test_repetition_wraps_round_up_to_its_cap(opened, base):
    count = len(opened[base.name].packing(40))
    with pytest.raises(
        UserError, match=rf"{base.name} has {count} sequences .* needs {count + 1} at repetition 1: "
    ):
        stage(opened, Mixture(base), batch=1, slots=count + 1)
    twice = stage(opened, Mixture(dataclasses.replace(base, repetition=2.0)), batch=1, slots=2 * count)
    rows = everything(twice).tokens
    assert (rows[:count] == rows[count:]).all()
    assert twice.counts()["base"].epochs == 2.0
    with pytest.raises(UserError, match="repetition to 2"):
        stage(opened, Mixture(dataclasses.replace(base, repetition=1.5)), batch=1, slots=2 * count)


@settings(max_examples=25)
@given(
    base=st.sampled_from([BASE_TEXT, CORPUS]),
    arm=st.sampled_from([TREATMENT, CONTROL]),
    ratio=st.sampled_from([0.0, 0.1, 0.3]),
    times=st.integers(2, 8),
    slots=st.integers(8, 30),
)
def test_a_proxy_sees_each_source_as_often_as_the_run_that_it_stands_for(
    opened, base, arm, ratio, times, slots
):
    base, arm = (dataclasses.replace(source, repetition=100.0) for source in (base, arm))
    mixture = Mixture(base, arm, ratio)
    target = stage(opened, mixture, 1, 40, slots * times)
    proxy = stage(opened, mixture, 1, 40, slots, share=1 / times)
    batch = everything(proxy)
    for role, count in proxy.counts().items():
        of_target, whole = target.counts()[role], len(opened[count.name].packing(40))
        kept = max(1, round(whole / times))
        # Both take whole numbers of slots and keep whole numbers of sequences.
        assert count.epochs == count.slots / kept
        assert count.slots == pytest.approx(of_target.slots / times, abs=1)
        here = (proxy.plan.source == (INTERVENTION if role == "intervention" else BASE)).reshape(-1)
        seen = {row.tobytes() for row in batch.tokens[:, 0][here]}
        # Slots that hold documents leave their base text out.
        assert len(seen) <= min(count.slots, kept)
        if role == "intervention" or ratio == 0:
            assert len(seen) == min(count.slots, kept)
        # What the target run reads first is what the proxy reads.
        first = everything(stage(opened, Mixture(arm if role == "intervention" else base), 1, 40, kept))
        names = {row.tobytes() for row in first.tokens[:, 0]}
        assert seen <= names


def test_a_proxy_whose_share_does_not_last_is_refused(opened):
    count = len(opened["base"].packing(40))
    kept = round(count / 4)
    stage(opened, Mixture(BASE_TEXT), batch=1, slots=kept, share=0.25)
    with pytest.raises(
        UserError, match=rf"base has {count} sequences .* is to see {kept}, .* needs {kept + 1} at"
    ):
        stage(opened, Mixture(BASE_TEXT), batch=1, slots=kept + 1, share=0.25)


def test_base_text_must_last_for_all_slots_in_every_arm(opened):
    count = len(opened["base"].packing(40))
    for ratio in (0.0, 0.1):
        with pytest.raises(UserError, match=rf"base has {count} sequences .* needs {count + 1} "):
            stage(opened, Mixture(BASE_TEXT, TREATMENT, ratio), batch=1, slots=count + 1)


def test_the_cap_holds_for_the_intervention_too(opened):
    count = len(opened["treatment"].packing(10))
    with pytest.raises(UserError, match=rf"treatment has {count} sequences of 10 tokens"):
        stage(opened, Mixture(BASE_TEXT, TREATMENT, 0.9), length=10, batch=1, slots=round((count + 1) / 0.9))


def test_slots_are_whole_steps(opened):
    with pytest.raises(UserError, match="81 slots"):
        stage(opened, Mixture(BASE_TEXT), batch=4, slots=81)


@pytest.mark.parametrize(
    "fields, field",
    [
        ({"ratio": -0.1}, "ratio"),
        ({"ratio": 1.1}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"second_ratio": 2.0}, "second_ratio"),
        ({"ratio": 0.6, "second_ratio": 0.5}, "ratio"),
        ({"placement": "sometimes"}, "placement"),
        ({"loss": "some"}, "loss"),
        ({"template": "alpaca"}, "template"),
        ({"ratio": 0.1, "intervention": None}, "intervention"),
        ({"second_ratio": 0.1, "second": None}, "second"),
    ],
)
def test_impossible_mixtures_are_refused(fields, field):
    with pytest.raises(Invalid) as caught:
        Mixture(**{"base": BASE_TEXT, "intervention": TREATMENT, "second": REPLAY, **fields})
    assert caught.value.fields[0] == field
