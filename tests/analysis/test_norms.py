"""Effects by every norm of length, and how unequal the continuations of a rung are."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from studies import CONTRASTS, CONTROL, full, poor

from caml.analysis.figures.drawings import drawings
from caml.analysis.figures.view import look
from caml.analysis.norms import NORMS, lengths_table
from caml.analysis.report import norms as told
from caml.analysis.report.items import item_margins, items_tables
from caml.analysis.report.methods import methods
from caml.analysis.report.page import Extras, headline, write_report
from caml.analysis.results import Results, analyse
from caml.analysis.tables import Tables

RUNG = "new_frame"


def _unequal(rung: str = RUNG, seed: int = 0) -> Tables:
    """The full study with opposed continuations of 3 tokens on `rung`, where per token every effect is turned."""
    tables, _ = full()
    items = tables.items.assign(
        tokens_opposed=np.where(tables.items["rung"] == rung, 3.0, tables.items["tokens_opposed"])
    )
    on = tables.margins["item"].isin(items.loc[items["rung"] == rung, "item"])
    noise = np.random.default_rng(seed).normal(0, 0.05, len(on))
    turned = (noise - tables.margins["margin"] / 3).where(on, tables.margins["margin_token"])
    return dataclasses.replace(tables, items=items, margins=tables.margins.assign(margin_token=turned))


def _analysed(tables: Tables) -> Results:
    return analyse(tables, CONTRASTS, CONTROL, gate=1.0, draws=5)


def _named(results: Results, norm: str) -> pd.DataFrame:
    rows = results.norms
    return rows[(rows["norm"] == norm) & (rows["contrast"] != "")].set_index("contrast")


def test_every_norm_has_the_paired_differences_of_its_own_column():
    tables = _unequal()
    norms = _analysed(tables).norms
    cells = tables.cells.query("size == 's27k' and ratio == 0.3 and S == 49000 and second_ratio == 0")
    items = tables.items.loc[tables.items["rung"] == RUNG, "item"]
    rows = norms.query(
        "contrast == '' and control == 'neutral' and treatment == 'compassion' and size == 's27k'"
    )
    rows = rows.query("ratio == 0.3 and S == 49000 and second_ratio == 0 and rung == @RUNG").set_index("norm")
    assert list(rows.index) == list(NORMS)
    for name, norm in NORMS.items():
        scored = tables.margins[tables.margins["item"].isin(items)].merge(cells[["stagerun", "arm", "seed"]])
        mean = scored.groupby(["arm", "seed"])[norm.column].mean()
        over = mean["compassion"] - mean["neutral"]
        assert rows.loc[name, "estimate"] == pytest.approx(over.mean())
        half = 2.7764451 * over.std() / math.sqrt(5)
        assert rows.loc[name, "t_low"] == pytest.approx(over.mean() - half)
        assert rows.loc[name, "unit"] == norm.unit
    assert rows["estimate"].nunique() >= 3


def test_the_sum_is_the_effect_and_what_is_claimed():
    results = _analysed(_unequal())
    claimed = results.norms[results.norms["norm"] == "sum"].reset_index(drop=True)
    same = [
        "contrast",
        "treatment",
        "control",
        "rung",
        "estimate",
        "sd",
        "t_low",
        "t_high",
        "p",
        "p_holm",
        "verdict",
    ]
    pd.testing.assert_frame_equal(claimed[same], results.effects[same].reset_index(drop=True))
    pd.testing.assert_frame_equal(results.effects[same], full()[1].effects[same])
    assert set(results.norms.loc[~results.norms["exploratory"], "norm"]) == {"sum"}
    assert (~claimed["exploratory"] == claimed["primary"]).all() and claimed["agrees"].all()


def test_a_norm_that_only_rescales_the_sum_says_what_it_says():
    results = full()[1]
    first, token, character, last = (_named(results, norm) for norm in NORMS)
    assert token["scale"].tolist() == pytest.approx([1.0] * 4)
    assert character["scale"].tolist() == pytest.approx([0.2] * 4)
    # A margin of the sum has a number where the norm is the sum rescaled: the same test, in other units.
    assert character.loc["untrained is 0", "margin"] == pytest.approx(0.05)
    assert character["p_holm"].tolist() == pytest.approx(first["p_holm"].tolist(), nan_ok=True)
    assert character["verdict"].tolist() == first["verdict"].tolist()
    assert last["scale"].isna().all() and last["agrees"].all()


def test_a_contrast_that_depends_on_the_norm_is_told():
    results = _analysed(_unequal())
    first, token = _named(results, "sum"), _named(results, "token")
    assert token["scale"].isna().tolist() == [True, True, True, False]
    assert dict(token["verdict"]) == {
        "care is installed": "contradicted",
        "valence is turned": "contradicted",
        "untrained is 0": "not judged",
        "things": "exploratory",
    }
    assert dict(token["agrees"]) == {
        "care is installed": False,
        "valence is turned": False,
        "untrained is 0": None,
        "things": True,
    }
    # A claim that this norm cannot judge stays in the family.
    p = token.loc[["care is installed", "valence is turned"], "p"].tolist()
    family = sorted([*p, full()[1].effects.set_index("contrast").loc["untrained is 0", "tost_p"]])
    assert token["p_holm"].min() == pytest.approx(3 * family[0])
    assert first["verdict"].tolist() == ["supported"] * 3 + ["exploratory"]


def test_the_side_of_0_counts_where_no_verdict_differs():
    """Below five seed blocks there is no verdict. Where the interval holds 0 the sign is a matter of chance."""
    tables, results = poor()
    assert set(_named(results, "token")["agrees"]) == {True}
    four = dataclasses.replace(full()[0], cells=full()[0].cells.query("seed < 4"))
    for study, agrees in ((tables, True), (four, False)):
        turned = dataclasses.replace(
            study, margins=study.margins.assign(margin_unconditional=-study.margins["margin"])
        )
        of_it = _named(analyse(turned, CONTRASTS[:1], CONTROL, gate=1.0, draws=5), "unconditional")
        (row,) = of_it.to_dict("records")
        assert (row["verdict"], row["agrees"]) == ("too few seeds", agrees)
        assert (row["t_low"] < 0 < row["t_high"]) == agrees
    one = dataclasses.replace(tables, cells=tables.cells.query("seed == 0"))
    others = analyse(one, (), CONTROL, gate=1.0, draws=5).norms
    assert set(others["agrees"]) == {None}


def test_sentences_say_of_each_primary_contrast_whether_the_norm_matters():
    tables, results = full()
    said = told.sentences(results.norms, look(tables, results))
    assert len(said) == 4 and told.dependent(results.norms) == []
    assert said[0] == (
        "The norm of length decides nothing about “care is installed”: positive and supported by the sum and with the "
        "unconditional taken off; per token it is the sum and per character it is the sum ÷ 5, which adds nothing."
    )
    assert said[1].split(": ")[1].startswith("negative and supported")
    again = results.norms[results.norms["contrast"] == "care is installed"].assign(contrast="once more")
    together = told.sentences(pd.concat([results.norms, again]), look(tables, results))
    assert len(together) == 4 and "about “care is installed” and “once more”: positive" in together[0]
    assert "in none of 41 other comparisons" in said[3]
    # No sign where the interval holds 0.
    of_two_seeds = told.sentences(poor()[1].norms, look(*poor()))
    assert "“care is installed”: of too few seeds for a verdict by the sum" in of_two_seeds[0]
    nothing = analyse(tables, (), CONTROL, gate=1.0, draws=5)
    (said,) = told.sentences(nothing.norms, look(tables, nothing))
    assert "in none of 42 comparisons" in said
    tables = _unequal()
    results = _analysed(tables)
    said = told.sentences(results.norms, look(tables, results))
    row = _named(results, "token").loc["care is installed"]
    assert said[0].startswith(
        "“care is installed” depends on the norm of length: positive and supported by the sum ("
    )
    assert f"negative and contradicted per token (−{abs(row['estimate']):.3f} nats per token [" in said[0]
    assert (
        "exploratory); as the sum has it with the unconditional taken off; per character it is the sum"
        in said[0]
    )
    assert "per token nothing is judged, as the margin is in nats of the sum" in said[2]
    assert said[0] in headline(results) and said[1] in headline(results) and said[2] not in headline(results)
    assert not any("norm" in line for line in headline(full()[1]))


def test_norms_stand_side_by_side_and_a_rescaled_one_is_said_to_be():
    tables = _unequal()
    results = _analysed(tables)
    table = told.side_by_side(results.norms, look(tables, results))
    assert table.columns[5:9] == (
        "sum (nats)",
        "per token, exploratory (nats per token)",
        "per character, exploratory (nats per character)",
        "unconditional taken off, exploratory (nats)",
    )
    rows = {row[0].lines[0]: row for row in table.rows}
    care, things = rows["care is installed"], rows["things"]
    assert care[5].lines[2] == "supported" and care[6].lines[2] == "contradicted"
    assert care[7].lines == ("the sum ÷ 5",)
    assert care[9].lines == ("differs: per token",) and rows["untrained is 0"][9].lines == ("agrees",)
    assert things[6].lines == ("the sum",) and things[9].lines == ("agrees",)
    # Each arm against the control on the primary endpoint once, be it named or not.
    focus = results.effects[(results.effects["rung"] == RUNG) & (results.effects["control"] == "neutral")]
    assert len(table.rows) == (focus["contrast"] == "").sum() + 2
    plain = tables.margins["margin"]
    margins = tables.margins.assign(margin_token=plain / 2, margin_unconditional=plain)
    flat = dataclasses.replace(tables, margins=margins)
    again = _analysed(flat)
    assert {row[9].lines for row in told.side_by_side(again.norms, look(flat, again)).rows} == {
        ("only rescaled",)
    }


def test_lengths_are_counted_and_pairs_that_even_out_apart():
    """Of 24 items 3 have the aligned one shorter, 1 the opposed one, and in 2 pairs phrases of 2 and 4 change sides."""
    tables, _ = full()
    rung = tables.items.loc[tables.items["rung"] == RUNG, "item"].tolist()
    lengths = dict.fromkeys(rung[:2], (1.0, 2.0)) | {rung[2]: (1.0, 3.5), rung[3]: (2.0, 1.0)}
    lengths |= dict.fromkeys(rung[4:7], (3.0, 3.0))
    both = [lengths.get(item, (1.0, 1.0)) for item in tables.items["item"]]
    items = tables.items.assign(tokens_aligned=[a for a, _ in both], tokens_opposed=[o for _, o in both])
    by = tables.margins["item"].map(dict.fromkeys(rung[4:7], 3.0)).fillna(1.0)
    token = tables.margins["margin"] / by + 0.01 * tables.margins["item"].isin(rung[5:7])
    changed = dataclasses.replace(tables, items=items, margins=tables.margins.assign(margin_token=token))
    found = lengths_table(changed).set_index(["family", "rung"])
    assert dict(found.loc["disposition", RUNG]) == {
        "items": 24, "unequal": 4, "most": 2.5, "aligned_shorter": 3, "opposed_shorter": 1, "evened": 2,
    }  # fmt: skip
    assert not found.drop(("disposition", RUNG))[["unequal", "most", "evened"]].any(axis=None)


def test_unequal_lengths_are_told_wherever_their_rung_is_shown(tmp_path):
    tables = _unequal()
    results = _analysed(tables)
    view = look(tables, results)
    sentence = (
        "Items with continuations of unequal length in tokens: disposition L2 new frame 24 of 24, by up to 2 (the "
        "aligned one shorter in 24, the opposed one in 0). A margin is a sum over tokens"
    )
    captions = {drawing.name: drawing.caption for drawing in drawings(view)}
    assert {name for name, text in captions.items() if sentence not in text} == {"trajectories"}
    assert sentence in methods(tables, CONTROL, 1.0, {})
    text = " ".join(write_report(tmp_path, tables, results, Extras(title="lengths")).read_text().split())
    assert f"<p>{sentence}" in text
    assert (
        "disposition L2 new frame (24 items, 24 with continuations of unequal length in tokens, by up to 2)"
        in text
    )
    tables_of_items = items_tables(
        item_margins(view, tables.margins, tables.items), results.lengths, "s27k", ""
    )
    heads = {label: table.columns for label, _, table in tables_of_items}
    assert (
        heads["disposition L2 new frame"][3] == "tokens" and "tokens" not in heads["disposition L7 dialogue"]
    )
    (row,) = {
        table.rows[0][3].lines for label, _, table in tables_of_items if label == "disposition L2 new frame"
    }
    assert row == ("1, 3",)


def test_unequal_lengths_of_other_rungs_are_told_with_the_figures_that_show_them():
    tables = _unequal("dialogue")
    captions = {d.name: d.caption for d in drawings(look(tables, _analysed(tables)))}
    assert {name for name, text in captions.items() if "L7 dialogue 24 of 24" in text} == {"ladder"}
    convention = tables.items.assign(
        tokens_opposed=np.where(tables.items["family"] == "convention", 2.0, 1.0)
    )
    tables = dataclasses.replace(full()[0], items=convention)
    captions = {d.name: d.caption for d in drawings(look(tables, _analysed(tables)))}
    told = {name for name, text in captions.items() if "convention 12 of 12, by up to 1" in text}
    assert told == {"side_by_side_s27k", "side_by_side_s100k"}
    assert not any("unequal" in drawing.caption for drawing in drawings(look(*full())))
    assert "unequal" not in methods(full()[0], CONTROL, 1.0, {})
