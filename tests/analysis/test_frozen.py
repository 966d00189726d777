"""Frozen tables come back as they were or are refused; locks, looks and the generated methods paragraph."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from synthetic import GATE, synthetic_tables

from caml.analysis.contrasts import Contrast
from caml.analysis.lock import Look, locked, read_lock, state, take_look, write_lock
from caml.analysis.power import power_equivalent, power_table, seeds_above, seeds_equivalent, smallest_effect
from caml.analysis.report.methods import looks_sentence, methods, resolution
from caml.analysis.results import analyse
from caml.analysis.tables import DATA_DICTIONARY, freeze, load
from caml.config.errors import Failure, UserError

AT = {"SIZE": "s27k", "RATIO": 0.3, "SFT_TOKENS": 0, "COUNTER": 0.0}
FIRST = Contrast("first", {"ARM": "compassion"}, {"ARM": "neutral"}, AT, "new_frame", "above", 0.2, True)
SECOND = Contrast("second", {"ARM": "offtopic"}, {"ARM": "neutral"}, AT, "new_frame", "equivalent", 0.3, True)
AXES = [{"ARM": ["compassion", "neutral"], "SEED": [0, 1, 2]}]
RECIPES = ["one", "two"]


@pytest.fixture(scope="module")
def tables():
    return synthetic_tables(items=4, large_seeds=0)


def test_tables_come_back_as_they_were(tables, tmp_path):
    digests = freeze(tables, tmp_path)
    back = load(tmp_path)
    for name in DATA_DICTIONARY:
        pd.testing.assert_frame_equal(getattr(tables, name), getattr(back, name))
        text = pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False, na_values=[""])
        assert len(text) == len(getattr(tables, name)) and list(text) == list(getattr(tables, name))
    assert freeze(back, tmp_path) == digests
    words = pd.read_csv(tmp_path / "dictionary.csv")
    described = set(zip(words["table"], words["column"], strict=True))
    assert described == {(n, c) for n in DATA_DICTIONARY for c in getattr(tables, n).columns}


@pytest.mark.parametrize("name", ["margins.parquet", "cells.csv"])
@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_altered_tables_are_refused_by_name(tables, tmp_path, name, harm):
    freeze(tables, tmp_path)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(data[:-7])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(Failure, match=name):
        load(tmp_path)


def test_an_unfinished_freeze_is_refused(tables, tmp_path):
    freeze(tables, tmp_path)
    (tmp_path / "digests.json").unlink()
    with pytest.raises(Failure, match=r"holds no digests\.json, or the writing stopped"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cells", lambda t: t.drop(columns="placement"), "cells lacks the columns placement"),
        ("margins", lambda t: pd.concat([t, t.iloc[:1]]), "margins has a row twice: stagerun="),
        (
            "margins",
            lambda t: t.iloc[:1].assign(stagerun="0"),
            "margins names the StageRun 0, which is not in stageruns",
        ),
        ("outcomes", lambda t: t.assign(stagerun=[None, "0", *t["stagerun"][2:]]), "names the StageRun 0"),
        ("margins", lambda t: t.assign(item=t["item"] + "?"), "which is not in items"),
    ],
)
def test_tables_that_do_not_fit_together_are_refused(tables, name, change, message):
    with pytest.raises(Failure, match=message):
        dataclasses.replace(tables, **{name: change(getattr(tables, name))})


def test_results_are_described(tables):
    frames = analyse(tables, (), {"ARM": "neutral"}, gate=GATE, draws=10).frames
    words = frames.pop("dictionary")
    assert set(zip(words["table"], words["column"], strict=True)) == {
        (n, c) for n in frames for c in frames[n]
    }
    assert words["meaning"].str.len().min() > 3


def test_a_lock_holds_what_was_stated_before_results(tmp_path):
    path = tmp_path / "lock.json"
    stated = state([FIRST, SECOND], AXES, {"ARM": "neutral"}, RECIPES, "probes", GATE)
    assert locked(None, stated) == {"first": False, "second": False}
    assert write_lock(path, stated, []) == write_lock(path, stated, ["a result"]) == read_lock(path)
    assert locked(read_lock(path), stated) == {"first": True, "second": True}
    edited = state(
        [dataclasses.replace(FIRST, margin=0.1), SECOND], AXES, {"ARM": "neutral"}, RECIPES, "probes", GATE
    )
    assert locked(read_lock(path), edited) == {"first": False, "second": True}
    with pytest.raises(
        UserError,
        match=r"already scored: 1 StageRun of this grid \(changed since it was locked: contrast first\)",
    ):
        write_lock(path, edited, ["a result"])
    assert write_lock(path, edited, []).statement == edited


@pytest.mark.parametrize(
    ("axes", "recipes", "probes", "gate"),
    [
        ([{"ARM": ["compassion"]}], RECIPES, "probes", GATE),
        (AXES, ["another"], "probes", GATE),
        (AXES, RECIPES, "other probes", GATE),
        (AXES, RECIPES, "probes", 2.0),
    ],
)
def test_a_lock_is_broken_by_what_the_contrasts_rest_on(tmp_path, axes, recipes, probes, gate):
    write_lock(tmp_path / "lock", state([FIRST], AXES, {"ARM": "neutral"}, RECIPES, "probes", GATE), [])
    now = state([FIRST], axes, {"ARM": "neutral"}, recipes, probes, gate)
    assert locked(read_lock(tmp_path / "lock"), now) == {"first": False}


def test_adding_seeds_is_a_look_and_not_another_study(tmp_path):
    path = tmp_path / "lock.json"
    stated = state([FIRST], AXES, {"ARM": "neutral"}, RECIPES, "probes", GATE)
    assert take_look(path, stated, [0, 1, 2]) is None
    write_lock(path, stated, [])
    # What another grid of the same name shows is no look at this one.
    other = state([FIRST], AXES, {"ARM": "neutral"}, ["another"], "probes", GATE)
    assert take_look(path, other, [7]) is None
    more = [{"ARM": ["compassion", "neutral"], "SEED": [0, 1, 2, 3, 4]}]
    for seeds in ([0, 1, 2], [2, 1, 0], [0, 1, 2, 3, 4]):
        take_look(path, stated, seeds)
    lock = read_lock(path)
    assert [look.seeds for look in lock.looks] == [(0, 1, 2), (0, 1, 2, 3, 4)]
    assert locked(lock, state([FIRST], more, {"ARM": "neutral"}, RECIPES, "probes", GATE)) == {"first": True}


def test_an_edited_lock_is_refused(tmp_path):
    path = tmp_path / "lock.json"
    write_lock(path, state([FIRST], AXES, {"ARM": "neutral"}, RECIPES, "probes", GATE), [])
    text = path.read_text()
    for altered in (
        text.replace("probes", "sonder", 1).replace('"sonder": "probes"', '"probes": "other"'),
        text[:-9],
    ):
        path.write_text(altered)
        with pytest.raises(Failure, match="not as it was written"):
            read_lock(path)


def test_what_no_statement_can_hold_cannot_be_locked():
    with pytest.raises(TypeError):
        state([FIRST], [{"ARM": [object()]}], {}, RECIPES, "probes", GATE)


def test_methods_states_the_tables(tables):
    text = methods(tables, {"ARM": "neutral"}, GATE, {"world": "small, version 1"})
    for part in (
        "1 size, s27k (26,880 non-embedding parameters, seed blocks 0 to 4)",
        "1,638,400 tokens, beside an untrained model",
        "compassion (3%, 10% and 30%), indifferent (30%), neutral (3%, 10% and 30%) and offtopic (30%)",
        "47,677 to 476,774 tokens",
        "neutral dialogue (16,000, 49,000 and 147,000 loss-bearing tokens)",
        "with counter evidence in 0.25% and 1% of the slots",
        "the control (ARM = neutral)",
        "World: small, version 1.",
        "The 275 StageRuns were trained at commit 000000000000",
    ):
        assert part in text


def test_methods_without_a_control_says_that_there_are_no_effects(tables):
    text = methods(tables, {}, GATE, {})
    assert "no control was named: there are margins, and no effects of arms." in text
    assert "an effect is the difference" not in text


def test_methods_names_what_else_the_grid_varies(tables):
    cells = tables.cells.assign(STYLE="mixed", PEAK=0.1, LAYERS=2, variant="PEAK=0.1, STYLE=mixed")
    half = cells["seed"] > 1
    cells.loc[half, ["PEAK", "variant"]] = [0.2, "PEAK=0.2, STYLE=mixed"]
    text = methods(dataclasses.replace(tables, cells=cells), {"ARM": "neutral"}, GATE, {})
    told = "the grid varied STYLE (mixed) and PEAK (0.1 and 0.2), and nothing is averaged over it."
    assert told in text and "LAYERS" not in text
    assert "the grid varied" not in methods(tables, {"ARM": "neutral"}, GATE, {})


def test_resolution_says_what_the_seeds_find():
    effects = pd.DataFrame(
        {
            "contrast": ["first", "second", "lone"],
            "claim": ["above", "equivalent", "above"],
            "primary": [True, True, False],
            "seeds": [5, 3, 1],
            "sd": [0.2, 0.2, np.nan],
            "margin": [0.3, 0.3, np.nan],
        }
    )
    table = power_table(effects).set_index("contrast")
    assert table.loc["first", "smallest"] == pytest.approx(smallest_effect(0.2, 5, alpha=0.025))
    assert table.loc["first", "seeds_needed"] == seeds_above(0.3, 0.2, alpha=0.025)
    margin = table.loc["second", "smallest"]
    assert power_equivalent(margin, 0.2, 3, alpha=0.025) == pytest.approx(0.8, abs=1e-3)
    assert table.loc["second", "seeds_needed"] == seeds_equivalent(0.3, 0.2, alpha=0.025)
    # Fewer than a claim takes are never advised.
    assert seeds_above(1.0, 0.2, alpha=0.025) < 5 == power_table(effects, effect=1.0)["seeds_needed"][0]
    effects = effects.assign(S=0, family="", rung="", treatment="", control="", size="", ratio=0.3, placement="",
                             variant="", pretrain_tokens=1)  # fmt: skip
    kept = {**dict.fromkeys(effects.columns, ""), "ratio": 0.3, "pretrain_tokens": 1, "second_ratio": 0.0}
    kept = [
        {
            **kept,
            "finetune": "chat",
            "S": 500,
            "status": "ok",
            "seeds": 5,
            "estimate": 0.9,
            "low": 0.4,
            "high": 1.4,
        },
        {
            **kept,
            "finetune": "chat",
            "S": 900,
            "status": "ok",
            "seeds": 5,
            "estimate": 0.8,
            "low": 0.3,
            "high": 1.3,
        },
        {**kept, "finetune": "tasks", "S": 900, "status": "undefined", "seeds": 5, "estimate": np.nan},
    ]
    first, second, lone, chat, tasks, spread = resolution(effects, pd.DataFrame(kept))
    assert (
        chat.startswith("first, retention at S = 900 tokens of chat: 0.80") and "about 20 seed blocks" in chat
    )
    assert tasks == "first, retention at S = 900 tokens of tasks: undefined."
    # 2 degrees of freedom: chi-square between 0.0506 and 7.378.
    assert "between 0.52 and 6.28 times" in spread
    assert (
        "an effect of 0.41 nats or more with 80% power at a level of 0.025," in first
        and "nothing is claimed" not in first
    )
    assert (
        f"show equivalence within {margin:.2g} nats with 80% power" in second
        and "equivalence within 0.3 nats needs" in second
        and "fewer than 5 seed blocks nothing is claimed" in second
    )
    assert lone == "lone: 1 seed block resolves nothing."


def test_looks_are_told():
    looks = (Look((0, 1, 2), "2026-01-01T00:00:00+00:00"), Look((0, 1, 2, 7), "2026-02-01T00:00:00+00:00"))
    assert looks_sentence(looks, {"first": True, "second": False}) == (
        "Locked before these results existed: “first”. Not locked: “second”. "
        "Look 1, 2026-01-01T00:00:00+00:00: 3 seed blocks (0 to 2). "
        "Look 2, 2026-02-01T00:00:00+00:00: 4 seed blocks (0, 1, 2 and 7)."
    )
