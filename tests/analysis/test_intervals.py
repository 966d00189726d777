"""Intervals and tests keep their error rates: by simulation, against plain references, and worked by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caml.analysis.equivalence import holm, tost
from caml.analysis.intervals import (
    block_weights,
    bootstrap,
    fieller,
    item_weights,
    jackknife,
    sign_flip,
    student,
)
from caml.analysis.power import (
    power_above,
    power_equivalent,
    sd_limits,
    seeds_above,
    seeds_equivalent,
    smallest_effect,
)
from caml.config.errors import UserError


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_student_covers_what_it_says(seeds):
    rng = np.random.default_rng(seeds)
    for draws in (rng.normal(size=(100_000, seeds)), rng.standard_t(5, size=(100_000, seeds))):
        t = student(0.7 + draws)
        assert 0.93 < ((t.low <= 0.7) & (t.high >= 0.7)).mean() < 0.965


@pytest.mark.parametrize(("seeds", "low", "high"), [(3, 0.72, 0.79), (5, 0.81, 0.88), (8, 0.86, 0.91)])
def test_percentile_bootstrap_over_few_seeds_is_too_narrow(seeds, low, high):
    rng = np.random.default_rng(seeds)
    blocks = block_weights(seeds, 400, rng)
    hits = 0
    for values in rng.normal(size=(1000, seeds, 1)):
        fixed_low, fixed_high, _, _ = bootstrap(values, blocks, np.ones((400, 1)))
        hits += fixed_low <= 0 <= fixed_high
    assert low < hits / 1000 < high


def test_student_by_hand():
    t = student(np.array([1.0, 2.0, 3.0]))
    half = 4.302653 / np.sqrt(3)  # the 97.5% point of t with 2 degrees of freedom, sd 1
    assert (t.estimate, t.sd) == (2, 1)
    assert np.allclose([t.low, t.high, t.p], [2 - half, 2 + half, 0.0741799], atol=1e-6)


@pytest.mark.parametrize("unknown", [np.nan, np.inf])
def test_of_what_is_not_finite_nothing_is_claimed(unknown: float):
    with np.errstate(invalid="ignore"):
        t = student(np.array([[unknown, 1.0, 2.0], [1.0, 2.0, 3.0]]))
    assert np.isnan([t.sd[0], t.low[0], t.high[0], t.p[0]]).all()
    assert t.p[1] == student(np.array([1.0, 2.0, 3.0])).p < 0.1


def test_one_seed_has_no_interval():
    t = student(np.array([1.0]))
    assert t.estimate == 1 and np.isnan([t.sd, t.low, t.high, t.p]).all()


def test_fieller_by_hand():
    got = fieller(np.array([1.0, 1.5, 2.5]), np.array([2.0, 3.0, 4.0]))
    assert np.allclose(got, [5 / 9, -0.423382, 0.686223], atol=1e-5)


def test_fieller_is_undefined_exactly_where_the_interval_of_the_denominator_holds_zero():
    rng = np.random.default_rng(0)
    states = []
    for _ in range(300):
        below, above = rng.normal(0.7, 0.6, 4), rng.normal(0.3, 0.2, 4)
        t = student(below)
        states.append(t.low <= 0 <= t.high)
        assert np.isnan(fieller(above, below)[0]) == states[-1]
    assert 0 < sum(states) < 300


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10), st.floats(0.1, 10))
def test_fieller_scales_with_its_units(seed, above_unit, below_unit):
    rng = np.random.default_rng(seed)
    below, above = rng.normal(3, 0.3, 5), rng.normal(1, 0.3, 5)
    plain = np.array(fieller(above, below))
    assert np.allclose(
        np.array(fieller(above_unit * above, below_unit * below)), plain * above_unit / below_unit
    )


def test_fieller_covers_what_it_says():
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(3000):
        below = rng.normal(1, 0.2, 5)
        _, low, high = fieller(0.6 * below + rng.normal(0, 0.1, 5), below)
        hits.append(low <= 0.6 <= high)
    assert 0.93 < np.mean(hits) < 0.965


def test_jackknife_of_a_mean_is_student():
    values = np.random.default_rng(2).normal(size=(6, 3))
    estimate, low, high = jackknife(lambda v: v.mean(0), values)
    t = student(values.T)
    assert np.allclose([estimate, low, high], [t.estimate, t.low, t.high])


def _items(templates: int, kinds: int, count: int) -> pd.DataFrame:
    i = np.arange(count)
    return pd.DataFrame(
        {"template": i % templates, "kind": (i // templates) % kinds, "item": [f"i{k}" for k in i]}
    )


def test_item_weights_draw_the_levels_of_a_factor_together():
    items = _items(3, 4, 12)
    items["item"] = "the same"  # one level: only templates and kinds are drawn anew
    weights = item_weights(items, 500, np.random.default_rng(0)).reshape(500, 4, 3)
    assert np.allclose(weights.sum((1, 2)), 1)
    # A product of a kind's and a template's count: every 2 x 2 minor of the table is 0.
    assert np.allclose(weights[:, :1, :1] * weights, weights[:, :1, :] * weights[:, :, :1])
    assert len(np.unique(weights.round(9), axis=0)) > 100


def test_nested_factors_never_leave_a_draw_without_items():
    items = pd.DataFrame({"template": [0, 1], "kind": ["a", "b"], "item": ["x", "y"]})
    weights = item_weights(items, 2000, np.random.default_rng(0))
    assert np.isfinite(weights).all() and np.allclose(weights.sum(1), 1)


def test_intervals_for_new_items_cover_where_kinds_differ_and_those_for_fixed_items_do_not():
    rng = np.random.default_rng(3)
    items = _items(3, 8, 96)
    blocks, weights = block_weights(8, 400, rng), item_weights(items, 400, rng)
    new = fixed = 0
    for _ in range(200):
        level = rng.normal(0, 0.4, 8)[items["kind"]] + rng.normal(0, 0.3, 96)
        values = level + rng.normal(0, 0.1, (8, 1)) + rng.normal(0, 0.2, (8, 96))
        limits = bootstrap(values, blocks, weights)
        fixed += limits[0] <= 0 <= limits[1]
        new += limits[2] <= 0 <= limits[3]
    assert new / 200 > 0.85 and fixed / 200 < 0.6


def test_tost_rejects_at_five_percent_on_the_margin_and_less_beyond_it():
    rng = np.random.default_rng(4)
    sharp = tost(rng.normal(1.0, 0.2, (200_000, 5)), 1.0)
    assert 0.046 < (sharp < 0.05).mean() < 0.054
    assert (tost(rng.normal(-1.3, 0.2, (20_000, 5)), 1.0) < 0.05).mean() < 0.001
    assert (tost(rng.normal(0.0, 0.2, (20_000, 5)), 1.0) < 0.05).mean() > 0.99
    blunt = tost(rng.normal(1.0, 3.0, (20_000, 5)), 1.0)
    assert (blunt < 0.05).mean() < 0.05


def test_tost_of_seeds_that_agree_exactly():
    assert tost(np.full(5, 0.2), 0.3) == 0 and tost(np.full(5, 0.4), 0.3) == 1
    assert np.isnan(tost(np.zeros(5), np.nan)) and np.isnan(tost(np.zeros(1), 1.0))


def _holm_plainly(p: list[float]) -> list[float]:
    """Holm's procedure run at every level that could be its answer: the smallest level that rejects each."""
    levels = sorted({min(1.0, value * k) for value in p for k in range(1, len(p) + 1)})

    def rejected(level: float) -> set[int]:
        out: set[int] = set()
        for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[i] * (len(p) - step) > level:
                break
            out.add(i)
        return out

    return [next((level for level in levels if i in rejected(level)), 1.0) for i in range(len(p))]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_against_the_procedure(p):
    assert np.allclose(holm(np.array(p)), _holm_plainly(p))


def test_holm_leaves_what_is_outside_the_family_alone():
    adjusted = holm(np.array([np.nan, 0.01, 0.04, np.nan, 0.03]))
    assert np.allclose(adjusted, [np.nan, 0.03, 0.06, np.nan, 0.06], equal_nan=True)


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 34), (0.8, 15), (1.0, 10), (2.0, 5)])
def test_seeds_of_the_t_test_are_the_published_ones(effect, seeds):
    # One-sample t test, two-sided 5%, power 80% (Cohen 1988; G*Power gives the same).
    assert seeds_above(effect, 1.0) == seeds


def test_power_against_simulation():
    rng = np.random.default_rng(5)
    draws = rng.normal(0.8, 1.0, (100_000, 8))
    t = student(draws)
    assert abs(power_above(0.8, 1.0, 8) - ((t.p < 0.05) & (t.estimate > 0)).mean()) < 0.006
    for effect, margin, seeds in ((0.0, 1.2, 8), (0.3, 1.0, 12), (0.0, 0.5, 5)):
        rate = (tost(rng.normal(effect, 1.0, (100_000, seeds)), margin) < 0.05).mean()
        assert abs(power_equivalent(margin, 1.0, seeds, effect) - rate) < 0.006


def test_seeds_for_equivalence_are_the_fewest():
    seeds = seeds_equivalent(0.3, 0.26)
    assert power_equivalent(0.3, 0.26, seeds) >= 0.8 > power_equivalent(0.3, 0.26, seeds - 1)


def test_smallest_effect_is_what_its_seeds_find():
    assert power_above(smallest_effect(0.3, 5), 0.3, 5) == pytest.approx(0.8)
    assert smallest_effect(0.3, 1) == np.inf


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_the_limits_of_a_standard_deviation_cover_what_they_say(seeds):
    found = np.random.default_rng(5).normal(0, 2.0, (50_000, seeds)).std(axis=1, ddof=1)
    low, high = sd_limits(1.0, seeds)
    assert ((found * low < 2.0) & (found * high > 2.0)).mean() == pytest.approx(0.95, abs=0.005)
    assert np.isnan(sd_limits(1.0, 1)).all()


def test_an_effect_out_of_reach_says_so():
    with pytest.raises(UserError, match=r"0\.0001 nats would need more than 10000 seeds"):
        seeds_above(0.0001, 1.0)


def test_sign_flips_are_counted_exactly():
    assert sign_flip(np.array([1.0, 2.0, 3.0])) == 2 / 8
    # Of 16 patterns: all as they are, 0.5 turned, and both mirrored.
    assert sign_flip(np.array([1.0, 2.0, 3.0, -0.5])) == 4 / 16
    assert sign_flip(np.zeros(5)) == 1 and np.isnan(sign_flip(np.ones(15)))


def test_sign_flips_hold_their_level():
    rng = np.random.Generator(np.random.Philox(3))
    p = np.array([sign_flip(values) for values in rng.normal(size=(2000, 8))])
    assert 0.03 < (p <= 0.05).mean() < 0.06
