"""Effects from frozen tables: exact pairing, stated claims, retention, and refusals by name."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
from synthetic import GATE, PRETRAIN_TOKENS, synthetic_tables, true_effect

from caml.analysis.contrasts import Contrast
from caml.analysis.effects import Comparison
from caml.analysis.othercontrols import _row
from caml.analysis.results import Results, analyse
from caml.analysis.tables import DATA_DICTIONARY, Tables
from caml.config.errors import Failure, Invalid, UserError

CONTROL = {"ARM": "neutral"}
AT = {"SIZE": "s27k", "RATIO": 0.3, "SFT_TOKENS": 0, "COUNTER": 0.0, "PRETRAIN_TOKENS": PRETRAIN_TOKENS}
INSTALLS = Contrast("installs", {"ARM": "compassion"}, CONTROL, AT, "new_frame", "above", 0.1, True)
CONTRASTS = (
    INSTALLS,
    Contrast("turned", {"ARM": "indifferent"}, CONTROL, AT, "new_frame", "below", primary=True),
    Contrast("upside down", {"ARM": "indifferent"}, CONTROL, AT, "new_frame", "above", primary=True),
    Contrast(
        "untrained",
        {"ARM": "base", "RATIO": 0.0, "PRETRAIN_TOKENS": 0},
        None,
        AT,
        "new_frame",
        "equivalent",
        0.3,
        True,
    ),
    Contrast(
        "base differs",
        {"ARM": "base", "RATIO": 0.0},
        {"ARM": "compassion"},
        AT,
        "new_frame",
        "equivalent",
        0.3,
        True,
    ),
    Contrast(
        "large", {"ARM": "compassion"}, CONTROL, {**AT, "SIZE": "s100k"}, "new_frame", "above", primary=True
    ),
    Contrast("aside", {"ARM": "compassion"}, CONTROL, AT, "seen_item", "above"),
)


@pytest.fixture(scope="module")
def tables() -> Tables:
    return synthetic_tables()


@pytest.fixture(scope="module")
def results(tables) -> Results:
    return analyse(tables, CONTRASTS, CONTROL, gate=GATE, locked={"installs": True}, draws=200)


def _plain(tables: Tables, runs: pd.DataFrame, rung: str) -> pd.Series:
    """Mean margin by seed of the cells `runs` on a rung: joins and means, nothing else."""
    items = tables.items[tables.items["rung"] == rung]
    joined = tables.margins.merge(items[["item"]]).merge(runs[["stagerun", "seed"]])
    return joined.groupby("seed")["margin"].mean()


def test_effects_are_paired_differences(tables, results):
    cells = tables.cells[(tables.cells["size"] == "s27k") & (tables.cells["second_ratio"] == 0)]
    rows = results.effects[(results.effects["contrast"] == "") & (results.effects["control"] == "neutral")]
    for ratio in (0.03, 0.3):
        for S in (0, 49_000):
            here = cells[(cells["ratio"] == ratio) & (cells["S"] == S)]
            over = _plain(tables, here[here["arm"] == "compassion"], "new_frame")
            over -= _plain(tables, here[here["arm"] == "neutral"], "new_frame")
            (row,) = rows[
                (rows["size"] == "s27k")
                & (rows["treatment"] == "compassion")
                & (rows["ratio"] == ratio)
                & (rows["S"] == S)
                & (rows["second_ratio"] == 0)
                & (rows["rung"] == "new_frame")
            ].to_dict("records")
            assert row["estimate"] == pytest.approx(over.mean()) and row["sd"] == pytest.approx(over.std())
            assert row["seeds"] == 5
            truth = true_effect("compassion", ratio, S, effect=2.0, plateau=0.4, half=60_000)
            assert abs(row["estimate"] - truth) < 0.35


def test_every_arm_is_compared_and_stands_alone(tables, results):
    named = results.effects["contrast"] == ""
    paired = results.effects[named & (results.effects["control"] == "neutral")]
    alone = results.effects[named & (results.effects["control"] == "")]
    rungs = len(tables.items.groupby(["family", "rung"]))
    assert len(paired) == (5 + 2) * 6 * rungs  # arms with an intervention but the control, times fine-tunings
    assert len(alone) == ((9 + 3) * 6 + 1) * rungs
    assert set(alone["treatment"]) >= {"base", "untrained", "neutral"}
    assert set(results.effects.loc[named, "verdict"]) == {"exploratory", "too few seeds"}


def test_claims(results):
    named = results.effects.set_index("contrast")
    assert dict(named.loc[[c.name for c in CONTRASTS], "verdict"]) == {
        "installs": "supported",
        "turned": "supported",
        "upside down": "contradicted",
        "untrained": "supported",
        "base differs": "contradicted",
        "large": "too few seeds",
        "aside": "exploratory",
    }
    assert list(named.loc[["installs", "turned"], "locked"]) == [True, False]
    assert np.isnan(named.loc[["large", "aside"], "p_holm"].astype(float)).all()
    family = named.loc[["installs", "turned", "upside down", "untrained", "base differs"]]
    smallest = min(family["p"].iloc[:3].min(), family["tost_p"].iloc[3:].min())
    assert family["p_holm"].min() == pytest.approx(5 * smallest)


def test_seeds_are_listed_behind_every_estimate(results):
    keys = ["contrast", "family", "rung", "treatment", "control", "size", "ratio", "S", "second_ratio"]
    keys += ["pretrain_tokens"]
    means = results.seed_effects.groupby(keys)["effect"].agg(["mean", "size"])
    joined = results.effects.set_index(keys).join(means)
    assert len(joined) == len(results.effects)
    assert np.allclose(joined["estimate"], joined["mean"]) and (joined["seeds"] == joined["size"]).all()
    paired = results.seed_effects[results.seed_effects["control"] != ""]
    assert np.allclose(paired["treated_margin"] - paired["control_margin"], paired["effect"])


def test_shuffled_tables_give_the_same_results(tables, results):
    shuffled = dataclasses.replace(
        tables,
        **{
            name: getattr(tables, name).sample(frac=1, random_state=1)
            for name in ("cells", "stageruns", "items", "margins")
        },
    )
    again = analyse(shuffled, CONTRASTS, CONTROL, gate=GATE, locked={"installs": True}, draws=200)
    for name, frame in results.frames.items():
        pd.testing.assert_frame_equal(
            frame.reset_index(drop=True), again.frames[name].reset_index(drop=True), rtol=1e-12, obj=name
        )


def test_flagged_members_are_counted_and_kept(results):
    rows = results.effects[
        (results.effects["treatment"] == "compassion")
        & (results.effects["ratio"] == 0.03)
        & (results.effects["rung"] == "new_frame")
    ]
    assert set(rows["flagged"]) == {1} and set(rows["seeds"]) == {5}
    assert set(results.flagged["name"].str.split("-sft").str[0]) == {"s27k-compassion-0.03-3"}
    assert len(results.flagged) == 6 and set(results.flagged["reason"]) == {"never learned the mechanism"}


def test_diverged_members_and_their_children_are_flagged(tables):
    runs = tables.stageruns.copy()
    root = tables.cells.query("arm == 'neutral' and ratio == 0.3 and seed == 1 and size == 's27k' and S == 0")
    runs.loc[runs["stagerun"] == root["stagerun"].iloc[0], "diverged"] = True
    found = analyse(dataclasses.replace(tables, stageruns=runs), (INSTALLS,), CONTROL, gate=GATE, draws=10)
    assert (found.flagged["reason"] == "diverged").sum() == 6
    assert found.effects.iloc[0]["flagged"] == 1


def test_members_that_skipped_steps_and_their_children_are_flagged(tables):
    root = tables.cells.query("arm == 'neutral' and ratio == 0.3 and seed == 1 and size == 's27k' and S == 0")
    runs = tables.stageruns.assign(skipped=3 * (tables.stageruns["stagerun"] == root["stagerun"].iloc[0]))
    with_skips = dataclasses.replace(tables, stageruns=runs)
    found = analyse(with_skips, (INSTALLS,), CONTROL, gate=GATE, draws=10)
    assert (found.flagged["reason"] == "skipped steps at spikes of its gradient").sum() == 6
    assert found.effects.iloc[0]["flagged"] == 1
    told = with_skips.dictionary.set_index(["table", "column"]).index
    assert ("stageruns", "skipped") in told and ("stageruns", "skipped") not in tables.dictionary.set_index(
        ["table", "column"]
    ).index


def test_retention_is_a_ratio_beside_its_effects(results):
    table = results.retention[results.retention["family"] == "disposition"]
    good = table[table["status"] == "ok"]
    assert np.allclose(good["estimate"], good["E"] / good["E0"])
    assert ((good["low"] < good["estimate"]) & (good["estimate"] < good["high"])).all()
    assert ((good["E0_low"] > 0) | (good["E0_high"] < 0)).all()
    undefined = table[table["status"] == "undefined"]
    assert len(undefined) and ((undefined["E0_low"] <= 0) & (undefined["E0_high"] >= 0)).all()
    assert undefined["estimate"].isna().all() and undefined["E"].notna().all()
    washed = good[
        (good["rung"] == "new_frame") & (good["size"] == "s27k") & (good["treatment"] == "compassion")
    ]
    assert washed["over_convention"].notna().all()


def test_retention_of_the_convention_needs_no_control(results):
    convention = results.retention[results.retention["family"] == "convention"]
    alone = convention[
        (convention["control"] == "") & (convention["S"] == 147_000) & (convention["size"] == "s27k")
    ]
    assert set(alone["treatment"]) == {"compassion", "neutral", "indifferent", "offtopic"}
    kept = 0.4 + 0.6 / (1 + 147 / 60)
    assert np.allclose(alone["estimate"], kept, atol=0.15)


def test_retention_without_a_measurement_before_is_not_estimable(tables):
    cells = tables.cells[tables.cells["S"] > 0]
    roots = set(tables.cells.loc[tables.cells["S"] == 0, "stagerun"])
    margins = tables.margins[~tables.margins["stagerun"].isin(roots)]
    found = analyse(
        dataclasses.replace(tables, cells=cells, margins=margins), (), CONTROL, gate=GATE, draws=10
    )
    assert set(found.retention["status"]) == {"not estimable"} and found.retention["E"].notna().all()


def test_sizes_are_compared_at_matched_dose_and_effect(tables):
    flat = synthetic_tables(seed=3, effect=2.0, noise=0.05, seeds=6, large_seeds=6)
    sizes = analyse(flat, (), CONTROL, gate=GATE, draws=10).sizes
    sizes = sizes[(sizes["rung"] == "new_frame") & (sizes["treatment"] == "compassion")]
    sizes = sizes[(sizes["S"] == 147_000) & (sizes["second"] == "none")]
    (dose,) = sizes[sizes["matching"] == "dose"].to_dict("records")
    assert (dose["size"], dose["other_size"], dose["ratio"], dose["status"]) == ("s27k", "s100k", 0.3, "ok")
    assert dose["difference"] == pytest.approx(dose["retention"] - dose["other_retention"])
    assert dose["low"] < dose["difference"] < dose["high"] and abs(dose["difference"]) < 0.15
    matched = sizes[(sizes["matching"] == "E(0)") & (sizes["size"] == "s27k") & (sizes["ratio"] == 0.03)]
    assert set(matched["status"]) == {"not estimable"}
    assert matched["needs"].iloc[0].startswith("ratios at s100k with E(0) on both sides of 0.")


def test_with_one_seed_retention_is_undefined_for_want_of_an_interval(tables):
    one = dataclasses.replace(tables, cells=tables.cells.query("seed == 0"))
    kept = analyse(one, (), CONTROL, gate=GATE, draws=5).retention
    told = set(kept.loc[kept["status"] == "undefined", "needs"])
    assert told == {"two seed blocks at least: one has no interval"}


def test_matched_effect_is_read_between_two_ratios():
    """E(0) of the large size lies half-way between two ratios of the small one, whose R are 0.4 and 0.8."""
    rows = []
    for seed in range(6):
        wobble = 1 + 0.02 * (seed - 2.5)
        for size, ratio, before, after in (("s", 0.1, 1.0, 0.4), ("s", 0.3, 2.0, 1.6), ("l", 0.3, 1.5, 1.5)):
            for S, value in ((0, before), (100, after)):
                rows += [
                    (size, "compassion", ratio, S, seed, value * wobble),
                    (size, "neutral", ratio, S, seed, 0.0),
                ]
    found = analyse(_tiny(rows), (), CONTROL, gate=-1.0, draws=10).sizes
    (row,) = found[(found["matching"] == "E(0)") & (found["size"] == "l")].to_dict("records")
    assert row["retention"] == pytest.approx(1.0) and row["other_retention"] == pytest.approx(0.6)
    assert row["difference"] == pytest.approx(0.4) and row["low"] <= 0.4 <= row["high"]


def test_matched_effects_are_not_read_between_token_budgets():
    """As above, and the small size has a second budget, whose one dose would be the nearer neighbour."""
    rows = []
    shapes = (("s", 0.1, 1.0, 0.4), ("s", 0.3, 2.0, 1.6), ("s", 0.2, 1.6, 1.6), ("l", 0.3, 1.5, 1.5))
    for seed, (size, ratio, before, after) in itertools.product(range(6), shapes):
        for S, value in ((0, before), (100, after)):
            wobbly = value * (1 + 0.02 * (seed - 2.5))
            rows += [(size, "compassion", ratio, S, seed, wobbly), (size, "neutral", ratio, S, seed, 0.0)]
    tables = _tiny(rows)
    budget = np.where(tables.cells["ratio"] == 0.2, 2000, 1000)
    two = dataclasses.replace(tables, cells=tables.cells.assign(pretrain_tokens=budget))
    found = analyse(two, (), CONTROL, gate=-1.0, draws=10).sizes
    (row,) = found[(found["matching"] == "E(0)") & (found["size"] == "l")].to_dict("records")
    assert (row["pretrain_tokens"], row["other_pretrain_tokens"]) == (1000, 1000)
    assert row["other_retention"] == pytest.approx(0.6)
    # The small size at the budget that the large one lacks is read off at the one it has.
    other = found[(found["matching"] == "E(0)") & (found["ratio"] == 0.2)]
    assert list(other["other_pretrain_tokens"]) == [1000]


def test_a_dose_has_one_name_in_all_comparisons_whatever_their_seeds(tables):
    """Realised doses differ between seed blocks, and the larger size has not the first of these."""
    cells = tables.cells.assign(S=tables.cells["S"] + tables.cells["seed"] * (tables.cells["S"] > 0))
    cells = cells[(cells["size"] != "s100k") | (cells["seed"] > 0)]
    found = analyse(dataclasses.replace(tables, cells=cells), (), CONTROL, gate=1.0, draws=5)
    for frame in (found.effects, found.retention, found.sizes, found.seed_effects):
        assert set(frame["S"]) - {0} == {16_000, 49_000, 147_000}
    assert (found.sizes["matching"] == "dose").any()


def test_other_controls_stand_beside_the_stated_one(tables, results):
    rows = results.controls[results.controls["contrast"] == "installs"].set_index("control")
    assert set(rows.index) == {"offtopic", "base"} and set(rows["stated"]) == {"neutral"}
    cells = tables.cells[(tables.cells["S"] == 0) & (tables.cells["pretrain_tokens"] > 0)]
    cells = cells[cells["size"] == "s27k"]
    over = _plain(tables, cells[(cells["arm"] == "compassion") & (cells["ratio"] == 0.3)], "new_frame")
    over -= _plain(tables, cells[cells["arm"] == "base"], "new_frame")
    assert rows.loc["base", "estimate"] == pytest.approx(over.mean())
    assert rows["agrees"].all()


def test_another_control_counts_in_the_seed_blocks_that_it_has(tables):
    fewer = tables.cells.query("not (arm == 'offtopic' and seed > 2)")
    found = analyse(
        dataclasses.replace(tables, cells=fewer), (INSTALLS,), CONTROL, gate=1.0, draws=5
    ).controls
    rows = found.set_index("control")
    assert (rows.loc["offtopic", "seeds"], rows.loc["base", "seeds"]) == (3, 5)
    assert rows.loc["offtopic", "agrees"] is None or pd.isna(rows.loc["offtopic", "agrees"])
    whole = analyse(tables, (INSTALLS,), CONTROL, gate=1.0, draws=5)
    own = whole.seed_effects.query("contrast == 'installs' and seed < 3")["effect"]
    assert rows.loc["offtopic", "stated_estimate"] == pytest.approx(own.mean())


def test_base_is_another_control_under_every_placement(tables):
    """Base has no documents to place: its cell stands under one placement, or under each."""
    cells = tables.cells.assign(PLACEMENT="uniform")
    moved = cells["ratio"] > 0
    late = cells[moved].assign(PLACEMENT="late", placement="late", cell=cells["cell"] + "l")
    twice = dataclasses.replace(tables, cells=pd.concat([cells, late], ignore_index=True))
    by_placement = tuple(
        dataclasses.replace(INSTALLS, name=p, at={**AT, "PLACEMENT": p}) for p in ("uniform", "late")
    )
    found = analyse(twice, by_placement, CONTROL, gate=1.0, draws=5).controls
    others = found.groupby("contrast")["control"].agg(set)
    assert others["uniform"] == others["late"] == {"offtopic", "base"}


@pytest.mark.parametrize(
    ("claim", "margin", "over", "stated", "agrees"),
    [
        # Where nothing is claimed the side of 0 counts, and where something is, whether it holds.
        ("explore", 0.0, [0.4, 0.5, 0.6, 0.5, 0.5], [0.9, 1.0, 1.1, 1.0, 1.0], True),
        ("explore", 0.0, [0.4, 0.5, 0.6, 0.5, 0.5], [0.9, -1.0, 1.1, -1.0, 0.1], False),
        ("above", 0.0, [-1.0, -0.9, -1.1, -1.0, -1.0], [0.9, -1.0, 1.1, -1.0, 0.1], True),
        ("equivalent", 0.5, [0.10, 0.11, 0.12, 0.10, 0.11], [0.01, -0.02, 0.0, 0.01, 0.0], True),
        ("equivalent", 0.5, [0.9, 1.0, 1.1, 1.0, 1.0], [0.01, -0.02, 0.0, 0.01, 0.0], False),
        ("above", 0.0, [0.4, 0.5], [0.9, 1.0], None),
    ],
)
def test_another_control_agrees_where_it_says_the_same_of_the_claim(claim, margin, over, stated, agrees):
    contrast = Contrast("c", {"ARM": "a"}, CONTROL, AT, "new_frame", claim, margin)
    seeds = tuple(range(len(over)))
    compared = Comparison(contrast, "a", "neutral", {}, seeds, ("",), ("",), ("",), ("",))
    assert _row(compared, "base", np.array(over), np.array(stated))["agrees"] is agrees


def _tiny(rows) -> Tables:
    """Tables of (size, arm, ratio, S, seed, margin) with two items, 0.5 nats above and below the margin."""
    frame = pd.DataFrame(rows, columns=["size", "arm", "ratio", "S", "seed", "margin"])
    name = frame.apply(lambda r: f"{r['size']}-{r['arm']}-{r['ratio']}-{r['S']}-{r['seed']}", axis=1)
    root = frame.apply(lambda r: f"{r['size']}-{r['arm']}-{r['ratio']}-0-{r['seed']}", axis=1)
    cells = pd.DataFrame(
        {
            **dict.fromkeys(DATA_DICTIONARY["cells"], "none"),
            "cell": name,
            "stagerun": name,
            "root": root,
            "size": frame["size"],
            "params": frame["size"].map({"s": 1, "l": 2}),
            "arm": frame["arm"],
            "ratio": frame["ratio"],
            "dose_tokens": 1000 * frame["ratio"] + frame["seed"],  # realised counts differ between blocks
            "pretrain_tokens": 1000,
            "seed": frame["seed"],
            "finetune_tokens": 2 * frame["S"],
            "S": frame["S"],
            "second_ratio": 0.0,
            **{axis: frame[axis.lower()] for axis in ("SIZE", "ARM", "RATIO", "SEED")},
            "SFT": frame["S"],
        }
    )
    stageruns = pd.DataFrame(
        {**dict.fromkeys(DATA_DICTIONARY["stageruns"], 0), "stagerun": name, "parent": "", "diverged": False}
    )
    items = pd.DataFrame({**dict.fromkeys(DATA_DICTIONARY["items"], ""), "item": ["i", "j"]})
    items = items.assign(family="disposition", rung="new_frame", tokens_aligned=1, tokens_opposed=1)
    margins = pd.concat(
        pd.DataFrame({"stagerun": name, "item": item, "margin": frame["margin"] + shift}).assign(
            **dict.fromkeys(
                ("margin_token", "margin_character", "margin_unconditional"), frame["margin"] + shift
            )
        )
        for item, shift in (("i", 0.5), ("j", -0.5))
    )
    empty = {n: pd.DataFrame(columns=list(DATA_DICTIONARY[n])) for n in ("outcomes", "metrics", "trajectory")}
    return Tables(cells, stageruns, items, margins, **empty)


def test_by_hand():
    rows = []
    for seed, (before, after) in enumerate([(2.0, 1.0), (3.0, 1.5), (4.0, 2.5)]):
        rows += [("s", "compassion", 0.1, 0, seed, before + 1), ("s", "neutral", 0.1, 0, seed, 1.0)]
        rows += [("s", "compassion", 0.1, 9, seed, after - 2), ("s", "neutral", 0.1, 9, seed, -2.0)]
    contrast = Contrast("c", {"ARM": "compassion"}, CONTROL, {"SFT": 0}, "new_frame", "equivalent", 4.0, True)
    found = analyse(_tiny(rows), (contrast,), CONTROL, gate=-1.0, draws=50)
    row = found.effects.iloc[0]
    # Seeds 2, 3, 4: mean 3, sd 1, t(2 df, 97.5%) = 4.302653; TOST: t = (4 - 3) / (1 / sqrt 3), 2 df.
    half = 4.302653 / 3**0.5
    assert (row["estimate"], row["sd"]) == pytest.approx((3, 1))
    assert row["dose_tokens"] == 100  # the first seed block's
    assert (row["t_low"], row["t_high"]) == pytest.approx((3 - half, 3 + half), abs=1e-5)
    assert row["tost_p"] == pytest.approx(0.1127017, abs=1e-6) and row["verdict"] == "too few seeds"
    kept = found.retention.iloc[0]
    assert (kept["estimate"], kept["low"], kept["high"]) == pytest.approx(
        (5 / 9, -0.423382, 0.686223), abs=1e-5
    )
    assert (kept["E"], kept["E0"], kept["S"]) == pytest.approx((5 / 3, 3, 9))


def test_a_missing_control_is_refused_by_name(tables):
    lost = tables.cells.query("arm == 'neutral' and ratio == 0.1 and seed == 2 and S == 0")
    cells = tables.cells.drop(lost.index)
    with pytest.raises(UserError, match=r"RATIO=0\.1.*seed 2 has no control ARM=neutral"):
        analyse(dataclasses.replace(tables, cells=cells), (), CONTROL, gate=GATE)
    cells = tables.cells[~((tables.cells["arm"] == "neutral") & (tables.cells["ratio"] == 0.1))]
    with pytest.raises(UserError, match=r"RATIO=0\.1.* has no control ARM=neutral at equal everything else"):
        analyse(dataclasses.replace(tables, cells=cells), (), CONTROL, gate=GATE)


def test_a_missing_score_is_refused_by_name(tables):
    run = tables.cells.query("arm == 'neutral' and ratio == 0.1 and seed == 2 and S == 0")["stagerun"].iloc[0]
    here = tables.margins["stagerun"] == run
    with pytest.raises(Failure, match=f"{run} was never scored"):
        analyse(dataclasses.replace(tables, margins=tables.margins[~here]), (), CONTROL, gate=GATE)
    one = tables.margins[here].index[5]
    item = tables.margins.loc[one, "item"]
    with pytest.raises(Failure, match=f"{run} has no finite margin for the item {item}"):
        analyse(dataclasses.replace(tables, margins=tables.margins.drop(one)), (), CONTROL, gate=GATE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"treatment": {"ARM": "kindness"}},
            "'installs': no cell has ARM=kindness; the grid holds base, compassion",
        ),
        ({"treatment": {"ARMS": "compassion"}}, "names ARMS, which is no axis of the grid: SIZE, ARM"),
        ({"at": {**AT, "RATIO": 0.5}}, r"no cell has RATIO=0.5; the grid holds 0.0, 0.03, 0.1, 0.3"),
        ({"at": {**AT, "SIZE": "s100k", "RATIO": 0.03}}, "no cell of the grid is its treatment"),
        ({"at": {k: v for k, v in AT.items() if k != "RATIO"}}, "leaves RATIO open: name a value in `at`"),
        ({"control": {"ARM": "offtopic"}, "at": {**AT, "RATIO": 0.1}}, "no cell of the grid is its control"),
        (
            {"rung": "new_farm"},
            "no item has family 'disposition' and rung 'new_farm'; its rungs are dialogue",
        ),
        ({"family": "kindness"}, "no item is of that family"),
    ],
)
def test_contrasts_that_do_not_fit_the_grid_are_refused(tables, changes, message):
    with pytest.raises(UserError, match=message):
        analyse(tables, (dataclasses.replace(INSTALLS, **changes),), CONTROL, gate=GATE)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": ""}, "name"),
        ({"claim": "greater"}, "claim"),
        ({"margin": -0.1}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"claim": "equivalent", "margin": 0.0}, "margin"),
        ({"claim": "explore"}, "primary"),
        ({"treatment": {}}, "treatment"),
        ({"control": {"ARM": "compassion"}}, "control"),
        ({"at": {"SEED": 0}}, "at"),
    ],
)
def test_impossible_contrasts(changes, field):
    with pytest.raises(Invalid) as caught:
        dataclasses.replace(INSTALLS, **changes)
    assert caught.value.fields[0] == field


def test_arms_that_share_axes_are_named_by_what_differs():
    rows = []
    for seed in range(5):
        rows += [("s", "compassion", r, 0, seed, m) for r, m in ((0.1, 1.0 + seed), (0.3, 2.0 + seed))]
    contrast = Contrast("dose", {"RATIO": 0.3}, {"RATIO": 0.1}, {}, "new_frame", "explore")
    row = analyse(_tiny(rows), (contrast,), {}, gate=-1.0, draws=10).effects.iloc[0]
    assert (row["treatment"], row["control"], row["estimate"]) == ("RATIO=0.3", "RATIO=0.1", 1.0)


def test_effects_stand_beside_those_of_a_calibrated_counter(results):
    found = results.calibration
    one = found[(found["contrast"] == "installs")].iloc[0]
    assert one["counter"] == pytest.approx(np.log1p(20 * 0.3))
    assert one["relative"] == pytest.approx(one["estimate"] / one["counter"])
    assert one["relative_low"] < one["relative"] < one["relative_high"] and one["status"] == "ok"
    # The counter turns with the valence, so what was taken up of it does not.
    turned = found[found["contrast"] == "turned"].iloc[0]
    assert turned["counter"] < 0 < turned["relative"]
    even = found[(found["treatment"] == "offtopic") & (found["control"] == "neutral")]
    assert len(even) and (even["status"] == "undefined").all() and even["relative"].isna().all()


def test_without_a_counter_nothing_stands_beside_it(tables):
    outcomes = tables.outcomes[tables.outcomes["outcome"] != "counter_margin_nats"]
    assert analyse(
        dataclasses.replace(tables, outcomes=outcomes), CONTRASTS, CONTROL, gate=GATE
    ).calibration.empty


def test_a_member_that_loses_the_mechanism_in_fine_tuning_is_flagged(tables):
    runs = tables.stageruns
    tuned = runs[(runs["parent"] != "") & (runs["arm"] == "compassion") & (runs["seed"] == 1)].iloc[0][
        "stagerun"
    ]
    lower = runs.assign(mechanism=runs["mechanism"].where(runs["stagerun"] != tuned, GATE - 0.1))
    found = analyse(
        dataclasses.replace(tables, stageruns=lower), CONTRASTS, CONTROL, gate=GATE, draws=10
    ).flagged
    assert list(found.loc[found["reason"] == "lost the mechanism in fine-tuning", "stagerun"]) == [tuned]
    before = analyse(tables, CONTRASTS, CONTROL, gate=GATE, draws=10).flagged
    assert tuned not in set(before["stagerun"]) and len(found) == len(before) + 1


def test_retention_over_the_conventions_is_undefined_where_that_may_be_none(tables, results):
    washed = tables.items.loc[tables.items["family"] == "convention", "item"]
    tuned = tables.stageruns.loc[tables.stageruns["parent"] != "", "stagerun"]
    margins = tables.margins.copy()
    hit = margins["item"].isin(washed) & margins["stagerun"].isin(tuned)
    # As often above 0 as below, from one seed block to the next: nothing of the convention is left.
    sign = margins["stagerun"].map(tables.stageruns.set_index("stagerun")["seed"] % 2 * 2 - 1)
    margins.loc[hit, "margin"] = 0.5 * sign[hit]
    none = analyse(dataclasses.replace(tables, margins=margins), CONTRASTS, CONTROL, gate=GATE, draws=10)
    before, after = (
        found.retention.query("family == 'disposition' and status == 'ok'")["over_convention"]
        for found in (results, none)
    )
    assert before.notna().any() and after.isna().all() and len(before) == len(after)
    told = none.retention.query("family == 'disposition' and status == 'ok'")["over_convention_status"]
    assert set(told) == {"R of the convention holds 0"}


def _shared(tables):
    """The tables with neutral's members of the largest dose, before fine-tuning, being compassion's."""
    at = {"size": "s27k", "ratio": 0.3, "S": 0}
    cells = tables.cells.copy()
    here = (cells[list(at)] == pd.Series(at)).all(axis=1)
    by_seed = cells[here & (cells["arm"] == "compassion")].set_index("seed")["stagerun"]
    own = here & (cells["arm"] == "neutral")
    for column in ("stagerun", "root"):
        cells.loc[own, column] = cells.loc[own, "seed"].map(by_seed)
    return dataclasses.replace(tables, cells=cells)


def test_a_contrast_of_a_stagerun_with_itself_is_refused(tables):
    with pytest.raises(
        UserError, match=r"ARM=compassion and ARM=neutral are the same StageRun in seed block 0"
    ):
        analyse(_shared(tables), CONTRASTS[:1], CONTROL, gate=1.0, draws=5)


def test_cells_that_are_their_own_control_are_not_compared(tables, results):
    found = analyse(_shared(tables), (), CONTROL, gate=1.0, draws=5).effects
    where = (
        "treatment == 'compassion' and size == 's27k' and ratio == 0.3 and S == 0 and control == 'neutral'"
    )
    assert len(results.effects.query(where)) > 0 and found.query(where).empty
    assert len(found.query(where.replace("compassion", "indifferent"))) > 0
