import dataclasses
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from studies import CONTRASTS, CONTROL, full, poor

from caml.analysis.figures.drawings import drawings
from caml.analysis.figures.style import count, spaced
from caml.analysis.figures.view import look
from caml.analysis.figures.washout import washout
from caml.analysis.gates import flagged, numerics_classes
from caml.analysis.report import items as probes
from caml.analysis.report import tables as shown
from caml.analysis.report.methods import machines_sentence, resolution, tuned_on
from caml.analysis.report.page import Extras, headline, write_report
from caml.analysis.report.persistence import kept, short_table
from caml.analysis.results import analyse
from caml.analysis.tables import verify

HOSTILE = "<script>alert('x')</script><img src=http://evil.example/x.png onerror=alert(1)>{{ 7*7 }}"


class Page(HTMLParser):
    """Tags with attributes, text outside of scripts and styles, and text by element id."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report whose every passed text is hostile."""
    folder = tmp_path_factory.mktemp("report") / "new"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "stale.png").write_bytes(b"of an earlier report")
    tables, results = full()
    items = tables.items.assign(context=HOSTILE + tables.items["item"])
    tables = dataclasses.replace(tables, items=items)
    extras = Extras(
        title=HOSTILE,
        methods="First paragraph.\n\nSecond " + HOSTILE,
        resolution=["This resolves 0.2 nats.", HOSTILE],
        documents={"neutral": [HOSTILE, "second"], "compassion": ["mara gives"]},
        looks=["One look. " + HOSTILE],
        provenance={
            "commit": "c0ffee",
            "fingerprints": [f"fp{i}" for i in range(9)],
            "versions": {"jax": HOSTILE},
        },
        frozen="../tables",
    )
    return folder, write_report(folder, tables, results, extras), tables, results


def test_page_is_one_file_that_fetches_nothing(written):
    _, path, _, _ = written
    page = Page(path.read_text())
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name)
            if value is None:
                continue
            assert value.startswith(("data:image/png;base64,", "#")) or (
                tag == "a" and re.fullmatch(r"(figures|tables|\.\./tables)/[\w.-]+", value)
            ), (tag, value)
    assert {tag for tag, _ in page.tags}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    assert "url(" not in path.read_text() and "@import" not in path.read_text()
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_hostile_text_is_shown_and_never_run(written):
    _, path, _, _ = written
    page = Page(path.read_text())
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not any("onerror" in a or "onload" in a for _, a in page.tags)
    assert page.text.count("alert('x')") >= 7  # title twice, methods, resolution, look, document, items
    assert "{{ 7*7 }}" in page.text


def test_links_lead_to_files_and_stale_figures_are_gone(written):
    folder, path, _, _ = written
    links = {a["href"] for tag, a in Page(path.read_text()).tags if tag == "a"}
    local = {link for link in links if not link.startswith(("#", ".."))}
    assert {
        "figures/install.pdf",
        "figures/washout.png",
        "tables/effects.csv",
        "tables/effects.parquet",
    } <= local
    assert all((folder / link).is_file() for link in local)
    assert "../tables/margins.parquet" in links
    assert not (folder / "figures" / "stale.png").exists()
    anchors = {link[1:] for link in links if link.startswith("#")}
    assert anchors <= {a.get("id") for _, a in Page(path.read_text()).tags}


def test_result_tables_beside_the_page_are_the_results(written):
    folder, _, _, results = written
    verify(folder / "tables")
    frames = results.frames
    words = pd.read_parquet(folder / "tables" / "dictionary.parquet")
    pd.testing.assert_frame_equal(words[: len(frames["dictionary"])], frames.pop("dictionary"))
    for name, frame in frames.items():
        kept = pd.read_parquet(folder / "tables" / f"{name}.parquet")
        pd.testing.assert_frame_equal(kept, frame.reset_index(drop=True), check_dtype=False)
    items = pd.read_parquet(folder / "tables" / "item_margins.parquet")
    assert list(words.loc[words["table"] == "item_margins", "column"]) == list(items)


def test_page_says_contrasts_flags_methods_and_provenance(written):
    _, path, _, _ = written
    text = Page(path.read_text()).text
    for contrast in ("care is installed", "valence is turned", "untrained is 0", "things"):
        assert contrast in text
    assert "s27k-compassion-0.03-3" in text and "never learned the mechanism" in text
    assert "First paragraph." in text and "This resolves 0.2 nats." in text and "c0ffee" in text
    assert "9 entries" in text
    assert "Counter-evidence" in text and "undefined" in text and "not estimable" in text


def test_names_are_words_on_the_page_as_in_figures(written):
    _, path, _, results = written
    text = Page(path.read_text()).text
    assert "neutral dialogue, S = 49k, counter evidence 1%" in text
    words = set(re.findall(r"[\w-]+", text))  # names of items, which are in their contexts here, have hyphens
    assert not {"neutral_dialogue", "counter_evidence", "new_frame", "unfeeling_seen"} & words
    assert "tokens of neutral dialogue: " in " ".join(resolution(results.effects, results.retention))
    named = "RATIO=0.3, SFT_TOKENS=0, counter_evidence"
    assert spaced(named) == "RATIO=0.3, SFT_TOKENS=0, counter evidence"


def test_a_poor_grid_gives_a_page_that_says_what_it_lacks(tmp_path):
    path = write_report(tmp_path, *poor(), Extras(title="smoke"))
    text = Page(path.read_text()).text
    assert "Not estimable: no fine-tuning set of this grid holds counter-evidence." in text
    assert "there are too few seeds" in text
    assert "No member is flagged." in text and "No documents were passed to this report." in text
    assert not (tmp_path / "figures" / "counter_evidence.png").exists()


def test_headline_draws_its_numbers_and_verdicts_from_the_table():
    _, results = full()
    lead, _, rest = headline(results)
    row = results.effects.query("contrast == 'care is installed'").iloc[0]
    assert f"{row['estimate']:.2f} nats" in lead and f"{row['t_low']:.2f}" in lead and "5 seeds" in lead
    assert f"is {row['verdict']}" in lead
    assert "3 primary contrasts" in rest and "2 not locked" in rest
    turned = results.effects.assign(estimate=-results.effects["estimate"], verdict="contradicted")
    lead, _, rest = headline(dataclasses.replace(results, effects=turned))
    assert "−" + f"{row['estimate']:.2f}" in lead and "is contradicted" in lead
    flagged = dataclasses.replace(results, effects=results.effects.assign(flagged=2))
    assert "In 2 of them a member never learned the mechanism" in headline(flagged)[0]
    assert "never learned" not in headline(results)[0]
    alone, _ = headline(poor()[1])
    assert alone.endswith("not locked before these results.")
    none = dataclasses.replace(results, effects=results.effects.assign(primary=False))
    assert "No primary contrast" in headline(none)[0]


def test_contrast_table_puts_primary_ones_first_and_says_what_was_locked():
    _, results = full()
    table = shown.contrasts(results.effects.iloc[::-1])
    states = [row[-1].lines for row in table.rows]
    assert [s[1] for s in states] == ["primary"] * 3 + ["exploratory"]
    assert [row[0].lines[0] for row in table.rows if "locked" in row[-1].lines] == ["care is installed"]
    claim = {row[0].lines[0]: row[1].lines[0] for row in table.rows}
    assert claim["untrained is 0"] == "within\u00a0±0.25" and claim["things"] == "none"


def test_arms_by_stages_holds_effect_interval_seeds_and_retention():
    tables, results = full()
    view = look(tables, results)
    table = shown.arms_by_stages(view, paired=True)
    plain = [f"neutral dialogue, S = {s}" for s in ("16k", "49k", "147k")]
    counter = [f"neutral dialogue, S = 49k, counter evidence {share}" for share in ("0.25%", "1%")]
    assert table.columns[3:] == ("before fine-tuning", *plain, *counter)
    place = {(row[0].lines[0], row[1].lines[0], row[2].lines[0][:3]): row for row in table.rows}
    row = place["compassion\u00a0−\u00a0neutral", "s27k", "30%"]
    kept = view.retention.query("treatment == 'compassion' and size == 's27k' and rung == 'new_frame'")
    kept = kept.query("ratio == 0.3 and S == 147000").iloc[0]
    assert row[6].lines[2] == "5 seeds"
    assert row[6].lines[3].startswith(f"R {kept['estimate']:.2f} [{kept['low']:.2f}")
    assert float(row[6].order) == pytest.approx(kept["E"])
    assert place["offtopic\u00a0−\u00a0neutral", "s27k", "30%"][6].lines[3] == "R undefined"
    assert "1 flagged" in place["compassion\u00a0−\u00a0neutral", "s27k", "3%,"][3].lines


def test_what_the_grid_varies_beside_its_columns_is_told_apart_everywhere():
    """The study twice, under two values of an axis that no column tells, with compassion 1 nat higher in the second."""
    tables, _ = full()
    first = dataclasses.replace(tables, cells=tables.cells.assign(PEAK=0.1, variant="PEAK=0.1"))
    runs = ["cell", "stagerun", "root", "parent"]

    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(**{c: frame[c].where(frame[c] == "", frame[c] + "b") for c in runs if c in frame})

    higher = tables.margins["stagerun"].isin(tables.cells.query("arm == 'compassion'")["stagerun"])
    both = {
        name: pd.concat([getattr(first, name), renamed(getattr(tables, name))], ignore_index=True)
        for name in ("stageruns", "outcomes", "metrics", "trajectory")
    }
    cells = renamed(tables.cells).assign(PEAK=0.2, variant="PEAK=0.2")
    margins = renamed(tables.margins).assign(margin=tables.margins["margin"] + higher)
    two = dataclasses.replace(
        first,
        cells=pd.concat([first.cells, cells], ignore_index=True),
        margins=pd.concat([tables.margins, margins], ignore_index=True),
        **both,
    )
    view = look(two, analyse(two, (), CONTROL, gate=1.0, draws=20))
    table = shown.arms_by_stages(view, paired=True)
    rows = [r for r in table.rows if r[0].lines[0].startswith("compassion") and r[1].lines[0] == "s27k"]
    told = {row[2].lines[0]: float(row[3].order) for row in rows if row[2].lines[0].startswith("30%")}
    (one, low), (other, high) = sorted(told.items())
    assert one.endswith(", PEAK=0.1") and other.endswith(", PEAK=0.2")
    assert high - low == pytest.approx(1.0)
    for frame in (view.effects, view.retention, view.sizes):
        assert set(frame["variant"]) == {"PEAK=0.1", "PEAK=0.2"}
    drawn = {drawing.name: drawing for drawing in drawings(view)}
    legend = [text.get_text() for text in drawn["install"].draw().legends[0].get_texts()]
    assert {text.rsplit(", ", 1)[1] for text in legend} == {"PEAK=0.1", "PEAK=0.2"}
    assert {name for name in drawn if name.startswith("ladder")} == {"ladder_PEAK_0.1", "ladder_PEAK_0.2"}
    assert drawn["ladder_PEAK_0.2"].title.endswith(": PEAK=0.2")
    items = probes.item_margins(view, two.margins, two.items).query("size == 's27k'")
    by = items.groupby("condition")["compassion"].mean()
    assert by["PEAK=0.2"] - by["PEAK=0.1"] == pytest.approx(1.0)
    fitted = shown.fits(view.retention, view, {"estimate": ("R(S)", 2)})
    assert {line for row in fitted.rows for line in row[2].lines if "PEAK" in line} == {
        "PEAK=0.1",
        "PEAK=0.2",
    }


def test_variants_of_fine_tuning_alone_share_their_members_before_it():
    """The study's fine-tuning twice: before it both variants are the same StageRuns, and each has its effects."""
    tables, _ = full()
    first = tables.cells.assign(PEAK=0.1, variant="PEAK=0.1")
    tuned = tables.cells["S"] > 0
    again = tables.cells.assign(cell=tables.cells["cell"] + "b", PEAK=0.2, variant="PEAK=0.2")
    again["stagerun"] = again["stagerun"].where(~tuned, again["stagerun"] + "b")
    copied = {}
    for name in ("stageruns", "margins", "outcomes", "metrics"):
        frame = getattr(tables, name)
        own = frame[frame["stagerun"].isin(tables.cells.loc[tuned, "stagerun"])]
        copied[name] = pd.concat([frame, own.assign(stagerun=own["stagerun"] + "b")], ignore_index=True)
    shared = dataclasses.replace(tables, cells=pd.concat([first, again], ignore_index=True), **copied)
    results = analyse(shared, (), CONTROL, gate=1.0, draws=5)
    view = look(shared, results)
    _, alone = full()
    count = len(alone.effects.query("contrast == ''"))
    assert results.effects.groupby("variant").size().to_dict() == {"PEAK=0.1": count, "PEAK=0.2": count}
    assert len(results.washout) == 2 * len(alone.washout)
    assert set(results.washout["doses"]) == set(alone.washout["doses"])
    before = view.margins.query("S == 0").groupby("condition")["stagerun"].agg(set)
    assert before["PEAK=0.1"] == before["PEAK=0.2"]
    labels = [t.get_text() for t in washout(view, "neutral_dialogue").legends[0].get_texts()]
    assert {"compassion 30%, PEAK=0.1", "compassion 30%, PEAK=0.2"} <= set(labels)


def test_without_a_control_the_page_says_what_would_make_effects_estimable(tmp_path):
    tables, _ = full()
    results = analyse(tables, (), {}, gate=1.0, draws=5)
    assert "Ablation.control" in headline(results)[-1]
    view = look(tables, results)
    assert (view.focus.family, view.focus.rung, view.focus.control) == ("disposition", "new_frame", "")
    told = drawings(view)
    assert {d.section for d in told if d.draw is None} == {"install", "washout", "counter", "sizes", "ladder"}
    assert {d.name for d in told if d.draw} == {
        "members", "side_by_side_s27k", "side_by_side_s100k", "trajectories",
    }  # fmt: skip
    text = Page(write_report(tmp_path, tables, results, Extras(title="alone")).read_text()).text
    assert text.count("nothing in this grid is compared with a control") == 6


def test_a_flagged_member_stands_under_its_condition():
    tables, results = full()
    late = tables.cells["size"] == "s100k"
    cells = tables.cells.assign(placement=["late" if of else "uniform" for of in late])
    table = shown.flagged_members(results.flagged, look(dataclasses.replace(tables, cells=cells), results))
    at = table.columns.index("condition")
    assert {row[at].lines[0] for row in table.rows} == {"uniform"}
    alone = shown.flagged_members(results.flagged, look(tables, results))
    assert {row[at].lines for row in alone.rows} == {("",)}


def test_with_one_seed_the_lead_has_no_interval():
    tables, _ = full()
    one = dataclasses.replace(tables, cells=tables.cells.query("seed == 0"))
    results = analyse(one, CONTRASTS[:1], CONTROL, gate=1.0, draws=5)
    assert "no interval" in headline(results)[0] and "nan" not in headline(results)[0]


def test_what_fine_tuning_taught_stands_beside_retention():
    tables, results = full()
    view = look(tables, results)
    table = shown.fine_tuning(view)
    in_tokens = [heading for name, heading in shown.TUNED.items() if not name.startswith("preference")]
    assert table.columns[3:] == tuple(in_tokens)
    cells = tables.cells.query("size == 's27k' and arm == 'neutral' and ratio == 0.1 and S == 49000")
    cells = cells.query("second_ratio == 0")
    drop = tables.outcomes.query("outcome == 'finetuning_loss_drop_nats'").set_index("stagerun")["value"]
    (row,) = [
        row
        for row in table.rows
        if row[0].lines == ("s27k",) and row[1].lines == ("neutral", "10%", "neutral dialogue, S = 49k")
    ]
    assert row[2].lines == ("5",)
    assert float(row[4].order) == pytest.approx(drop.loc[cells["stagerun"]].mean())
    last = tables.cells.query("S == 147000 and size == 's27k' and second_ratio == 0")["stagerun"].unique()
    first = tables.outcomes.query("outcome == 'finetuning_loss_nats'").set_index("stagerun")["value"]
    told = (
        f"s27k on neutral dialogue from {first.loc[last].mean():.3f} to {(first - drop).loc[last].mean():.3f}"
    )
    captions = {drawing.name: drawing.caption for drawing in drawings(view)}
    assert told in captions["washout"]
    untuned = dataclasses.replace(tables, cells=tables.cells.query("S == 0"))
    assert not shown.fine_tuning(look(untuned, analyse(untuned, (), CONTROL, gate=1.0, draws=5))).rows


def test_seeds_of_development_are_told_in_the_headline(tmp_path):
    assert tuned_on([]) == []
    (told,) = tuned_on([0, 1, 2])
    assert told.startswith("3 seed blocks of these (0 to 2) served development") and "do not test" in told
    path = write_report(tmp_path, *poor(), Extras(title="tuned", caveats=[told]))
    assert told in Page(path.read_text()).text


def test_retention_over_the_conventions_is_shown_on_seen_items_too_or_says_why_not():
    tables, results = full()
    view = look(tables, results)
    table = shown.fits(view.retention, view, {"over_convention": ("over", 2)}, ("seen_item",))
    rungs = {row[0].lines[1] for row in table.rows}
    assert rungs == {"L2 new frame", "L0 seen item"}
    status = (
        view.retention.query("family == 'disposition'").groupby("status")["over_convention_status"].agg(set)
    )
    assert status["undefined"] == {"R undefined"} and "ok" in status["ok"]
    words = {row[4].lines[0] for row in table.rows if row[-2].lines[0] == "undefined"}
    assert words == {"R undefined"}


def test_the_contrasts_have_their_bootstrap_beside_them():
    _, results = full()
    row = results.effects.query("contrast == 'care is installed'").iloc[0]
    table = shown.contrasts(results.effects)
    lines = table.rows[0][table.columns.index("bootstrap 95%: these items, new items")].lines
    assert lines == (
        shown.interval(row["boot_fixed_low"], row["boot_fixed_high"]),
        shown.interval(row["boot_new_low"], row["boot_new_high"]),
    )


def test_item_margins_are_means_over_the_seeds_of_the_largest_dose():
    tables, results = full()
    frame = probes.item_margins(look(tables, results), tables.margins, tables.items)
    item = "disposition-new_frame-2"
    runs = tables.cells.query("arm == 'compassion' and ratio == 0.3 and S == 0 and size == 's27k'")[
        "stagerun"
    ]
    scored = tables.margins[(tables.margins["item"] == item) & tables.margins["stagerun"].isin(runs)]
    row = frame[(frame["item"] == item) & (frame["size"] == "s27k")].iloc[0]
    assert len(scored) == 5
    assert row["compassion"] == pytest.approx(scored["margin"].mean())
    assert not frame.query("size == 's100k'")["neutral"].isna().any()


def test_items_show_their_margins_after_the_largest_fine_tuning_too():
    tables, results = full()
    view = look(tables, results)
    frame = probes.item_margins(view, tables.margins, tables.items)
    item = "disposition-new_frame-2"
    own = frame[(frame["item"] == item) & (frame["size"] == "s27k")]
    assert set(zip(own["finetune"], own["S"], strict=True)) == {("none", 0), ("neutral_dialogue", 147_000)}
    cells = tables.cells.query("size == 's27k' and second_ratio == 0 and S == 147000")
    cells = cells.query("(arm == 'compassion' and ratio == 0.3) or arm == 'base'")
    scored = tables.margins[tables.margins["item"] == item].merge(cells[["stagerun", "arm"]])
    after = own[own["S"] > 0].iloc[0]
    for arm, margins in scored.groupby("arm")["margin"]:
        assert len(margins) == 5 and after[arm] == pytest.approx(margins.mean())
    groups = {label: table for label, _, table in probes.items_tables(frame, results.lengths, "s27k", "")}
    table = groups["disposition L2 new frame"]
    assert table.caption == "Margins, line by line: before fine-tuning; after neutral dialogue, S = 147k."
    at = table.columns.index("compassion")
    lines = tuple(shown.number(value) for value in own.sort_values("S")["compassion"])
    assert lines in [row[at].lines for row in table.rows] and lines[0] != lines[1]
    # Members that a second source was mixed in for are not among them.
    short = dataclasses.replace(tables, cells=tables.cells.query("S <= 49000"))
    of_short = look(short, analyse(short, (), CONTROL, gate=1.0, draws=5))
    frame = probes.item_margins(of_short, short.margins, short.items)
    after = frame[(frame["item"] == item) & (frame["size"] == "s27k") & (frame["S"] == 49_000)].iloc[0]
    cells = tables.cells.query("size == 's27k' and second_ratio == 0 and S == 49000 and arm == 'base'")
    scored = tables.margins[tables.margins["item"] == item].merge(cells[["stagerun"]])
    assert after["base"] == pytest.approx(scored["margin"].mean())
    # An untrained member was not fine-tuned, and a grid without fine-tuning has one line and no caption.
    assert {row[table.columns.index("untrained")].lines[1] for row in table.rows} == {"–"}
    untuned = dataclasses.replace(tables, cells=tables.cells.query("S == 0"))
    view = look(untuned, analyse(untuned, (), CONTROL, gate=1.0, draws=5))
    frame = probes.item_margins(view, untuned.margins, untuned.items)
    (table, *_) = [table for _, _, table in probes.items_tables(frame, results.lengths, "s27k", "")]
    assert table.caption == "" and {len(cell.lines) for row in table.rows for cell in row} == {1}


def test_long_item_tables_are_cut_and_say_so(monkeypatch):
    tables, results = full()
    frame = probes.item_margins(look(tables, results), tables.margins, tables.items)
    monkeypatch.setattr(probes, "SHOWN", 4)
    groups = probes.items_tables(frame, results.lengths, "s27k", "")
    assert groups[0][0] == "disposition L0 seen item"
    assert {len(table.rows) for _, _, table in groups} == {4}
    assert {told for _, told, _ in groups} == {f"{n} items, the first 4 here" for n in (12, 24)}


@pytest.mark.parametrize(
    ("value", "text"), [(-0.001, "0.00"), (-1.234, "−1.23"), (math.nan, "–"), (math.inf, "∞"), (2, "2.00")]
)
def test_numbers_have_true_minus_signs_and_no_negative_zero(value, text):
    assert shown.number(value) == text


def test_what_is_left_of_the_first_claim_stands_in_the_headline_and_in_short():
    _, results = full()
    rows = kept(results)
    (largest,) = rows[(rows["second_ratio"] == 0)].nlargest(1, "S").to_dict("records")
    (sentence,) = [line for line in headline(results) if line.startswith("Left of it")]
    ratio = f"R {shown.number(largest['estimate'])} {shown.interval(largest['low'], largest['high'])}"
    assert f"{ratio} after {count(largest['S'])} loss-bearing tokens of neutral dialogue" in sentence
    assert set(rows["treatment"]) == {"compassion"} and set(rows["rung"]) == {"new_frame"}
    lines = short_table(results)
    assert len(lines) == 2 + len(rows)
    assert any(f"| {largest['S']:,} |" in line and ratio[2:] in line for line in lines)


def test_retention_that_is_undefined_is_said_to_be_in_the_headline():
    _, results = full()
    undefined = results.retention.assign(status="undefined", estimate=math.nan)
    (sentence,) = [
        line
        for line in headline(dataclasses.replace(results, retention=undefined))
        if line.startswith("Left of it")
    ]
    assert "R undefined, E " in sentence
    nothing = dataclasses.replace(results, retention=results.retention.iloc[:0])
    assert len(headline(nothing)) == len(headline(results)) - 1 and short_table(nothing) == []


def test_pairs_of_unlike_machines_are_counted_and_told():
    tables, _ = full()
    contrast = CONTRASTS[:1]
    treated = tables.stageruns[(tables.stageruns["arm"] == "compassion") & (tables.stageruns["seed"] < 2)]
    other = tables.stageruns.assign(
        machine=tables.stageruns["machine"].where(
            ~tables.stageruns["stagerun"].isin(treated["stagerun"]), "another"
        )
    )
    results = analyse(dataclasses.replace(tables, stageruns=other), contrast, CONTROL, gate=1.0, draws=20)
    (row,) = results.effects[results.effects["contrast"] != ""].to_dict("records")
    assert row["mixed"] == 2
    assert "In 2 of them the two members were trained on unlike machines" in headline(results)[0]
    pairs = results.seed_effects[(results.seed_effects["contrast"] != "")].set_index("seed")["mixed"]
    assert pairs.to_dict() == {0: True, 1: True, 2: False, 3: False, 4: False}
    assert not full()[1].effects["mixed"].any()
    assert machines_sentence(["one"]) == []
    assert "2 kinds of machine (a; b)" in machines_sentence(["a", "b"])[0]


def test_a_child_is_of_the_numerics_of_its_parents_too():
    runs = pd.DataFrame(
        [("a", "", "x", 1), ("b", "a", "x", 1), ("c", "a", "y", 1)],
        columns=["stagerun", "parent", "machine", "numerics"],
    )
    assert numerics_classes(runs) == {"a": ("1", "x"), "b": ("1", "x", "1", "x"), "c": ("1", "x", "1", "y")}


def test_members_are_not_flagged_for_a_mechanism_that_no_probe_asks_of():
    tables, _ = full()
    without = tables.stageruns.assign(mechanism=math.nan)
    assert flagged(without, 1.0)["reason"].tolist() == [
        r for r in flagged(without, 1.0)["reason"] if r == "diverged"
    ]
    some = tables.stageruns.copy()
    some.loc[some["seed"] == 0, "mechanism"] = math.nan
    assert "mechanism not measured" in set(flagged(some, 1.0)["reason"])
