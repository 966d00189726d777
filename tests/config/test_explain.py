"""Where a value was set, and why two identities differ."""

import dataclasses
from pathlib import Path

import pytest
from toy_study import STUDY, study

from caml.config.errors import UserError
from caml.config.explain import diff, explain
from caml.config.resolve import load


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_macro_says_its_line_what_it_replaced_and_the_axis(tmp_path: Path) -> None:
    (tmp_path / "shared.gin").write_text("\nRATIO = 0.9\n")
    loaded = study(tmp_path, text="include 'shared.gin'\n" + STUDY)
    assert explain(loaded, "RATIO") == [
        "RATIO = 0.1",
        "  study.gin:2: RATIO = 0.1",
        "    instead of shared.gin:2: RATIO = 0.9",
        "    varied by study.gin:10: Study.axes",
    ]


def test_a_place_in_the_tree_leads_through_its_macro_to_the_setting(tmp_path: Path) -> None:
    assert explain(study(tmp_path, "RATE=0.5"), "phases[0].optimizer.rate") == [
        "phases[0].optimizer.rate = 0.5",
        "  study.gin:15: OPTIMIZER/Adam.rate = %RATE",
        "  --set: RATE = 0.5",
        "    instead of study.gin:3: RATE = 0.01",
    ]


def test_a_parameter_is_explained_in_every_scope_that_builds_it(tmp_path: Path) -> None:
    loaded = study(tmp_path, text=STUDY + "Text.arm = 'first'\n")
    assert explain(loaded, "Text.arm") == [
        "first/Text.arm = 'first'",
        "  study.gin:16: Text.arm = 'first'",
        "second/Text.arm = 'neutral'",
        "  study.gin:14: second/Text.arm = 'neutral'",
        "    instead of study.gin:16: Text.arm = 'first'",
    ]
    assert explain(loaded, "second/Text.arm")[0] == "second/Text.arm = 'neutral'"
    whole = explain(loaded, "second/Text")
    assert [line for line in whole if not line.startswith(" ")][-1] == "second/Text.arm = 'neutral'"
    assert [line.split(" = ")[0] for line in whole if not line.startswith(" ")] == [
        "second/Text.tokens", "second/Text.arm",
    ]  # fmt: skip
    assert explain(loaded, "Study.verbose") == ["Study.verbose = False", "  the default of Study"]


def test_a_place_inside_a_list_has_its_own_value(tmp_path: Path) -> None:
    loaded = study(tmp_path)
    assert explain(loaded, "phases[0]")[0] == "phases[0] = @Phase()"
    assert explain(loaded, "phases[1].ratio")[0] == "phases[1].ratio = 0.0"
    with pytest.raises(UserError, match=r"^--set RATIO=0.2: RATIO is an axis, and this command tells of"):
        explain(study(tmp_path, "RATIO=0.2"), "RATIO")


@pytest.mark.parametrize(
    "key, message",
    [
        ("RATOI", "study.gin has no macro, class or field of Study called RATOI (did you mean RATIO?)"),
        ("Txt.arm", "study.gin has no macro, class or field of Study called Txt (did you mean Text?)"),
        ("Text.amr", "Text has no parameter amr (did you mean arm?)"),
        ("third/Text.arm", "study.gin builds no Text in scope third"),
        ("phases[2].ratio", "study.gin has no phases.2"),
        ("phases[0].rati", "study.gin has no phases.0.rati (did you mean ratio?)"),
        ("phases[0", "name a macro, a parameter such as Optimizer.rate, or a place such as run.seed"),
        ("phases..ratio", "name a macro, a parameter such as Optimizer.rate, or a place such as run.seed"),
        ("", "name a macro, a parameter such as Optimizer.rate, or a place such as run.seed"),
    ],
)
def test_a_key_that_names_nothing_is_refused(tmp_path: Path, key: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        explain(study(tmp_path), key)
    assert str(caught.value) == message


def test_a_diff_has_one_line_for_each_value_that_differs() -> None:
    one = {"seed": 1, "stages": [{"rate": 0.1, "kind": "a"}, {"rate": 1}], "gone": None}
    other = {"seed": 1.0, "stages": [{"rate": 0.2, "kind": "a"}], "new": {"x": 1}}
    assert diff(one, other) == [
        "seed: 1 -> 1.0",
        "stages[0].rate: 0.1 -> 0.2",
        "stages[1]: {'rate': 1} -> nothing",
        "gone: None -> nothing",
        "new: nothing -> {'x': 1}",
    ]
    assert diff(one, dict(one)) == []


def test_a_place_inside_a_default_is_explained_by_the_field_that_has_it(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Inner:
        rate: float = 0.5

    @dataclasses.dataclass(frozen=True)
    class Outer:
        name: str
        inner: Inner = Inner()

    (tmp_path / "outer.gin").write_text("Outer.name = 'x'\n")
    loaded = load(tmp_path / "outer.gin", [Inner, Outer], Outer)
    assert explain(loaded, "inner.rate")[1:] == ["  the default of Outer"]
