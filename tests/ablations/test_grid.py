"""An ablation becomes cells and shared StageRuns, and asks for nothing that is not there."""

import dataclasses
import itertools
from pathlib import Path

import pytest
from toy_ablation import ABLATION, CLASSES, Corpus, ablation, expand

from caml.ablations.freezing import cells_table
from caml.ablations.grid import AXES, cells, stagerun_text
from caml.ablations.runs import Ablation, StageRun, stageruns
from caml.analysis.tables import DATA_DICTIONARY
from caml.config.errors import UserError
from caml.config.explain import diff
from caml.config.files import show
from caml.config.resolve import load


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_grid_is_the_union_of_the_products_without_duplicates(tmp_path: Path) -> None:
    found = expand(tmp_path)
    expected = {("base", 0.0, seed, sft, "s") for seed in (0, 1) for sft in (0, 256)}
    expected |= set(itertools.product(("kind", "neutral"), (0.1, 0.5), (0, 1), (0, 256), "s"))
    expected |= set(itertools.product(("kind", "neutral"), (0.1,), (0,), (0,), "sl"))
    assert len(found) == len(expected)
    assert {tuple(cell.values.values()) for cell in found} == expected
    assert found[0].id == "arm=base,ratio=0.0,seed=0,sft=0,size=s"
    assert len({cell.id for cell in found}) == len(found)


def test_each_cell_is_the_run_with_its_macros_bound(tmp_path: Path) -> None:
    for cell in expand(tmp_path):
        first = cell.run.stages[0].mixture
        assert first.intervention and (first.intervention.name, first.ratio) == (
            cell.values["ARM"],
            cell.values["RATIO"],
        )
        assert (cell.run.seed, cell.run.model.name) == (cell.values["SEED"], cell.values["SIZE"])
        assert cell.run.stages[1].tokens == cell.values["SFT"]
        assert [s.stage.name for s in cell.stageruns] == ["pretrain", "sft"][: 1 + (cell.values["SFT"] > 0)]


def test_cells_share_the_stageruns_that_are_the_same(tmp_path: Path) -> None:
    found = expand(tmp_path)
    chains = {cell.id: cell.stageruns for cell in found}
    before, after = (
        chains["arm=kind,ratio=0.1,seed=0,sft=0,size=s"],
        chains["arm=kind,ratio=0.1,seed=0,sft=256,size=s"],
    )
    assert after[0] is before[0] and after[1].parent is before[0]
    every = {id(s): s.fingerprint for chain in chains.values() for s in chain}
    assert len(set(every.values())) == len(every) == 22


def root(folder: Path, **lines: str) -> StageRun:
    """The first StageRun of the file's own run."""
    return stageruns(ablation(folder, **lines).tree.run)[0]


def test_what_changes_nothing_is_not_in_the_fingerprint(tmp_path: Path) -> None:
    plain, base = root(tmp_path), root(tmp_path, line2="RATIO = 0.0")
    assert base.fingerprint != plain.fingerprint
    assert root(tmp_path, line1="ARM = 'kind'", line2="RATIO = 0.0").fingerprint == base.fingerprint
    assert root(tmp_path, line6="Ablation.name = 'other'").fingerprint == plain.fingerprint
    assert (
        root(tmp_path, line59="Corpus.tokens = 512\nCorpus.repetition = 2.0").fingerprint == plain.fingerprint
    )
    assert (
        root(tmp_path, line24="Run.probes = @Quiz()\nQuiz.rungs = ['new_frame']").fingerprint
        == plain.fingerprint
    )
    untrained = root(tmp_path, line39="pretrain/Stage.tokens = 0")
    assert (untrained.steps, untrained.arm, untrained.ratio) == (0, "base", 0.0)
    other_rate = root(
        tmp_path, line39="pretrain/Stage.tokens = 0", line49="Optimizer.rate = 0.5", line1="ARM = 'kind'"
    )
    assert other_rate.fingerprint == untrained.fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    "number, line",
    [
        (1, "ARM = 'kind'"),
        (2, "RATIO = 0.2"),
        (3, "SEED = 1"),
        (28, "small/Model.width = 16"),
        (36, "TrainedTokenizer.vocabulary = 65"),
        (39, "pretrain/Stage.tokens = 512"),
        (46, "Stage.batch = 8"),
        (49, "Optimizer.rate = 0.02"),
        (53, "pretrain/Mixture.ratio = %RATIO\npretrain/Mixture.placement = 'early'"),
        (44, "Stage.optimizer = @Optimizer()\nSchedule.floor = 0.1"),
        (39, "pretrain/Stage.tokens = 1024\npretrain/Stage.target_tokens = 1100"),
        (46, "Stage.batch = 4\nStage.precision = 'bfloat16'"),
        (49, "Optimizer.rate = 0.01\nOptimizer.spike = 0.0"),
        (28, "small/Model.width = 8\nModel.base_width = 4"),
    ],
)
def test_what_changes_the_result_changes_every_later_fingerprint(
    tmp_path: Path, number: int, line: str
) -> None:
    sft = {"line5": "SFT = 256"}
    plain = stageruns(ablation(tmp_path, **sft).tree.run)
    other = stageruns(ablation(tmp_path, **sft, **{f"line{number}": line}).tree.run)
    assert [s.fingerprint for s in plain] != [s.fingerprint for s in other]
    assert plain[1].fingerprint != other[1].fingerprint
    assert diff(plain[1].history, other[1].history)


def test_the_difference_of_two_stageruns_can_be_read(tmp_path: Path) -> None:
    assert diff(root(tmp_path).history, root(tmp_path, line2="RATIO = 0.2").history) == [
        "pretrain.mixture.ratio: 0.1 -> 0.2"
    ]


def test_a_stagerun_has_a_name_that_says_what_it_is(tmp_path: Path) -> None:
    by_id = {cell.id: cell for cell in expand(tmp_path)}
    last = by_id["arm=kind,ratio=0.5,seed=1,sft=256,size=s"].stageruns[-1]
    assert last.name == f"sft-kind-r0.5-ss-seed1-{last.fingerprint[:12]}"
    assert (
        by_id["arm=base,ratio=0.0,seed=0,sft=0,size=s"]
        .stageruns[0]
        .name.startswith("pretrain-base-r0-ss-seed0-")
    )


def test_tokens_beyond_whole_steps_are_dropped(tmp_path: Path) -> None:
    run = root(tmp_path, line39="pretrain/Stage.tokens = 1023")
    assert (run.steps, run.slots) == (15, 60)


def test_a_written_cell_runs_alone_with_the_same_fingerprints(tmp_path: Path) -> None:
    loaded = ablation(tmp_path)
    for cell in cells(loaded)[::5]:
        path = tmp_path / "cell.gin"
        path.write_text(cell.text(loaded.tree))
        alone = cells(load(path, CLASSES, Ablation, (), AXES))
        assert len(alone) == 1
        assert [s.fingerprint for s in alone[0].stageruns] == [s.fingerprint for s in cell.stageruns]
        assert alone[0].run == cell.run
        path.write_text(stagerun_text(loaded.tree, cell.stageruns[0]))
        (first,) = cells(load(path, CLASSES, Ablation, (), AXES))
        assert [s.fingerprint for s in first.stageruns] == [cell.stageruns[0].fingerprint]


def test_a_macro_may_be_left_open_where_the_axes_give_its_values(tmp_path: Path) -> None:
    no_large = {"line27": "", "line29": ""}
    found = expand(
        tmp_path,
        line2="RATIO = %gin.REQUIRED",
        line11="",
        line17="Contrast.at = {'RATIO': 0.5, 'SFT': 0}",
        **no_large,
    )
    assert len(found) == 20
    with pytest.raises(UserError) as caught:
        expand(tmp_path, line2="RATIO = %gin.REQUIRED")
    assert str(caught.value) == "toy.gin:2: RATIO = %gin.REQUIRED: Mixture.ratio: has no value yet; bind one"


def test_the_table_has_a_row_for_each_cell(tmp_path: Path) -> None:
    second = "sft/Mixture.second = @base/Corpus()\nsft/Mixture.second_ratio = 0.25"
    found = expand(tmp_path, line54=f"sft/Mixture.base = @chat/Corpus()\n{second}")
    table = cells_table(found).set_index("cell")
    expected = set(DATA_DICTIONARY["cells"]) - {"cell", "dose_tokens", "S"} | {
        "ARM",
        "RATIO",
        "SEED",
        "SFT",
        "SIZE",
    }
    assert set(table.columns) == expected
    row = table.loc["arm=kind,ratio=0.5,seed=1,sft=256,size=s"]
    run = next(cell for cell in found if cell.id == row.name)
    assert (row["stagerun"], row["root"]) == (run.stageruns[1].fingerprint, run.stageruns[0].fingerprint)
    assert (row["stage"], row["size"], row["arm"], row["ratio"]) == ("sft", "s", "kind", 0.5)
    assert (row["finetune"], row["second"], row["second_ratio"]) == ("chat", "base_text", 0.25)
    assert (row["placement"], row["pretrain_tokens"], row["seed"]) == ("uniform", 1024, 1)
    assert row["params"] == run.run.model.parameters(64)[0]
    before = table.loc["arm=base,ratio=0.0,seed=0,sft=0,size=s"]
    assert (before["stage"], before["arm"], before["finetune"], before["second"]) == (
        "pretrain",
        "base",
        "none",
        "none",
    )


@pytest.mark.parametrize(
    "settings, count",
    [(["SEED=0"], 12), (["SEED=[0,1]", "ARM=kind"], 9), (["SIZE=l"], 2), (["SIZE=@large/Model()"], 2)],
)
def test_a_setting_of_an_axis_leaves_the_cells_with_that_value(
    tmp_path: Path, settings: list[str], count: int
) -> None:
    assert len(expand(tmp_path, *settings)) == count


@pytest.mark.parametrize(
    "settings, message",
    [
        (["SEED=7"], "--set SEED=7: SEED is an axis; choose among its values 0, 1"),
        (["SEED=True"], "--set SEED=True: SEED is an axis; choose among its values 0, 1"),
        (["SEED=0.0"], "--set SEED=0.0: SEED is an axis; choose among its values 0, 1"),
        (
            ["SEED=0", "SEED=1"],
            "--set SEED=1: SEED is set twice; name it once (an axis takes a list of values)",
        ),
        (["SEED=[]"], "--set SEED=[]: SEED is an axis; choose among its values 0, 1"),
        (["ARM=kidn"], "--set ARM='kidn': ARM is an axis; choose among its values base, kind, neutral"),
        (
            ["SIZE=l", "ARM=base"],
            "--set SIZE='l' --set ARM='base': no cell has these values together; leave one out",
        ),
    ],
)
def test_a_setting_of_an_axis_to_another_value_is_refused(
    tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        expand(tmp_path, *settings)
    assert str(caught.value) == message


def test_an_object_on_an_axis_is_made_of_the_values_of_other_axes(tmp_path: Path) -> None:
    found = expand(
        tmp_path,
        line4="SIZE = @small/Model()\nDEPTH = 1",
        line11="    {'SIZE': [@small/Model(), @large/Model()], 'ARM': ['base'], 'RATIO': [0.0], 'DEPTH': [1, 2]},",
        line30="Model.layers = %DEPTH",
    )
    made = {(cell.values["SIZE"], cell.values["DEPTH"]): cell.run.model for cell in found}
    assert {key: (model.name, model.layers) for key, model in made.items()} == {key: key for key in made}
    assert len(made) == 4


BAD = [
    (
        {6: "Ablation.name = 'toy'\nTOGETHER = 0\nAblation.population = %TOGETHER",
         9: "{'TOGETHER': [0, 2], 'ARM': ['kind', 'neutral'], 'RATIO': [0.5], 'SFT': [0]},"},
        "toy.gin:11: TOGETHER = [0, 2]: whatever it is, the runs are the same",
    ),
    ({9: "{'RATIO': []},"}, "toy.gin:9: RATIO = []: an axis needs at least one value"),
    ({9: "{'SEED': [0, 1, 0]},"}, "toy.gin:9: SEED = [0, 1, 0]: 0 stands there twice; keep one"),
    ({9: "{'RATIO': [0.0, 0]},"}, "toy.gin:9: RATIO = [0.0, 0.0]: 0.0 stands there twice; keep one"),
    (
        {11: "{'SIZE': [@small/Model(), @small/Model()]},", 29: ""},
        "toy.gin:11: SIZE = ['s', 's']: 's' stands there twice; keep one",
    ),
    (
        {9: "{'RATOI': [0.1]},"},
        "toy.gin:9: RATOI = [0.1]: there is no macro RATOI (did you mean RATIO?); an axis varies a "
        "macro of the file",
    ),
    (
        {9: "{'RATIO': ['a']},"},
        "toy.gin:9: RATIO = ['a']: 'a' is of another type than RATIO = 0.1 in toy.gin:2; make them alike",
    ),
    (
        {9: "{'SEED': [True]},"},
        "toy.gin:9: SEED = [True]: True is of another type than SEED = 0 in toy.gin:3; make them alike",
    ),
    (
        {9: "{'SIZE': ['s']},"},
        "toy.gin:9: SIZE = ['s']: 's' is of another type than SIZE = @small/Model() in toy.gin:4; "
        "make them alike",
    ),
    ({9: "{'RATIO': [1.5]},"}, "toy.gin:9: RATIO = 1.5: Mixture.ratio: a share between 0 and 1, not 1.5"),
    ({9: "{'RATIO': [-0.1]},"}, "toy.gin:9: RATIO = -0.1: Mixture.ratio: a share between 0 and 1, not -0.1"),
    ({9: "{'SFT': [10]},"},
     "toy.gin:9: SFT = 10: Stage.tokens: 10 tokens are less than one step takes: 0, or at least 64"),
    (
        {9: "{'ARM': ['base'], 'RATIO': [0.1]},"},
        "toy.gin:9: RATIO = 0.1: Mixture.ratio: the arm 'base' has no documents; give it ratio 0.0",
    ),
    (
        {53: "pretrain/Mixture.ratio = %RATIO\npretrain/Mixture.placement = 'late'"},
        "toy.gin:10: RATIO = 0.5: Mixture.ratio: ratio 0.5 takes 32 of 64 slots; the window of "
        "placement 'late' has 22",
    ),
    (
        {59: "Corpus.tokens = 511"},
        "toy.gin:59: Corpus.tokens = 511: the stage pretrain takes 512 tokens of 'kind', at most 1 "
        "times over; "
        "that needs Corpus.tokens of 512 or more, or Corpus.repetition of 1.002 or more",
    ),
    (
        {58: "base/Corpus.tokens = 400\nbase/Corpus.repetition = 2"},
        "toy.gin:58: base/Corpus.tokens = 400: the stage pretrain takes 1024 tokens of 'base_text', "
        "at most 2 times "
        "over; that needs Corpus.tokens of 512 or more, or Corpus.repetition of 2.56 or more",
    ),
    ({7: "Ablation.control = {'ARM': 'neutral', 'RATIO': 0.1}"},
     "toy.gin:7: Ablation.control = {'ARM': 'neutral', 'RATIO': 0.1}: the control of the cell "
     "arm=kind,ratio=0.5,seed=0,sft=0,size=s has the ratio 0.1, and not its own; name the arm alone"),
    ({7: "Ablation.control = {'SEED': 0}"},
     "toy.gin:7: Ablation.control = {'SEED': 0}: SEED is always paired and cannot be named here"),
    ({15: "Contrast.treatment = {'ARM': 'kind', 'RATIO': 0.5}",
      16: "Contrast.control = {'ARM': 'neutral', 'RATIO': 0.1}",
      17: "Contrast.at = {'SFT': 0, 'SIZE': 's'}"},
     "toy.gin:16: Contrast.control = {'ARM': 'neutral', 'RATIO': 0.1}: contrast 'install': in the cell "
     "arm=kind,ratio=0.5,seed=0,sft=0,size=s the control has the ratio 0.1; compare arms at the same ratio"),
    ({17: "Contrast.at = {'ARM': 'kind', 'RATIO': 0.5, 'SFT': 0, 'SIZE': 's'}"},
     "toy.gin:17: Contrast.at = {'ARM': 'kind', 'RATIO': 0.5, 'SFT': 0, 'SIZE': 's'}: treatment and control name ARM "
     "themselves; leave it out"),
    ({28: "small/Model.width = 15"}, "toy.gin:28: small/Model.width = 15: a width of 15 cannot be divided by 2 heads"),
    (
        {9: "{'RATIO': [0.1, 0.095]},"},
        "toy.gin:9: RATIO = 0.095: Mixture.ratio: 0.095 takes 6 of 64 slots in the stage pretrain, as 0.1 does: "
        "not two doses; keep one",
    ),
    (
        {54: "sft/Mixture.base = @chat/Corpus()\nsft/Mixture.second = @base/Corpus()\nsft/Mixture.second_ratio = 0.01"},
        "toy.gin:56: sft/Mixture.second_ratio = 0.01: 0.01 takes none of the 16 slots of the stage sft: 0, or a "
        "ratio that takes one",
    ),
    (
        {5: "SFT = 0\nTOKENS = 1024", 9: "{'TOKENS': [1024, 1025]},", 39: "pretrain/Stage.tokens = %TOKENS"},
        "toy.gin:10: TOKENS = 1025: Stage.tokens: 1025 tokens are 16 steps of the stage pretrain, as 1024 are: not "
        "two budgets; keep one",
    ),
    (
        {39: "pretrain.Stage.tokens = 1024"},
        "toy.gin:39: pretrain.Stage.tokens = 1024: there is no pretrain.Stage (did you mean pretrain/Stage?)",
    ),
    ({9: "{'SEED': [[0, 1]]},"},
     "toy.gin:9: SEED = [[0, 1]]: [0, 1] is of another type than SEED = 0 in toy.gin:3; make them alike"),
    (
        {15: "Contrast.treatment = {'ARM': 'kidn'}"},
        "toy.gin:15: Contrast.treatment = {'ARM': 'kidn'}: contrast 'install': no cell has ARM=kidn "
        "(did you mean kind?)",
    ),
    (
        {15: "Contrast.treatment = {'AMR': 'kind'}"},
        "toy.gin:15: Contrast.treatment = {'AMR': 'kind'}: contrast 'install': AMR is no axis (did "
        "you mean ARM?)",
    ),
    (
        {16: "Contrast.control = {'ARM': 'offtopic'}"},
        "toy.gin:16: Contrast.control = {'ARM': 'offtopic'}: contrast 'install': no cell has ARM=offtopic; "
        "the grid has base, kind, neutral",
    ),
    (
        {17: "Contrast.at = {'RATIO': 0.2, 'SFT': 0}"},
        "toy.gin:17: Contrast.at = {'RATIO': 0.2, 'SFT': 0}: contrast 'install': no cell has RATIO=0.2; "
        "the grid has 0.0, 0.1, 0.5",
    ),
    (
        {17: "Contrast.at = {'RATIO': 0.5, 'SFT': 0, 'SIZE': 'l'}"},
        "toy.gin:15: Contrast.treatment = {'ARM': 'kind'}: contrast 'install': "
        "the grid has no cell ratio=0.5,sft=0,size=l,arm=kind; add it to the axes",
    ),
    (
        {17: "Contrast.at = {'RATIO': 0.1, 'SFT': 0}"},
        "toy.gin:15: Contrast.treatment = {'ARM': 'kind'}: contrast 'install': leaves SIZE open; "
        "name a value in `at`",
    ),
    (
        {16: "Contrast.control = {'ARM': 'base'}"},
        "toy.gin:16: Contrast.control = {'ARM': 'base'}: contrast 'install': "
        "the grid has no cell ratio=0.5,seed=0,sft=0,size=s,arm=base; add it to the axes",
    ),
    (
        {18: "Contrast.rung = 'new_farme'"},
        "toy.gin:18: Contrast.rung = 'new_farme': contrast 'install': "
        "no disposition probe is on the rung 'new_farme' (did you mean new_frame?)",
    ),
    (
        {18: "Contrast.rung = 'new_frame'\nContrast.family = 'knowledge'"},
        "toy.gin:19: Contrast.family = 'knowledge': contrast 'install': "
        "no probe is of the family 'knowledge'; there are disposition",
    ),
    (
        {
            10: "{'ARM': ['kind', 'neutral'], 'RATIO': [0.0, 0.5], 'SEED': [0, 1], 'SFT': [0, 256]},",
            17: "Contrast.at = {'RATIO': 0.0, 'SFT': 0, 'SIZE': 's'}",
        },
        "toy.gin:16: Contrast.control = {'ARM': 'neutral'}: contrast 'install': in the cell "
        "arm=kind,ratio=0.0,seed=0,sft=0,size=s treatment and control are the same StageRun; "
        "compare cells that are trained otherwise",
    ),
    (
        {7: "Ablation.control = {'ARM': 'offtopic'}"},
        "toy.gin:7: Ablation.control = {'ARM': 'offtopic'}: no cell has ARM=offtopic; the grid has "
        "base, kind, neutral",
    ),
    (
        {10: "{'ARM': ['kind', 'neutral'], 'RATIO': [0.5]}, {'ARM': ['kind'], 'RATIO': [0.1], 'SEED': [1]},"},
        "toy.gin:7: Ablation.control = {'ARM': 'neutral'}: the cell arm=kind,ratio=0.1,seed=1,sft=0,size=s "
        "has no control; add arm=neutral,ratio=0.1,seed=1,sft=0,size=s to the axes",
    ),
    ({3: "SEED = 0\nSEDE = 1"},
    "toy.gin:4: SEDE = 1: nothing refers to %SEDE (did you mean SEED?); use it or delete "
    "it"),
    (
        {34: "Model.mlp_width = 8\nhuge/Model.width = 9"},
        "toy.gin:35: huge/Model.width = 9: no cell reads it, for Model is built in other scopes; "
        "bind large/Model.width or small/Model.width",
    ),
    (
        {
            4: "SIZE = @medium/Model()\nmedium/Model.width = 8\nmedium/Model.name = 'm'",
            9: "{'SIZE': [@small/Model()], 'ARM': ['base'], 'RATIO': [0.0], 'SFT': [0]},",
            10: "{'SIZE': [@small/Model()], 'ARM': ['kind', 'neutral'], 'RATIO': [0.5], 'SFT': [0]},",
        },
        "toy.gin:5: medium/Model.width = 8: no cell reads it, for Model is built in other scopes; "
        "bind large/Model.width or small/Model.width",
    ),
]  # fmt: skip


@pytest.mark.parametrize("lines, message", BAD)
def test_an_ablation_that_cannot_be_ends_in_one_line(
    tmp_path: Path, lines: dict[int, str], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        expand(tmp_path, **{f"line{number}": line for number, line in lines.items()})
    text = str(caught.value)
    assert text.startswith(message) and "\n" not in text


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", ".", "..", "/tmp/x", "a\\b", "a b", "-x", "a\n", "x" * 121]
)
def test_a_name_that_would_leave_the_output_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        expand(tmp_path, line6=f"Ablation.name = {name!r}")
    assert str(caught.value).startswith(
        f"toy.gin:6: Ablation.name = {show(name)}: names a folder inside the output folder"
    )


def test_a_name_may_be_long_where_cells_run_alone(tmp_path: Path) -> None:
    loaded = ablation(tmp_path, line6=f"Ablation.name = '{'x' * 120}'")
    path = tmp_path / "cell.gin"
    path.write_text(cells(loaded)[3].text(loaded.tree))
    assert load(path, CLASSES, Ablation, (), AXES).tree.name.startswith("x" * 100 + "-")


@pytest.mark.parametrize(
    "own, message",
    [
        ("Model.heads = 3", "Model.heads = 3: a width of 8 cannot be divided by 3 heads"),
        ("Schedule.warmup = 0.9", "Schedule.warmup = 0.9: warmup 0.9 and decay 0.2 together pass 1"),
        ("Schedule.decay = 0.96", "Schedule.decay = 0.96: warmup 0.05 and decay 0.96 together pass 1"),
        (
            "TrainedTokenizer.kind = 'bpe'",
            "TrainedTokenizer.kind = 'bpe': a tokenizer of kind 'bpe' takes a voc",
        ),
        (
            "pretrain/Stage.tokens = 2048",
            "pretrain/Stage.tokens = 2048: the stage pretrain takes 2048 tokens of",
        ),
        (
            "Stage.batch = 100",
            "Stage.batch = 100: 1024 tokens are less than one step takes: 0, or at least 1600",
        ),
        (
            "pretrain/Stage.target_tokens = 512",
            "pretrain/Stage.target_tokens = 512: the budget of the stage that this one of 1024 tokens stands for, or 0",
        ),
        (
            "pretrain/Stage.target_tokens = 40960",
            "pretrain/Stage.target_tokens = 40960: the stage pretrain takes 1024 tokens of 'base_text', of which",
        ),
    ],
)
def test_of_lines_that_are_impossible_together_the_users_own_is_named(
    tmp_path: Path, own: str, message: str
) -> None:
    ablation(tmp_path)
    path = tmp_path / "own.gin"
    path.write_text(f"include 'toy.gin'\n{own}\n")
    with pytest.raises(UserError) as caught:
        cells(load(path, CLASSES, Ablation, (), AXES))
    assert str(caught.value).startswith(f"own.gin:2: {message}")


def test_a_setting_is_named_before_the_lines_that_it_contradicts(tmp_path: Path) -> None:
    text = ABLATION.replace("pretrain/Stage.tokens = 1024", "pretrain/Stage.tokens = %TOKENS\nTOKENS = 1024")
    with pytest.raises(
        UserError, match=r"^--set TOKENS=4096: Stage.tokens: the stage pretrain takes 4096 tokens"
    ):
        cells(ablation(tmp_path, "TOKENS=4096", text=text))
    with pytest.raises(UserError, match=r"^--set SIZE=@huge/Model\(\): huge/Model.name: not bound"):
        ablation(tmp_path, "SIZE=@huge/Model()", line11="").tree  # noqa: B018


def test_no_cells_read_a_setting_is_refused_and_one_that_hides_lines_is_not(tmp_path: Path) -> None:
    (tmp_path / "shared.gin").write_text("KNOB = 1\nspare/Corpus.tokens = %KNOB\nBASE = @base/Corpus()\n")
    text = "include 'shared.gin'\n" + ABLATION.replace(
        "Mixture.base = @base/Corpus()", "Mixture.base = %BASE"
    )
    hiding = text.replace("source = @base/Corpus()", "source = @words/Corpus()\nwords/Corpus.name = 'words'")
    hiding = hiding.replace("Corpus.tokens = 512", "Corpus.tokens = 1024")
    assert len(cells(ablation(tmp_path, "BASE=@words/Corpus()", "SEED=0", text=hiding))) == 12
    with pytest.raises(UserError) as caught:
        cells(ablation(tmp_path, "KNOB=3", text=text))
    assert str(caught.value) == (
        "--set KNOB=3: no cell reads it, for none reads spare/Corpus.tokens in shared.gin:2; use it "
        "or delete it"
    )


def test_a_macro_whose_reader_a_file_replaces_is_named_with_it_or_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "shared.gin").write_text("Corpus.tokens = %TOKENS\n")
    included = "include 'shared.gin'\n" + ABLATION
    with pytest.raises(UserError) as caught:
        cells(ablation(tmp_path, text=f"{included}\nTOKENS = 512\n"))
    assert "TOKENS = 512: no cell reads it, for Corpus.tokens in " in str(caught.value)
    assert str(caught.value).endswith("takes the place of what read it; delete one of the two")
    assert cells(ablation(tmp_path, text=included))


def test_a_corpus_that_may_repeat_is_enough(tmp_path: Path) -> None:
    found = expand(tmp_path, line59="Corpus.tokens = 256\nCorpus.repetition = 2")
    assert len(found) == 22


def test_a_contrast_without_control_tests_the_margin_itself(tmp_path: Path) -> None:
    assert (
        len(
            expand(
                tmp_path, line16="Contrast.control = None", line15="Contrast.treatment = {'ARM': 'neutral'}"
            )
        )
        == 22
    )


def test_a_control_may_differ_in_an_axis_that_at_gives_it(tmp_path: Path) -> None:
    against_base = {
        "line15": "Contrast.treatment = {'ARM': 'kind', 'RATIO': 0.5}",
        "line16": "Contrast.control = {'ARM': 'base'}",
        "line17": "Contrast.at = {'RATIO': 0.0, 'SFT': 256, 'SIZE': 's'}",
    }
    assert len(expand(tmp_path, **against_base)) == 22
    with pytest.raises(UserError, match=r"^toy\.gin:16: .*the grid has no cell .*ratio=0\.1,arm=base"):
        expand(tmp_path, **against_base | {"line17": "Contrast.at = {'RATIO': 0.1, 'SFT': 256, 'SIZE': 's'}"})


def test_an_ablation_without_axes_is_one_cell(tmp_path: Path) -> None:
    lines = {f"line{n}": "" for n in (*range(7, 20), 27, 29)}
    (cell,) = expand(tmp_path, **lines)
    assert cell.id == "toy" and cell.macros == {}
    assert cells_table([cell]).loc[0, "arm"] == "neutral"


def test_what_no_other_column_tells_of_an_axis_is_the_variant(tmp_path: Path) -> None:
    assert set(cells_table(expand(tmp_path))["variant"]) == {""}
    axes = "{'ARM': ['kind', 'neutral'], 'SEED': [0, 1], 'SFT': [0, 256], 'PEAK': [0.1, 0.2], 'DEPTH': [1]}"
    lines = {f"line{n}": "" for n in (*range(8, 20), 27, 29)}
    lines |= {"line8": f"Ablation.axes = {axes}", "line9": "PEAK = 0.1\nDEPTH = 1"}
    lines |= {"line30": "Model.layers = %DEPTH", "line49": "Optimizer.rate = %PEAK"}
    table = cells_table(expand(tmp_path, **lines))
    assert len(table) == 16
    assert all(f"PEAK={peak}" == told for peak, told in zip(table["PEAK"], table["variant"], strict=True))


def test_recipes_take_the_seed_block(tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class Fixed(Corpus):
        def recipe(self, seed: int) -> dict[str, object]:
            return {"corpus": self.name}

    run = ablation(tmp_path).tree.run
    mixture = dataclasses.replace(run.stages[0].mixture, base=Fixed("f", 1024), ratio=0.0)
    first = dataclasses.replace(run.stages[0], mixture=mixture)
    one, other = (dataclasses.replace(run, stages=(first,), seed=seed) for seed in (0, 1))
    recipes = [stageruns(r)[0].identity["mixture"]["base"]["recipe"] for r in (one, other)]
    assert recipes[0] == recipes[1]
    assert stageruns(one)[0].fingerprint != stageruns(other)[0].fingerprint
