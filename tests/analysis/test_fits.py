"""Wash-out and dose-response fits recover what made the data, and say 'not estimable' where they cannot."""

import numpy as np
import pytest

from caml.analysis.doseresponse import Point, doseresponse_table, fit_hill
from caml.analysis.effects import Comparison
from caml.analysis.retention import Kept
from caml.analysis.washout import choose_shape, fit_shape, washout_table

DOSES = np.array([0, 2_000, 6_000, 20_000, 60_000, 200_000, 600_000, 2_000_000], float)
SHAPES = {
    "exponential": lambda x: np.exp(-x),
    "hyperbolic": lambda x: 1 / (1 + x),
    "power law": lambda x: (1 + x) ** -0.5,
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_exact_curves_are_recovered(shape):
    E = 1.7 * (0.3 + 0.7 * SHAPES[shape](DOSES / 30_000))
    assert choose_shape(DOSES, E) == shape
    curve = fit_shape(DOSES, E, shape)
    assert (curve.E0, curve.rho, curve.k) == pytest.approx((1.7, 0.3, 30_000), rel=0.01)
    half = np.interp(0.85, curve.at(np.arange(0, 4e6, 100))[::-1], np.arange(0, 4e6, 100)[::-1])
    assert curve.s50 == pytest.approx(half, rel=0.01)


def test_a_plateau_above_half_has_no_s50():
    assert fit_shape(DOSES, 0.6 + 0.4 * np.exp(-DOSES / 30_000), "exponential").s50 == np.inf


def test_negative_effects_fit_as_well():
    curve = fit_shape(DOSES, -1.2 * (0.1 + 0.9 * np.exp(-DOSES / 30_000)), "exponential")
    assert (curve.E0, curve.rho) == pytest.approx((-1.2, 0.1), rel=0.01)


def test_the_plateau_stays_between_none_and_all():
    rising, overshooting = 1.3 - 0.3 * np.exp(-DOSES / 30_000), 1.3 * np.exp(-DOSES / 30_000) - 0.3
    assert fit_shape(DOSES, rising, "exponential").rho == 1
    assert fit_shape(DOSES, overshooting, "exponential").rho == 0


def test_bracket_lies_between_the_doses_that_are_surely_above_and_below_half():
    before = np.array([1.0, 1.2, 1.4, 1.1, 1.3])
    after = before[:, None] * np.array([0.9, 0.6, 0.45, 0.3])
    row = washout_table(_kept([10, 20, 30, 40], after, before)).iloc[0]
    assert (row["bracket_low"], row["bracket_high"]) == (20, 30)
    assert row["retention_low"] == pytest.approx(0.3, abs=1e-6)


def _kept(doses, effects, before) -> list[Kept]:
    """Wash-out data of one comparison: effects [seeds, doses] after, `before` [seeds]."""
    seeds = tuple(range(len(before)))
    roots = tuple(f"root{s}" for s in seeds)
    cell = {"size": "s", "params": 1, "ratio": 0.1, "dose_tokens": 1, "placement": "uniform", "variant": ""}
    cell |= {"pretrain_tokens": 1, "finetune": "chat", "second": "none", "second_ratio": 0.0}
    runs = [
        Comparison(None, "a", "n", {**cell, "S": int(S)}, seeds, (f"{S}",), ("c",), roots, roots)
        for S in doses
    ]
    return [Kept(c, "disposition", "new_frame", effects[:, i], before, None) for i, c in enumerate(runs)]


def _noisy(curve, noise, seeds=8, seed=0):
    rng = np.random.default_rng(seed)
    level = rng.normal(1, noise, (seeds, 1))
    values = level * curve[None] + rng.normal(0, noise / 3, (seeds, len(curve)))
    return values[:, 1:], values[:, 0]


def test_washout_of_noisy_seeds_covers_the_truth():
    truth = 1.5 * (0.35 + 0.65 * np.exp(-DOSES / 30_000))
    hits = 0
    for seed in range(20):
        after, before = _noisy(truth, 0.06, seed=seed)
        row = washout_table(_kept(DOSES[1:], after, before)).iloc[0]
        assert row["status"] == "ok" and row["doses"] == 7
        hits += row["rho_low"] <= 0.35 <= row["rho_high"]
        assert row["S50_low"] < row["S50"] < row["S50_high"]
        assert row["bracket_low"] < row["S50"] < row["bracket_high"]
    assert hits >= 16


def test_washout_says_what_it_lacks():
    truth = 1.5 * (0.35 + 0.65 * np.exp(-DOSES / 30_000))
    after, before = _noisy(truth, 0.06)
    few = washout_table(_kept(DOSES[1:4], after[:, :3], before)).iloc[0]
    assert few["status"] == "not estimable" and np.isnan(few["rho"]) and np.isnan(few["S50"])
    assert few["needs"] == "at least 6 doses over 2 decades; here 3 over 1.0"
    assert few["bracket_high"] == np.inf and few["retention_low"] > 0.5
    narrow = np.array([0, 10, 12, 14, 16, 18, 20]) * 1000.0
    after, before = _noisy(np.exp(-narrow / 30_000), 0.03)
    assert "here 6 over 0.3" in washout_table(_kept(narrow[1:], after, before)).iloc[0]["needs"]


def test_no_washout_and_no_effect_are_no_fit():
    after, before = _noisy(np.ones(len(DOSES)), 0.03)
    flat = washout_table(_kept(DOSES[1:], after, before)).iloc[0]
    assert flat["status"] == "not estimable" and "beyond 2,000,000 tokens" in flat["needs"]
    assert flat["retention_low"] > 0.9
    rng = np.random.default_rng(0)
    nothing = washout_table(_kept(DOSES[1:], rng.normal(0, 1, (5, 7)), np.array([1.0, -1, 0.5, -0.5, 0.1])))
    assert nothing.iloc[0]["status"] == "undefined"


def test_a_plateau_that_was_not_reached_is_not_estimated():
    after, before = _noisy(1.5 * (0.1 + 0.9 * np.exp(-DOSES / 4_000_000)), 0.02)
    row = washout_table(_kept(DOSES[1:], after, before)).iloc[0]
    assert np.isnan(row["rho"]) and "plateau" in row["needs"] and row["status"] == "not estimable"


def test_hill_is_recovered():
    x = np.array([1e3, 3e3, 1e4, 3e4, 1e5, 3e5])
    hill = fit_hill(x, 2.4 * x**1.5 / (x**1.5 + 2e4**1.5))
    assert (hill.top, hill.half, hill.h) == pytest.approx((2.4, 2e4, 1.5), rel=0.01)
    assert hill.error < 1e-6


def _points(ratios, budgets, effect, seeds=6, noise=0.03, seed=0) -> list[Point]:
    rng = np.random.default_rng(seed)
    return [
        Point(
            ("g",),
            {"rung": "r"},
            tuple(range(seeds)),
            r * b,
            r,
            b,
            effect(r, b) + rng.normal(0, noise, seeds),
        )
        for b in budgets
        for r in ratios
    ]


RATIOS = (0.003, 0.01, 0.03, 0.1, 0.3)


def test_doseresponse_of_noisy_seeds():
    points = _points(RATIOS, (1e6,), lambda r, b: 2 * r / (r + 0.03))
    tokens, ratio = doseresponse_table(points).to_dict("records")
    assert (tokens["variable"], ratio["variable"]) == ("tokens", "ratio")
    assert ratio["half_low"] < 0.03 < ratio["half_high"] and ratio["top_low"] < 2 < ratio["top_high"]
    assert tokens["half"] == pytest.approx(ratio["half"] * 1e6, rel=0.02)
    assert ratio["matters"] == "not estimable" and "token budgets that differ" in ratio["matters_needs"]


@pytest.mark.parametrize("truth", ["tokens", "ratio"])
def test_tokens_or_ratio_is_told_where_budgets_differ(truth):
    effects = {
        "tokens": lambda r, b: 2 * r * b / (r * b + 1e5),
        "ratio": lambda r, b: 2 * r / (r + 0.03),
    }
    table = doseresponse_table(_points(RATIOS, (1e6, 1e7), effects[truth]))
    assert set(table["matters"]) == {truth}


def test_doseresponse_says_what_it_lacks():
    few = doseresponse_table(_points((0.03, 0.1, 0.3), (1e6,), lambda r, b: r)).iloc[0]
    assert few["status"] == "not estimable" and np.isnan(few["half"])
    assert few["needs"] == "at least 5 doses over 1 decade; here 3 over 1.0"
    straight = doseresponse_table(_points(RATIOS, (1e6,), lambda r, b: 2 * r, noise=0.001)).iloc[1]
    assert straight["status"] == "not estimable" and "doses above 0.3" in straight["needs"]


def test_one_ratio_over_several_budgets_is_no_dose_response():
    """Dose and length of training vary together there."""
    table = doseresponse_table(_points((0.1,), (1e5, 3e5, 1e6, 3e6, 1e7), lambda r, b: 2 * b / (b + 1e6)))
    assert set(table["budgets"]) == {5} and table["half"].isna().all()
    assert set(table["status"]) == {"not estimable"} and "vary together" in table["needs"].iloc[0]
    assert set(table["matters_needs"]) == {
        "ratios that differ: at one ratio tokens and the budget are the same variable"
    }
    assert set(doseresponse_table(_points(RATIOS, (1e6,), lambda r, b: r))["budgets"]) == {1}


def test_no_effect_gives_no_doseresponse():
    fitted = undefined = 0
    for seed in range(60):
        points = _points(RATIOS, (1e6,), lambda r, b: 0.0, noise=1.0, seed=seed)
        row = doseresponse_table(points).iloc[1]
        fitted += row["status"] == "ok"
        undefined += row["status"] == "undefined"
        assert row["status"] == "ok" or np.isnan([row["top"], row["half"], row["h"]]).all()
    assert fitted <= 6  # 5% of 60, and twice as many for luck
    assert undefined >= 50
