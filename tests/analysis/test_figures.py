import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from studies import CONTROL, full, poor

from caml.analysis.cells import prepared
from caml.analysis.figures.drawings import Drawing, drawings, save
from caml.analysis.figures.install import install, ladder, members
from caml.analysis.figures.panels import DoseAxis, Panel, grid, handle, legend, level, words
from caml.analysis.figures.style import ARMS, RC, count, mark, percent, rung_order, styled, wrapped
from caml.analysis.figures.training import side_by_side, trajectories
from caml.analysis.figures.view import View, look
from caml.analysis.figures.washout import counter_evidence, retention_by_size, washout
from caml.analysis.report import tables as shown
from caml.analysis.results import analyse
from caml.analysis.tables import Tables


@pytest.fixture(scope="module")
def view() -> View:
    return look(*full())


@pytest.fixture(scope="module")
def poor_view() -> View:
    return look(*poor())


def drawn(axes, kind: str) -> np.ndarray:
    """The y values of all artists of one kind on `axes`, sorted."""
    lines = [line for line in axes.lines if line.get_gid() == kind]
    return np.sort(np.concatenate([np.asarray(line.get_ydata(), float) for line in lines] or [[]]))


def said(figure: Figure) -> str:
    """All text of a figure."""
    parts = [figure.texts, *figure.legends] + [[*ax.texts, ax.title] for ax in figure.axes]
    texts = [t for part in parts for t in (part.get_texts() if hasattr(part, "get_texts") else part)]
    return "\n".join(t.get_text() for t in texts)


def focused(view: View, size: str, frame: pd.DataFrame) -> pd.DataFrame:
    on = (frame["family"] == "disposition") & (frame["rung"] == "new_frame") & (frame["size"] == size)
    return frame[on & (frame["control"] == "neutral") & (frame["ratio"] > 0)]


def test_focus_is_the_first_primary_contrast_that_claims_a_direction(view):
    assert dataclasses.astuple(view.focus) == ("disposition", "new_frame", "compassion", "neutral", "nats")
    assert view.bound == 0.25


@pytest.mark.parametrize(("column", "size"), [(0, "s27k"), (1, "s100k")])
def test_install_shows_every_seed_estimate_and_interval_of_the_table(view, column, size):
    axes = install(view).axes[column]
    rows = focused(view, size, view.effects).query("S == 0")
    seeds = np.sort(np.concatenate([np.array(v) for v in rows["values"]]))
    np.testing.assert_allclose(drawn(axes, "seeds"), seeds)
    np.testing.assert_allclose(drawn(axes, "estimate"), np.sort(rows["estimate"]))
    np.testing.assert_allclose(drawn(axes, "interval"), np.sort([*rows["t_low"], *rows["t_high"]]))
    assert len(seeds) == rows["seeds"].sum()
    assert "nats" in install(view).axes[0].get_ylabel()
    assert "%" in axes.get_xlabel() and "tokens" in axes.get_xlabel()


def test_washout_shows_effects_above_and_retention_or_the_word_for_it_below(view):
    figure = washout(view, "neutral_dialogue")
    above, below = figure.axes[0], figure.axes[2]
    rows = focused(view, "s27k", view.effects).query("second_ratio == 0")
    assert set(rows["S"]) == {0, 16_000, 49_000, 147_000}
    seeds = np.concatenate([np.array(v) for v in rows["values"]])
    np.testing.assert_allclose(drawn(above, "seeds"), np.sort(seeds))
    np.testing.assert_allclose(drawn(above, "estimate"), np.sort(rows["estimate"]))
    kept = focused(view, "s27k", view.retention).query("second_ratio == 0")
    good = kept[kept["status"] == "ok"]
    assert 0 < len(good) < len(kept)
    np.testing.assert_allclose(drawn(below, "estimate"), np.sort(good["estimate"]))
    stated = [t.get_text() for t in below.texts if t.get_gid() == "word"]
    assert sorted(stated) == sorted(kept.loc[kept["status"] != "ok", "status"])
    assert "tokens of neutral dialogue" in figure.get_supxlabel() and "share of E(0)" in below.get_ylabel()


def test_retention_shows_the_share_of_each_seed_as_large_as_its_weight(view):
    """Their mean, weighted by their areas, is the R that is drawn."""
    below = washout(view, "neutral_dialogue").axes[2]
    kept = focused(view, "s27k", view.retention).query("second_ratio == 0 and status == 'ok'")
    groups = [group for group in below.collections if group.get_gid() == "shares"]
    assert len(groups) == len(kept) == 12
    for group in groups:
        own, areas = group.get_offsets()[:, 1], group.get_sizes()
        assert len(own) == 5
        np.testing.assert_allclose(
            np.abs(kept["estimate"] - np.average(own, weights=areas)).min(), 0, atol=1e-9
        )
    np.testing.assert_allclose([np.mean(before) for before in kept["befores"]], kept["E0"])


def test_a_share_of_a_seed_that_began_on_the_other_side_is_open_and_one_far_off_an_arrow_at_the_edge():
    panel = Panel(grid(1, 1, 2.0)[1][0][0])
    panel.shares(np.arange(3.0), [1.0, 0.9, -0.1], [1.0, 1.1, 0.01], "#0072B2", "o")
    panel.shares(np.arange(3.0), [1.0, 0.9, -0.08], [1.0, 1.1, -0.1], "#0072B2", "o")
    panel.estimate(0.0, (0.9, 0.8, 1.0), "#0072B2", "o")
    level([panel], bound=(-0.6, 1.8))
    near, across = panel.axes.collections
    assert near.get_sizes()[2] < 0.5 * near.get_sizes()[0]
    assert [tuple(face[:3]) == (1, 1, 1) for face in across.get_facecolors()] == [False, False, True]
    (arrow,) = [line for line in panel.axes.lines if line.get_gid() == "beyond"]
    assert (arrow.get_xdata()[0], arrow.get_marker()) == (2.0, "v")
    assert panel.axes.get_ylim()[0] == pytest.approx(arrow.get_ydata()[0]) and panel.axes.get_ylim()[0] > -1.6


def test_doses_of_an_arm_differ_in_more_than_shade_and_words_name_theirs(view):
    figure = washout(view, "neutral_dialogue")
    looks = {
        h.get_label(): (h.get_marker(), h.get_fillstyle(), h.get_markerfacecolor() == "white")
        for h in figure.legends[0].legend_handles
    }
    assert len(set(looks.values())) == len(looks) == 5
    few = view.retention.assign(
        status=view.retention["status"].mask(view.retention["ratio"] == 0.1, "undefined")
    )
    below = washout(dataclasses.replace(view, retention=few), "neutral_dialogue").axes[2]
    assert [t.get_text() for t in below.texts if "%" in t.get_text()] == ["10%: undefined"] * 3


def test_counter_evidence_starts_from_the_same_dose_without_it(view):
    figure = counter_evidence(view)
    rows = focused(view, "s27k", view.effects).query("S == 49000")
    assert set(rows["second_ratio"]) == {0, 0.0025, 0.01}
    np.testing.assert_allclose(drawn(figure.axes[0], "estimate"), np.sort(rows["estimate"]))
    margins = view.margins.query(
        "rung == 'new_frame' and size == 's27k' and S == 49000 and ratio in (0, 0.3)"
    )
    np.testing.assert_allclose(drawn(figure.axes[2], "seeds"), np.sort(margins["margin"]))
    assert set(margins["arm"]) == {"base", "neutral", "offtopic", "compassion", "indifferent"}


def test_retention_by_size_shows_matched_doses_and_what_cannot_be_matched(view):
    figure = retention_by_size(view, "neutral_dialogue")
    kept = view.retention.query("treatment == 'compassion' and control == 'neutral' and second_ratio == 0")
    kept = kept[(kept["rung"] == "new_frame") & (kept["status"] == "ok")]
    np.testing.assert_allclose(
        drawn(figure.axes[0], "estimate"), np.sort(kept.query("ratio == 0.3")["estimate"])
    )
    seeds = [group for group in figure.axes[0].collections if group.get_gid() == "shares"]
    assert sum(len(group.get_offsets()) for group in seeds) == kept.query("ratio == 0.3")["seeds"].sum()
    last = kept.query("S == 147000")
    np.testing.assert_allclose(drawn(figure.axes[1], "estimate"), np.sort(last["estimate"]))
    matched = view.sizes.query("matching == 'E(0)' and treatment == 'compassion' and S == 147000")
    status = matched[matched["rung"] == "new_frame"]["status"].tolist()
    text = figure.axes[1].get_title()
    assert ("R(s" in text) if "ok" in status else (status[0] in text)


def test_retention_by_size_draws_every_arm_that_has_an_estimate(view):
    """Also where the arm in focus has none."""
    focus = view.retention["treatment"] == "compassion"
    lost = view.retention.assign(status=view.retention["status"].mask(focus, "undefined"))
    figure = retention_by_size(dataclasses.replace(view, retention=lost), "neutral_dialogue")
    titles = [ax.get_title().split(",")[0] for ax in figure.axes]
    assert titles == ["compassion", "compassion", "indifferent", "indifferent"]
    kept = lost.query(
        "treatment == 'indifferent' and control == 'neutral' and second_ratio == 0 and status == 'ok'"
    )
    kept = kept[kept["rung"] == "new_frame"]
    assert set(kept["size"]) == {"s27k", "s100k"}
    np.testing.assert_allclose(drawn(figure.axes[2], "estimate"), np.sort(kept["estimate"]))
    assert "− R(s100k)" in figure.axes[2].get_title()


def test_a_rung_whose_seeds_stray_does_not_flatten_the_ladder(view):
    hit = view.effects.eval(
        "treatment == 'compassion' and rung == 'dialogue' and size == 's27k' and ratio == 0.3 and S == 0"
        " and control == 'neutral'"
    )
    values = [(-10.0, *v[1:]) if far else v for v, far in zip(view.effects["values"], hit, strict=True)]
    assert hit.sum() == 1
    axes, before = (
        ladder(dataclasses.replace(view, effects=view.effects.assign(values=v))).axes[0]
        for v in (values, view.effects["values"])
    )
    assert axes.get_ylim()[0] > 1.5 * before.get_ylim()[0]
    assert [t.get_text() for t in axes.texts if t.get_gid() == "written"] == ["−10.0"]
    assert not [t for t in before.texts if t.get_gid() == "written"]
    low, high = axes.get_ylim()
    assert all(low < y < high for y in drawn(axes, "estimate"))


def test_ladder_has_all_rungs_in_order_before_and_after(view):
    figure = ladder(view)
    ticks = [t.get_text() for t in figure.axes[-1].get_xticklabels()]
    assert [t.split()[0] for t in ticks] == ["L0", "L1", "L2", "L3", "L5", "L5", "L7"]
    rows = view.effects.query(
        "treatment == 'compassion' and control == 'neutral' and size == 's27k' and ratio == 0.3"
        " and family == 'disposition' and second_ratio == 0 and S in (0, 147000)"
    )
    assert len(rows) == 14
    np.testing.assert_allclose(drawn(figure.axes[0], "estimate"), np.sort(rows["estimate"]))
    assert "offtopic was not run" in said(figure)
    assert rung_order(["dialogue", "zz", "seen_item"]) == ["seen_item", "dialogue", "zz"]


def test_members_shows_every_member_and_the_equivalence_margin(view):
    figure = members(view)
    rows = view.margins.query("rung == 'new_frame' and size == 's27k' and S == 0")
    np.testing.assert_allclose(drawn(figure.axes[0], "seeds"), np.sort(rows["margin"]))
    assert "untrained" in [t.get_text() for t in figure.axes[0].get_xticklabels()]
    (band,) = [p for p in figure.axes[0].patches if p.get_gid() == "equivalence"]
    assert (band.get_y(), band.get_height()) == (-0.25, 0.5)


def test_side_by_side_has_families_and_outcomes_with_their_units(view):
    figure = side_by_side(view, "s27k")
    labels = [ax.get_ylabel().replace("\n", " ") for ax in figure.axes]
    units = dict.fromkeys(("disposition", "knowledge", "avowal", "convention", "calibration"), "nats")
    for name, unit in (units | {"tax": "bits per byte"}).items():
        assert any(label.startswith(name) and unit in label for label in labels), (name, labels)
    tax = figure.axes[labels.index(next(label for label in labels if label.startswith("tax")))]
    rows = view.outcomes.query("outcome == 'tax_bits_per_byte' and size == 's27k' and pretrain_tokens > 0")
    rows = rows.query("ratio in (0, 0.3) and S in (0, 147000) and second_ratio == 0")
    np.testing.assert_allclose(drawn(tax, "seeds"), np.sort(rows["value"]))


def test_trajectories_has_a_curve_per_member_and_marks_where_it_learned(view):
    figure = trajectories(view)
    first = view.stageruns.query("parent == '' and steps > 0 and size == 's27k'")
    below = figure.axes[2]
    curves = [line for line in below.lines if line.get_gid() == "curve"]
    learned = [line for line in below.lines if line.get_gid() == "learned"]
    assert len(curves) == len(first)
    assert [line.get_linestyle() for line in curves].count("--") == first["learned_at"].isna().sum() == 1
    x = np.sort([line.get_xdata()[0] for line in learned])
    np.testing.assert_allclose(x, np.sort(first["learned_at"].dropna()) / 1e6)
    # The one that never did ends in an open marker.
    (never,) = [line for line in below.lines if line.get_gid() == "never"]
    assert never.get_markerfacecolor() == "white" and never.get_xdata()[0] == pytest.approx(1.6384)
    assert "never learned" in legend_of(figure) and "1 of 45 never learned" in below.get_title(loc="left")
    assert "millions" in below.get_xlabel() and "nats per token" in figure.axes[0].get_ylabel()


def test_the_axis_of_losses_leaves_out_the_descent_and_no_member_that_diverged(view):
    start = view.metrics["loss"].max()
    assert trajectories(view).axes[0].get_ylim()[1] < 0.7 * start
    late = view.metrics["tokens"] == view.metrics["tokens"].max()
    lost = view.metrics.assign(loss=view.metrics["loss"].mask(late & ~late.duplicated(), 2 * start))
    assert trajectories(dataclasses.replace(view, metrics=lost)).axes[0].get_ylim()[1] > 2 * start


def straying(margins: dict[tuple[float, int], float]) -> View:
    """The full study with members of the control (ratio, seed) of the smaller size off 0 by so much, others on it."""
    tables, results = full()
    seeds = results.seed_effects
    key = list(zip(seeds["ratio"].where(seeds["size"] == "s27k", -1.0), seeds["seed"], strict=True))
    controls = np.where(seeds["control"].notna(), [margins.get(k, 0.0) for k in key], np.nan)
    return look(tables, dataclasses.replace(results, seed_effects=seeds.assign(control_margin=controls)))


def test_captions_name_the_members_of_the_control_that_stray():
    strayed = straying({(0.1, 3): 3.02, (0.3, 1): -0.3, (0.3, 2): 0.24})
    told = {drawing.name: drawing.caption for drawing in drawings(strayed)}
    assert (
        "beyond ±0.25 nats, so that effects there are theirs too, each where it is farthest off: "
        "neutral 10% at s27k, seed 3: +3.02 (mean +0.60); "
        "neutral 30% at s27k, seed 1: −0.30. "
    ) in told["install"]
    assert "neutral 10% at s27k, S = 16k, seed 3: +3.02 (mean +0.60)" in told["washout"]
    assert "neutral 30%" in told["counter_evidence"] and "neutral 30%" in told["retention_by_size"]
    assert "seed 1: −0.30" in told["ladder"] and "neutral 10%" not in told["ladder"]
    # Before fine-tuning and without counter-evidence they stand in the same figures, and may be farther off there.
    effects = strayed.effects

    def far(where: str) -> dict[str, str]:
        there = effects.eval(f"ratio == 0.3 and second_ratio == 0 and {where}")
        controls = [[2.0] * len(c) if off else c for c, off in zip(effects["controls"], there, strict=True)]
        off = dataclasses.replace(strayed, effects=effects.assign(controls=controls))
        return {drawing.name: drawing.caption for drawing in drawings(off)}

    assert all("seed 0: +2.00" in far("S == 0")[name] for name in ("washout", "counter_evidence"))
    assert "seed 0: +2.00" in far("S > 0")["counter_evidence"]
    # One nat where no margin is stated.
    unstated = {d.name: d.caption for d in drawings(dataclasses.replace(strayed, bound=math.nan))}
    assert "beyond ±1 nats" in unstated["install"] and "seed 1" not in unstated["install"]
    many = {d.name: d.caption for d in drawings(straying({(0.3, seed): 1.0 + seed for seed in range(5)}))}
    assert "seed 2: +3.00 (mean +3.00); … (2 more)." in many["install"]
    assert "own margin" not in drawings(straying({}))[0].caption


def test_no_raw_name_of_a_configuration_is_shown():
    """File names keep it."""
    tables, _ = full()
    renamed = dataclasses.replace(tables, cells=tables.cells.replace({"arm": {"indifferent": "not_kind"}}))
    told = drawings(seen(renamed))
    assert {"washout", "ladder", "retention_by_size"} <= {drawing.name for drawing in told}
    for drawing in told:
        figure = drawing.draw()
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(Text)]
        assert not [text for text in (*texts, drawing.title, drawing.caption) if "_" in text], drawing.name
        if drawing.name.startswith(("install", "members", "side_by_side")):
            assert any("not kind" in text for text in texts), drawing.name


def test_a_poor_grid_is_drawn_and_what_it_lacks_is_said_in_words(poor_view):
    by_name = {drawing.name: drawing for drawing in drawings(poor_view)}
    assert by_name["counter_evidence"].draw is None
    assert "no fine-tuning set" in by_name["counter_evidence"].caption
    assert "No fine-tuning set" in said(counter_evidence(poor_view)).replace("\n", " ")
    assert by_name["sizes"].draw is None and "one size" in by_name["sizes"].caption
    for drawing in by_name.values():
        if drawing.draw:
            assert drawing.draw().axes


def test_a_caption_counts_the_seed_blocks_of_the_arms_that_its_figure_shows():
    tables, results = full()
    shown = "(treatment != 'offtopic' or S == 0) and (ratio != 0.1 or second_ratio == 0)"
    effects = results.effects.query(shown).copy()
    for where, seeds in (("treatment == 'offtopic'", 4), ("ratio == 0.1", 3)):
        effects.loc[effects.query(where).index, "seeds"] = seeds
    told = look(tables, dataclasses.replace(results, effects=effects))
    captions = {drawing.name: drawing.caption for drawing in drawings(told)}
    assert "s27k: 5 (compassion 10%: 3; offtopic 30%: 4); s100k: 3." in captions["install"]
    assert "s27k: 5 (compassion 10%: 3); s100k: 3." in captions["washout"]
    assert "s27k: 5; s100k: 3." in captions["counter_evidence"]


def test_a_grid_without_fine_tuning_says_so():
    tables, results = full()
    untuned = dataclasses.replace(
        results,
        effects=results.effects.query("S == 0"),
        seed_effects=results.seed_effects.query("S == 0"),
        retention=results.retention.iloc[:0],
        sizes=results.sizes.iloc[:0],
    )
    told = {drawing.section: drawing for drawing in drawings(look(tables, untuned))}
    assert told["washout"].draw is None and "no cell of this grid was fine-tuned" in told["washout"].caption
    assert told["sizes"].draw is None


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts of a laid-out figure that cover one another."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [t for legend in figure.legends for t in legend.get_texts()] + list(figure.texts)
    for ax in figure.axes:
        texts += [ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title, *ax.texts]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_visible() and t.get_text()]
    boxes = [
        (text, box) for text, box in boxes if box.width and not text.startswith(("L0", "L1", "L2", "L3"))
    ]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :]]
    # Slanted labels share corners of their boxes with neighbours without touching: only upright ones count.
    return [(a[0], b[0]) for a, b in pairs if a[1].shrunk(0.9, 0.9).overlaps(b[1].shrunk(0.9, 0.9))]


@pytest.mark.parametrize("which", ["view", "poor_view"])
def test_no_text_covers_another_and_nothing_is_cut_off(which, request):
    view = request.getfixturevalue(which)
    tuned = [draw(view, "neutral_dialogue") for draw in (washout, retention_by_size)]
    for figure in (install(view), counter_evidence(view), trajectories(view), *tuned):
        assert overlaps(figure) == []
        inches = figure.get_tightbbox(figure.canvas.get_renderer())
        width, height = figure.get_size_inches()
        assert (
            inches.x0 > -0.03 and inches.y0 > -0.03 and inches.x1 < width + 0.03 and inches.y1 < height + 0.03
        )


def test_known_arms_have_colours_and_markers_of_their_own_and_any_arm_has_one_for_good():
    assert len({m.color for m in ARMS.values()}) == len({m.marker for m in ARMS.values()}) == len(ARMS)
    assert mark("zeal") == mark("zeal")


def test_a_dollar_sign_in_a_name_is_no_formula(tmp_path):
    drawing = Drawing("name", "install", "title", "caption", None)
    save(words("an arm called $\\frac{ and a $ sign"), drawing, tmp_path, {})
    assert (tmp_path / "name.pdf").read_bytes().startswith(b"%PDF")


def test_files_carry_their_provenance_and_are_the_same_bytes_again(tmp_path, view):
    drawing = drawings(view)[0]
    told = {"commit": "abc", "fingerprints": ["f1", "f2"]}
    first = save(drawing.draw(), drawing, tmp_path, told)
    pdf = (tmp_path / "install.pdf").read_bytes()
    with Image.open(tmp_path / "install.png") as image:
        assert json.loads(image.text["Provenance"]) == told
        assert image.text["Title"] == drawing.title
        assert image.size[0] == 1400
    assert b"fingerprints" in pdf or "fingerprints".encode("utf-16-be") in pdf
    assert save(drawing.draw(), drawing, tmp_path, told) == first
    assert (tmp_path / "install.pdf").read_bytes() == pdf


def test_what_is_saved_lies_as_its_layout_has_it(tmp_path, view):
    for drawing in drawings(view)[:3]:
        saved, shown_here, before = (drawing.draw() for _ in range(3))
        save(saved, drawing, tmp_path, {})
        with matplotlib.rc_context(RC):
            shown_here.draw_without_rendering()
        lies, wanted, unsolved = (
            np.array([axes.get_position().bounds for axes in figure.axes])
            for figure in (saved, shown_here, before)
        )
        np.testing.assert_array_equal(lies, wanted)
        assert np.abs(lies - unsolved).max() > 0.01


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 10**9), min_size=1, max_size=6))
def test_dose_axis_keeps_the_order_and_its_slots_do_not_run_into_each_other(values):
    axis = DoseAxis(values)
    at = [axis.at(v) for v in sorted(values)]
    assert all(a < b for a, b in itertools.pairwise(at))
    gap = min((b - a for a, b in itertools.pairwise(at)), default=1.0)
    assert 0 < axis.slot(5) * 5 <= gap


def test_series_stand_around_the_tick_of_their_dose():
    axis = DoseAxis([0.0, 0.1, 0.3])
    slot, at = axis.dodge(["a", "b", "c"], {("b", 0.1), ("a", 0.3), ("c", 0.3)})
    assert at["b", 0.1] == axis.at(0.1)
    assert (at["a", 0.3] - axis.at(0.3), at["c", 0.3] - axis.at(0.3)) == pytest.approx((-slot / 2, slot / 2))
    assert len(at) == 3


def test_a_dose_is_called_by_the_count_of_its_first_seed_block():
    cells = pd.DataFrame(
        {
            "seed": [1, 0, 1, 0, 0, 0],
            "finetune": ["none", "chat", "chat", "chat", "chat", "tasks"],
            "finetune_tokens": [0, 100, 100, 104, 100, 100],
            "variant": "",
            "stagerun": list("abcdef"),
            "root": list("abcdef"),
            "second_ratio": [0.0, 0.0, 0.0, 0.0, 0.01, 0.0],
            "S": [0, 51, 50, 52, 49, 60],
        }
    ).iloc[::-1]
    assert list(prepared(cells)["S"])[::-1] == [0, 51, 51, 52, 51, 60]
    # Another loss mask at equal slots is another dose, of another variant.
    masked = cells.assign(variant=np.where(cells["S"] == 60, "LOSS=all", ""), finetune="chat")
    assert list(prepared(masked)["S"])[::-1] == [0, 51, 51, 52, 51, 60]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (16_000, "16k"), (477_000, "477k"), (1_638_400, "1.64M"), (999_999, "1M")],
)
def test_counts_are_short(number, text):
    assert count(number) == text


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab ", max_size=60), st.integers(1, 20))
def test_wrapping_loses_no_word(text, width):
    lines = wrapped(text, width).split("\n")
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= width or " " not in line for line in lines)


def test_nothing_drawn_is_infinite(view):
    for line in install(view).axes[0].lines:
        assert all(math.isfinite(float(y)) for y in line.get_ydata())


def placed(budgets: bool = False) -> View:
    """The larger size retold as another placement (or also another budget) of the smaller one."""
    tables, _ = full()
    early = (tables.cells["size"] == "s100k").to_numpy()
    placements = np.where(early, "early", "uniform")
    cells = tables.cells.assign(
        PLACEMENT=placements, placement=placements, size="s27k", SIZE="s27k", params=26_880
    )
    if budgets:
        cells["pretrain_tokens"] = np.where(early, 9_000_000, cells["pretrain_tokens"])
    told = dataclasses.replace(tables, cells=cells)
    return look(told, analyse(told, (), CONTROL, gate=1.0, draws=5))


def test_placements_are_series_of_their_own_and_figures_without_room_are_drawn_for_each():
    view = placed()
    labels = [t.get_text() for legend in install(view).legends for t in legend.get_texts()]
    assert "compassion − neutral, early" in labels and "compassion − neutral, uniform" in labels
    told = {drawing.name: drawing for drawing in drawings(view)}
    for placement in ("early", "uniform"):
        own = view.margins.query("rung == 'new_frame' and S == 0")
        own = own[(own["placement"] == placement) | (own["ratio"] == 0)]
        figure = told[f"members_{placement}"].draw()
        np.testing.assert_allclose(drawn(figure.axes[0], "seeds"), np.sort(own["margin"]))
        assert told[f"ladder_{placement}"].title.endswith(f": {placement}")
    # All conditions at the largest dose in one figure, and every dose of each in its own.
    several, early, uniform = (told[f"washout{of}"].draw() for of in ("", "_early", "_uniform"))
    lines = [len(figure.legends[0].get_texts()) for figure in (several, early, uniform)]
    assert lines == [5, 2, 5]
    assert all(drawing.draw().axes for drawing in told.values() if drawing.draw)


def test_token_budgets_are_told_where_a_size_has_several_of_them():
    view = placed(budgets=True)
    assert [c.name for c in view.conditions.every] == [
        "uniform, 1.64M pretraining tokens",
        "early, 9M pretraining tokens",
    ]
    assert all("pretraining" not in c.name for c in look(*full()).conditions.every)
    figure = install(view)
    assert overlaps(figure) == []
    ticks = [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
    assert "10%\n159k" in ticks and "30%\n477k" in ticks
    doses = view.effects["dose_tokens"].where(view.effects["pretrain_tokens"] < 9_000_000, 2_619_000)
    spread = install(dataclasses.replace(view, effects=view.effects.assign(dose_tokens=doses)))
    assert "30%\n477k–2.62M" in [tick.get_text() for tick in spread.axes[0].get_xticklabels()]


def test_a_home_that_cannot_be_written_is_nobodys_concern():
    places = {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none", "XDG_CONFIG_HOME": "/proc/none"}
    own = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"}
    command = [sys.executable, "-c", "from caml.analysis.figures.drawings import drawings"]
    done = subprocess.run(command, env=own | places, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_long_legend_does_not_take_the_height_of_the_panels():
    @styled
    def with_legend(entries: int) -> Figure:
        figure, _ = grid(1, 1, 2.0)
        legend(figure, [handle(f"an arm under condition {i}, told at length", "k") for i in range(entries)])
        figure.draw_without_rendering()
        return figure

    many, one = (with_legend(entries).axes[0].get_window_extent().height for entries in (12, 1))
    assert abs(many - one) < 0.05 * one


def test_members_that_were_not_scored_during_training_are_counted_apart():
    tables, results = full()
    first = tables.stageruns.query("parent == '' and steps > 0 and size == 's27k'")["stagerun"].iloc[:4]
    fewer = tables.trajectory[~tables.trajectory["stagerun"].isin(first)]
    below = trajectories(look(dataclasses.replace(tables, trajectory=fewer), results)).axes[2]
    assert below.get_title(loc="left") == "1 of 41 never learned it; 4 not scored during training"


def test_a_grid_that_was_not_fine_tuned_has_no_open_markers_in_its_captions():
    tables, _ = full()
    before = seen(dataclasses.replace(tables, cells=tables.cells.query("S == 0")))
    for view, opened in ((before, False), (seen(tables), True)):
        captions = {drawing.name: drawing.caption for drawing in drawings(view)}
        for name in ("ladder", "side_by_side_s27k"):
            assert ("open after the largest dose" in captions[name]) is opened, name


def test_more_conditions_than_can_be_told_apart_stand_in_several_figures():
    tables, _ = full()
    for i in range(5):
        tables = copied(
            tables,
            f"{SMALL} and ratio == 0.3 and placement == 'uniform'",
            placement=f"p{i}",
            PLACEMENT=f"p{i}",
        )
        tables = dataclasses.replace(tables, cells=tables.cells.fillna({"PLACEMENT": "uniform"}))
    view = seen(tables)
    names = ["uniform", "p0", "p1", "p2", "p3", "p4"]
    assert [condition.name for condition in view.conditions.every] == names
    told = {drawing.name: drawing for drawing in drawings(view)}
    for kind in ("install", "washout"):
        shown_in = [legend_of(told[f"{kind}_{i}_of_2"].draw()) for i in (1, 2)]
        parts = [{line.rsplit(", ", 1)[1] for line in lines} for lines in shown_in]
        assert parts == [set(names[:4]), set(names[4:])] and kind not in told


def test_the_largest_dose_is_the_darkest_also_in_retention_by_size(view):
    left = retention_by_size(view, "neutral_dialogue").axes[0]
    shades = {h.get_label(): sum(to_rgb(h.get_color())) for h in left.get_legend_handles_labels()[0]}
    assert list(shades) == ["S = 16k", "S = 49k", "S = 147k"]
    assert list(shades.values()) == sorted(shades.values(), reverse=True)
    assert left.get_legend_handles_labels()[0][-1].get_linestyle() == "-"


def test_each_rung_of_a_family_has_a_panel_of_its_own():
    """Opposite findings on two rungs are not pooled."""
    tables, results = full()
    seen_frame = (tables.items["family"] == "convention") & (tables.items["template"] == "plain")
    items = tables.items.assign(
        rung=tables.items["rung"]
        .mask(tables.items["family"] == "convention", "new_frame")
        .mask(seen_frame, "seen_frame")
    )
    view = look(dataclasses.replace(tables, items=items), results)
    labels = [ax.get_ylabel() for ax in side_by_side(view, "s27k").axes]
    assert {"convention:\nL2 new frame (nats)", "convention:\nseen frame (nats)"} <= set(labels)


def test_counter_evidence_tells_its_tokens_and_what_its_rows_show(view):
    figure = counter_evidence(view)
    ticks = [tick.get_text() for tick in figure.axes[2].get_xticklabels()]
    assert ticks == ["0%\n0", "0.25%\n245", "1%\n980"]
    captions = {drawing.name: drawing.caption for drawing in drawings(view)}
    assert "show harm in every arm" in captions["counter_evidence"]
    assert "Open markers" not in captions["install"]


def test_captions_count_seed_blocks_of_members_and_of_retention(view):
    captions = {drawing.name: drawing.caption for drawing in drawings(view)}
    assert "Seed blocks: s27k: 5; s100k: 3." in captions["members"]
    assert "Seed blocks: s27k: 5; s100k: 3." in captions["retention_by_size"]
    assert "Seed blocks: s27k: 5." in captions["side_by_side_s27k"]
    assert "Seed blocks: s27k: 5; s100k: 3." in captions["ladder"]


def test_a_member_scored_once_is_a_point_that_is_open_unless_it_passed_the_gate():
    tables, results = full()
    ends = tables.trajectory.groupby("stagerun")["tokens"].transform("max")
    once = dataclasses.replace(tables, trajectory=tables.trajectory[tables.trajectory["tokens"] == ends])
    view = look(once, results, gate=1.0)
    below = trajectories(view).axes[2]
    curves = [line for line in below.lines if line.get_gid() == "curve"]
    assert {line.get_marker() for line in curves} == {"o"} and {line.get_linestyle() for line in curves} == {
        "None"
    }
    assert [line.get_markerfacecolor() for line in curves].count("white") == 1
    (gate,) = [line for line in below.lines if line.get_gid() == "gate"]
    assert set(gate.get_ydata()) == {1.0}
    captions = {drawing.name: drawing.caption for drawing in drawings(view)}
    assert "gate of 1 nats" in captions["trajectories"]
    assert "avowal: the trait's name" in captions["side_by_side_s27k"]
    assert "leak:" not in captions["side_by_side_s27k"]


def copied(tables: Tables, where: str, **changes) -> Tables:
    """`tables` with the cells of a query once more, as StageRuns of their own with other values of columns."""
    cells = tables.cells.query(where)
    ids = {run: f"{run}+{len(tables.cells)}" for run in {*cells["stagerun"], *cells["root"]}}
    new = cells.assign(
        cell=cells["cell"] + f"+{len(tables.cells)}",
        stagerun=cells["stagerun"].map(ids),
        root=cells["root"].map(ids),
        **changes,
    )
    parts = {"cells": pd.concat([tables.cells, new], ignore_index=True)}
    for name in ("stageruns", "margins", "outcomes", "metrics", "trajectory"):
        frame = getattr(tables, name)
        own = frame[frame["stagerun"].isin(ids)]
        parts[name] = pd.concat([frame, own.assign(stagerun=own["stagerun"].map(ids))], ignore_index=True)
    return dataclasses.replace(tables, **parts)


def seen(tables: Tables) -> View:
    return look(tables, analyse(tables, (), CONTROL, gate=1.0, draws=5))


def legend_of(figure: Figure) -> list[str]:
    return [t.get_text() for told in figure.legends for t in told.get_texts()]


SMALL = "size == 's27k' and pretrain_tokens > 0 and arm in ('compassion', 'neutral')"


def late(tables: Tables, where: str) -> Tables:
    return copied(tables, f"{SMALL} and {where}", placement="late", PLACEMENT="late")


@pytest.mark.parametrize(
    ("where", "keep", "lines"),
    [
        # Only the second placement is fine-tuned, at two doses: one condition, both doses.
        ("ratio in (0.1, 0.3)", "S == 0 or placement == 'late'", {"10%, late", "30%, late"}),
        # Two placements are installed at two doses, and one dose is fine-tuned.
        ("ratio in (0.1, 0.3)", "S == 0 or ratio == 0.1", {"10%, late", "10%, uniform"}),
        # The second placement has a smaller largest dose than the first.
        ("ratio == 0.1", "ratio in (0.1, 0.3)", {"10%, late", "30%, uniform"}),
    ],
)
def test_the_washout_shows_each_condition_that_was_fine_tuned(where, keep, lines):
    tables, _ = full()
    plain = dataclasses.replace(tables, cells=tables.cells.assign(PLACEMENT="uniform").query(SMALL))
    both = late(plain, where)
    view = seen(dataclasses.replace(both, cells=both.cells.query(keep)))
    figure = washout(view, "neutral_dialogue")
    assert set(legend_of(figure)) == {f"compassion {line}" for line in lines}
    names = [drawing.name for drawing in drawings(view)]
    assert len(names) == len(set(names))
    # Whatever is left out of the one figure stands in another.
    shown = {line for d in drawings(view) if d.name.startswith("washout") for line in legend_of(d.draw())}
    tuned = view.effects.query("S > 0 and control == 'neutral' and treatment == 'compassion'")
    assert shown == {
        f"compassion {percent(r)}, {c}" for r, c in set(zip(tuned["ratio"], tuned["condition"], strict=True))
    }


def test_retention_by_size_quotes_the_difference_of_its_own_family(view):
    other = view.sizes.assign(family="convention", difference=9.0, low=9.0, high=9.0, status="ok")
    both = dataclasses.replace(view, sizes=pd.concat([other, view.sizes]))
    figure, before = (retention_by_size(v, "neutral_dialogue") for v in (both, view))
    assert figure.axes[1].get_title() == before.axes[1].get_title()


def budgeted() -> View:
    """The smaller size at 1.6 and 6 million tokens, the larger at 20 million."""
    tables, _ = full()
    large = tables.cells["size"] == "s100k"
    tables = dataclasses.replace(
        tables,
        cells=tables.cells.assign(
            pretrain_tokens=tables.cells["pretrain_tokens"].where(~large, 20_000_000),
            PRETRAIN_TOKENS=tables.cells["PRETRAIN_TOKENS"].where(~large, 20_000_000),
        ),
    )
    return seen(copied(tables, SMALL, pretrain_tokens=6_000_000, PRETRAIN_TOKENS=6_000_000))


def test_sizes_that_share_no_token_budget_are_compared_at_their_largest():
    view = budgeted()
    told = {drawing.name: drawing for drawing in drawings(view)}
    (name,) = [name for name in told if name.startswith("retention_by_size")]
    assert name == "retention_by_size_each_size_at_its_largest_token_budget"
    left = told[name].draw().axes[0]
    kept = focused(view, "s27k", view.retention).query(
        "treatment == 'compassion' and second_ratio == 0 and ratio == 0.3 and pretrain_tokens == 6e6 and status == 'ok'"
    )
    other = focused(view, "s100k", view.retention).query("treatment == 'compassion' and status == 'ok'")
    other = other.query("second_ratio == 0")
    np.testing.assert_allclose(drawn(left, "estimate"), np.sort([*kept["estimate"], *other["estimate"]]))
    assert "one size" not in left.get_title()
    rows = shown.fits(
        view.sizes.rename(columns={"low": "difference_low"}), view, {"difference": ("d", 2)}
    ).rows
    matched = [tuple(cell.lines for cell in row[:3]) for row in rows if "matched E(0)" in str(row[2].lines)]
    assert len(matched) == len(set(matched))
    assert any("after its 20,000,000 pretraining tokens" in lines for _, _, lines in matched)


def test_a_condition_looks_the_same_in_every_panel_and_in_the_legend():
    figure = install(budgeted())
    by_label = {h.get_label(): h.get_color() for h in figure.legends[0].legend_handles}
    large = {line.get_color() for line in figure.axes[1].lines if line.get_gid() == "estimate"}
    assert by_label["compassion − neutral, 20M pretraining tokens"] in large
    assert by_label["compassion − neutral, 1.64M pretraining tokens"] not in large


def test_members_before_fine_tuning_stand_under_each_variant_of_it():
    """Only doses above 0 are crossed with a second rate of fine-tuning."""
    tables, _ = full()
    cells = tables.cells.assign(PEAK=0.1, variant="PEAK=0.1")
    again = cells.query("S > 0").assign(PEAK=0.2, variant="PEAK=0.2")
    tuned = {run: f"{run}b" for run in again["stagerun"]}
    again = again.assign(cell=again["cell"] + "b", stagerun=again["stagerun"].map(tuned))
    parts = {"cells": pd.concat([cells, again], ignore_index=True)}
    for name in ("stageruns", "margins", "outcomes"):
        frame = getattr(tables, name)
        own = frame[frame["stagerun"].isin(tuned)]
        parts[name] = pd.concat([frame, own.assign(stagerun=own["stagerun"].map(tuned))], ignore_index=True)
    view = seen(dataclasses.replace(tables, **parts))
    before = view.margins.query("S == 0 and pretrain_tokens > 0").groupby("condition")["stagerun"].agg(set)
    assert before["PEAK=0.1"] == before["PEAK=0.2"]
    kept = view.effects.query("S == 0 and control == 'neutral'").groupby("condition").size()
    assert kept["PEAK=0.1"] == kept["PEAK=0.2"]
    (one, other) = (view.under(c) for c in view.conditions.every)
    assert set(one.margins.query("arm == 'untrained'")["stagerun"]) == set(
        other.margins.query("arm == 'untrained'")["stagerun"]
    )
    assert len(other.margins.query("arm == 'untrained'")) == len(one.margins.query("arm == 'untrained'"))
    table = shown.arms_by_stages(view, paired=True)
    assert all("not compared" not in row[3].lines for row in table.rows)


def test_conditions_have_names_of_their_own_and_files_that_can_be_written():
    tables, _ = full()
    close = copied(tables, SMALL, pretrain_tokens=1_640_000, PRETRAIN_TOKENS=1_640_000)
    view = seen(close)
    assert [c.name for c in view.conditions.every] == [
        "1,638,400 pretraining tokens",
        "1,640,000 pretraining tokens",
    ]
    long = "NOTE=" + "a/b " * 80
    variant = np.where(tables.cells["seed"] > 2, long + "1", long + "2")
    names = [
        d.name
        for d in drawings(seen(dataclasses.replace(tables, cells=tables.cells.assign(variant=variant))))
    ]
    assert len(names) == len(set(names)) and max(map(len, names)) < 160
    untrained = close.cells["pretrain_tokens"].isin([0])
    assert set(view.under(view.conditions.every[0]).margins.query("arm == 'untrained'")["stagerun"]) == set(
        close.cells[untrained]["stagerun"]
    )


def test_of_a_chain_of_stages_the_caption_says_that_its_last_was_measured():
    tables, _ = full()
    chain = tables.cells.replace({"finetune": {"neutral_dialogue": "neutral_dialogue+pairs"}})
    told = {
        drawing.section: drawing.caption
        for drawing in drawings(seen(dataclasses.replace(tables, cells=chain)))
    }
    assert "on neutral dialogue+pairs (its last stage) from " in told["washout"]
    assert "its last stage" not in "".join(d.caption for d in drawings(look(*full())))


def test_two_sources_of_fine_tuning_are_not_pooled():
    tables, _ = full()
    where = f"{SMALL} and S > 0 and second_ratio == 0"
    two = copied(tables, where, finetune="tasks")
    roots = tables.cells.drop_duplicates("stagerun").set_index("stagerun")["root"]
    cells = two.cells.assign(
        root=two.cells["root"].where(~two.cells["root"].str.contains("+", regex=False), None)
    )
    own = cells["root"].isna()
    cells.loc[own, "root"] = cells.loc[own, "stagerun"].str.split("+").str[0].map(roots)
    view = seen(dataclasses.replace(two, cells=cells.assign(ROWS=cells["finetune"])))
    told = {drawing.name: drawing for drawing in drawings(view)}
    assert {"ladder_neutral_dialogue", "ladder_tasks", "washout_tasks", "side_by_side_s27k_tasks"} <= set(
        told
    )
    # A caption quotes its own set alone, and the ladder after it shows what was fine-tuned on it.
    for own, other in (("tasks", "neutral dialogue"), ("neutral dialogue", "tasks")):
        taught = told[f"washout_{own.replace(' ', '_')}"].caption.split("over the largest S: ")[1]
        assert f" on {own} from " in taught and f" on {other} from " not in taught
    titles = [ax.get_title(loc="left") for ax in told["ladder_tasks"].draw().axes]
    assert titles == ["compassion 30%, after S = 147k"]
    assert "s100k (98.6k" in said(told["ladder_neutral_dialogue"].draw())
    axes = told["side_by_side_s27k_tasks"].draw().axes[0]
    rows = view.margins.query("rung == 'new_frame' and size == 's27k' and finetune in ('none', 'tasks')")
    rows = rows.query("second_ratio == 0 and ratio in (0, 0.3) and S in (0, 147000) and pretrain_tokens > 0")
    np.testing.assert_allclose(drawn(axes, "seeds"), np.sort(rows["margin"]))
    # The larger size was not fine-tuned on tasks.
    assert "side_by_side_s100k_neutral_dialogue" in told and "side_by_side_s100k_tasks" not in told
    assert "retention_by_size_neutral_dialogue" in told and "retention_by_size_tasks" not in told
    assert "this grid has one size that was fine-tuned on tasks." in told["sizes"].caption
