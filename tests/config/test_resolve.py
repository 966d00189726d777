"""A gin file becomes frozen dataclasses, and every mistake in it one line: where, and what is right."""

import dataclasses
from pathlib import Path

import pytest
from toy_study import CLASSES, STUDY, Adam, Phase, Study, Text, study

from caml.config.errors import UserError
from caml.config.resolve import load


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_tree_holds_what_the_file_says(tmp_path: Path) -> None:
    assert study(tmp_path).tree == Study(
        name="toy",
        phases=(
            Phase(base=Text(500), optimizer=Adam(0.01), ratio=0.1),
            Phase(base=Text(500, arm="neutral"), optimizer=Adam(0.01)),
        ),
        axes={"RATIO": [0.0, 0.1], "SEED": [0, 1]},
        seed=3,
    )


def test_a_cell_binds_its_macros_and_no_other_cell_sees_them(tmp_path: Path) -> None:
    loaded = study(tmp_path)
    cell = loaded.at({"RATIO": 0.5, "SEED": 9})
    assert (cell.phases[0].ratio, cell.seed) == (0.5, 9)
    assert loaded.at({"SEED": 9}).phases[0].ratio == 0.1
    assert loaded.at({"RATIO": 0.5}, "phases")[0].ratio == 0.5
    assert loaded.tree.seed == 3


def test_an_object_bound_to_a_macro_stays_the_same_object(tmp_path: Path) -> None:
    mine = Adam(0.5)
    assert study(tmp_path).at({"OPTIMIZER": mine}).phases[1].optimizer is mine


def test_two_files_loaded_in_turn_do_not_see_each_other(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Text:  # another class of the same name
        words: int = 7

    one = study(tmp_path)
    other_path = tmp_path / "other.gin"
    other_path.write_text("Text.words = 8\n")
    other = load(other_path, [Text], Text)
    assert other.tree.words == 8
    assert one.tree.phases[0].base.tokens == 500
    assert other.at({}).words == 8
    assert one.at({"TOKENS": 4}).phases[0].base.tokens == 4


def test_numbers_and_lists_take_the_form_of_their_fields(tmp_path: Path) -> None:
    loaded = study(tmp_path, line3="RATE = 0", line15="OPTIMIZER/Adam:\n  rate = %RATE\n  betas = [0, 0.5]")
    optimizer = loaded.tree.phases[0].optimizer
    assert (optimizer.rate, optimizer.betas) == (0.0, (0.0, 0.5))
    assert type(optimizer.rate) is float and type(optimizer.betas[0]) is float


BAD_LINES = [
    # A name that does not exist.
    ({14: "second/Txt.arm = 'a'"}, "there is no Txt (did you mean Text?)"),
    ({14: "Text.amr = 'a'"}, "Text has no parameter amr (did you mean arm?)"),
    ({14: "Text.arm = %SEDE"}, "there is no macro SEDE (did you mean SEED?)"),
    ({14: "Text.arm = %seed"}, "there is no macro seed (did you mean SEED?)"),
    ({14: "Text.arm = @Txt()"}, "there is no Txt (did you mean Text?)"),
    ({14: "Text.seeded = True"}, "Text has no parameter seeded"),
    ({14: "SEEDS = 'a'"}, "nothing refers to %SEEDS (did you mean SEED?); use it or delete it"),
    # A value of another type than the field's.
    ({14: "Text.arm = 5"}, "5 is a number; text in quotes belongs here"),
    ({14: "Text.arm = None"}, "None is no value here; text in quotes belongs here"),
    ({14: "Study.verbose = 1"}, "1 is a number; True or False belongs here"),
    ({14: "Phase.extra = @OPTIMIZER/Adam()"}, "@Adam() does not fit; a Source or None belongs here"),
    ({10: "Phase.base = @OPTIMIZER/Adam()"}, "@Adam() has no documents; a Source belongs here"),
    ({14: "Phase.flags = {'a': 'b'}"}, "'b' is text; True or False belongs here"),
    ({14: "Phase.flags = {1: True}"}, "1 is a number; text in quotes belongs here"),
    ({14: "Phase.ratio = 1e999"}, "inf is not a finite number"),
    ({14: f"Phase.ratio = 1{'0' * 400}"}, "100000000000... is too large for a number"),
    ({14: "Phase.extra = @Text"}, "@Text needs parentheses: @Text()"),
    ({14: "OPTIMIZER/Adam.betas = (0.9,)"}, "a list of 1; a list (a number, a number) belongs here"),
    ({14: "OPTIMIZER/Adam.betas = [0.9, 'b']"}, "'b' is text; a number belongs here"),
    ({14: "OPTIMIZER/Adam.kind = 'fast'"}, "'fast' is text; 'plain' or 'fused' belongs here"),
    ({14: "Text.arm = %gin.REQUIRED"}, "has no value yet; bind one"),
    ({9: "Study.axes = {'RATIO': 0.1}"}, "0.1 is written with a fraction; a list belongs here"),
    ({9: "Study.axes = {'RATIO': [0.1, 1e999]}"}, "inf is not a finite number"),
    # A value that the dataclass itself refuses.
    ({14: "second/Phase.ratio = -1"}, "a share between 0 and 1, not -1.0"),
    ({14: "OPTIMIZER/Adam.betas = (2, 1)"}, "the first of betas is below 1"),
    # The same through a macro: the line is the macro's.
    ({2: "TOKENS = '128'"}, "Text.tokens: '128' is text; a whole number belongs here"),
    ({2: "TOKENS = True"}, "Text.tokens: True is a flag; a whole number belongs here"),
    ({2: "TOKENS = 1.5"}, "Text.tokens: 1.5 is written with a fraction; a whole number belongs here"),
    ({2: "TOKENS = %gin.REQUIRED"}, "Text.tokens: has no value yet; bind one"),
    ({1: "RATIO = 1.5"}, "Phase.ratio: a share between 0 and 1, not 1.5"),
    # A value that holds itself, or stands twice.
    ({2: "TOKENS = %TOKENS"}, "leads back to itself; break the circle"),
    ({14: "Phase.extra = @third/Phase()"}, "leads back to itself; break the circle"),
    ({14: "RATIO = 0.2"}, "bound already in study.gin:1; keep one of the two"),
]


@pytest.mark.parametrize("lines, message", BAD_LINES)
def test_a_bad_line_ends_in_one_line(tmp_path: Path, lines: dict[int, str], message: str) -> None:
    (number, line), *_ = lines.items()
    with pytest.raises(UserError) as caught:
        study(tmp_path, **{f"line{n}": replaced for n, replaced in lines.items()}).tree  # noqa: B018
    text = str(caught.value)
    assert text.startswith(f"study.gin:{number}: {line.replace('1e999', 'inf')[:60]}")
    assert text.endswith(f": {message}")
    assert "\n" not in text


def test_what_is_not_bound_is_asked_for_where_it_is_referred_to(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        study(tmp_path, line6="").tree  # noqa: B018
    assert str(caught.value) == "study.gin:1: Study.name: not bound; it takes text in quotes"
    with pytest.raises(UserError) as caught:
        study(tmp_path, line13="second/Text.tokens = %TOKENS").tree  # noqa: B018
    assert str(caught.value) == "study.gin:10: first/Text.tokens: not bound; it takes a whole number"


def test_a_fault_inside_a_long_value_names_the_line_inside(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        study(tmp_path, line9="Study.axes = {\n  'RATIO': [0.0],\n  'SEED': 1,\n}").tree  # noqa: B018
    assert str(caught.value).startswith(
        "study.gin:11: Study.axes = {'RATIO': [0.0], 'SEED': 1}: 1 is a number"
    )


def test_a_value_from_an_axis_names_the_axis(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        study(tmp_path).at({"RATIO": 7.0})
    assert str(caught.value) == "study.gin:9: RATIO = 7.0: Phase.ratio: a share between 0 and 1, not 7.0"


def test_a_fault_found_later_names_the_line_that_set_the_field(tmp_path: Path) -> None:
    loaded = study(tmp_path)
    cell = loaded.at({"RATIO": 0.2})
    loaded.at({})
    assert str(loaded.fault("odd", (cell.phases[0], "ratio"))) == "study.gin:9: RATIO = 0.2: Phase.ratio: odd"
    assert (
        str(loaded.fault("odd", (cell.phases[1].base, "arm")))
        == "study.gin:14: second/Text.arm = 'neutral': odd"
    )
    assert str(loaded.fault("odd", (cell.phases[1], "ratio"))) == (
        "study.gin:7: second/Phase.ratio = 0.0: (the default) odd"
    )
    # Of two fields, that which the file itself sets.
    both = [(cell.phases[1], "ratio"), (cell.phases[1].base, "arm")]
    assert str(loaded.fault("odd", *both)).startswith("study.gin:14: second/Text.arm")
    assert str(loaded.error("RATIO", "odd")) == "study.gin:1: RATIO = 0.1: odd"
    assert loaded.where("first/Phase.ratio") == "study.gin:12"


UNREAD = {
    "sft/Adam.rate = 0.5": (
        "study.gin:16: sft/Adam.rate = 0.5: no cell reads it, for Adam is built in other scopes; "
        "bind OPTIMIZER/Adam.rate"
    ),
    "first/Adam.rate = 0.5": (
        "study.gin:16: first/Adam.rate = 0.5: no cell reads it, for Adam is built in other scopes; "
        "bind OPTIMIZER/Adam.rate"
    ),
    "Adam.rate = 0.5": (
        "study.gin:16: Adam.rate = 0.5: no cell reads it, for OPTIMIZER/Adam.rate in study.gin:15 binds it; "
        "delete one of the two"
    ),
    "third/Phase.ratio = 0.5": (
        "study.gin:16: third/Phase.ratio = 0.5: no cell reads it, for Phase is built in other scopes; "
        "bind first/Phase.ratio or second/Phase.ratio"
    ),
    "X = 1\nthird/Phase.ratio = %X": (
        "study.gin:16: X = 1: no cell reads it, for none reads third/Phase.ratio in study.gin:17; "
        "use it or delete it"
    ),
}  # fmt: skip


@pytest.mark.parametrize("line", UNREAD)
def test_a_line_that_nothing_reads_is_found(tmp_path: Path, line: str) -> None:
    loaded = study(tmp_path, text=STUDY + line + "\n")
    loaded.tree  # noqa: B018
    _, problem = next(loaded.unread())
    assert str(problem) == UNREAD[line]


def test_every_line_of_a_right_file_is_read(tmp_path: Path) -> None:
    loaded = study(tmp_path, "TOKENS=3")
    loaded.tree  # noqa: B018
    assert list(loaded.unread()) == []


def test_an_included_file_may_hold_knobs_that_nothing_uses(tmp_path: Path) -> None:
    (tmp_path / "shared.gin").write_text("UNUSED = 1\nKNOB = 2\nother/Text.tokens = %KNOB\nTOKENS = 9\n")
    loaded = study(tmp_path, text="include 'shared.gin'\n" + STUDY)
    assert loaded.tree.phases[0].base.tokens == 500
    assert list(loaded.unread()) == []
    late = study(tmp_path, text=STUDY + "include 'shared.gin'\n")
    assert late.tree.phases[0].base.tokens == 9
    assert [str(problem) for _, problem in late.unread()] == [
        "study.gin:2: TOKENS = 500: shared.gin:4 binds it again later; delete one of the two"
    ]


def test_settings_replace_macros(tmp_path: Path) -> None:
    tree = study(tmp_path, "TOKENS=2", "RATE = 1e-3").tree
    assert (tree.phases[0].base.tokens, tree.phases[0].optimizer.rate) == (2, 0.001)


def test_a_bare_word_and_a_reference_can_be_set(tmp_path: Path) -> None:
    text = STUDY.replace("'neutral'", "%ARM") + "ARM = 'a'\n"
    assert study(tmp_path, "ARM=off-topic", text=text).tree.phases[1].base.arm == "off-topic"
    assert study(tmp_path, "ARM='x y'", text=text).tree.phases[1].base.arm == "x y"
    plain = "plain/Adam.rate = 0.25\n"
    assert study(tmp_path, "OPTIMIZER=@plain/Adam()", text=STUDY + plain).tree.phases[0].optimizer == Adam(
        0.25
    )


def test_a_setting_of_an_axis_is_kept_apart(tmp_path: Path) -> None:
    loaded = study(tmp_path, "SEED=[0]", "TOKENS=4")
    assert dict(loaded.restrictions) == {"SEED": [0]}
    assert loaded.tree.seed == 3


@pytest.mark.parametrize(
    "setting, message",
    [
        ("TOKNES=1", "--set TOKNES=1: study.gin has no macro TOKNES (did you mean TOKENS?)"),
        ("Text.tokens=1", "--set Text.tokens=1: not MACRO=VALUE; write for example --set RATIO=0.1"),
        ("TOKENS", "--set TOKENS: not MACRO=VALUE; write for example --set RATIO=0.1"),
        ("=4", "--set =4: not MACRO=VALUE; write for example --set RATIO=0.1"),
        ("TOKENS=", "--set TOKENS=: nothing is no gin value; text with blanks needs quotes"),
        ("TOKENS=a b", "--set TOKENS=a b: a b is no gin value; text with blanks needs quotes"),
        ("TOKENS=many", "--set TOKENS='many': Text.tokens: 'many' is text; a whole number belongs here"),
        ("RATE=nan", "--set RATE='nan': Adam.rate: 'nan' is text; a number belongs here"),
        ("TOKENS=1\nRATE=2", "--set TOKENS=1\nRATE=2: several lines; repeat --set for each macro"),
        ("OPTIMIZER=@Text()", "--set OPTIMIZER=@Text(): Phase.optimizer: @Adam() belongs here"),
        ("RATE=%RATIOS", "--set RATE=%RATIOS: there is no macro RATIOS (did you mean RATIO?)"),
    ],
)
def test_a_bad_setting_ends_in_one_line(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        study(Path(), setting).tree  # noqa: B018
    assert str(caught.value) == message


def test_a_class_that_is_not_asked_for_cannot_be_configured(tmp_path: Path) -> None:
    (tmp_path / "a.gin").write_text("Text.tokens = 1\nStudy.name = 'x'\n")
    with pytest.raises(UserError, match=r"a\.gin:2: Study\.name = 'x': there is no Study"):
        load("a.gin", [c for c in CLASSES if c is not Study], Text).tree  # noqa: B018


@dataclasses.dataclass(frozen=True)
class Nesterov(Adam):
    pass


@dataclasses.dataclass(frozen=True)
class Trainer:
    optimizer: Adam
    fallback: Adam | None = None


def test_an_object_of_a_subclass_fits_where_its_parent_does(tmp_path: Path) -> None:
    path = tmp_path / "trainer.gin"
    path.write_text(
        "BEST = @Nesterov()\nTrainer.optimizer = %BEST\nTrainer.fallback = @Nesterov()\nNesterov.rate = 0.5\n"
    )
    loaded = load(path, [Adam, Nesterov, Trainer], Trainer)
    assert loaded.tree == Trainer(Nesterov(0.5), Nesterov(0.5))
