"""The command line: help, one line for every mistake, and what can be asked without training."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import caml as package
from caml.__main__ import main
from caml.ablations.places import Places, named_below
from caml.cli import app
from caml.console import Console
from caml.training import devices

TINY = (Path(__file__).parent / "ablations/tiny.gin").read_text()
COMMANDS = (
    "run",
    "show",
    "explain",
    "diff",
    "lock",
    "power",
    "report",
    "generate",
    "export",
    "sync",
    "ui",
    "doctor",
)
CELL = "arm=compassion,ratio=0.25,seed=1,tokens=12288,sft_tokens=8192"


def caml(*arguments: str) -> Result:
    """The command in this process."""
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def line_of(text: str, part: str) -> int:
    """The number of the line of `text` that holds `part`."""
    return next(number for number, line in enumerate(text.splitlines(), start=1) if part in line)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the tiny ablation; devices of this process are as they are."""
    (tmp_path / "tiny.gin").write_text(TINY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(devices, "prepare_devices", lambda: None)
    return tmp_path


def assert_refused(result: Result, folder: Path, *says: str) -> None:
    """One line, status 2, and nothing written."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("caml: ")
    for part in says:
        assert part in line, line
    assert [path.name for path in folder.iterdir()] == ["tiny.gin"]


# What is put for what, the line to be named (the one that holds this), and what is said.
MISTAKES = {
    "unknown parameter": ("Model.width = 16", "Model.wdith = 16", "Model.wdith", "width"),
    "unknown class": ("Model.width = 16", "Modle.width = 16", "Modle.width", "Model"),
    "misspelt macro": ("pretrain/Mixture.ratio = %RATIO", "pretrain/Mixture.ratio = %RATOI", "%RATOI", "RATIO"),
    "a macro that nothing reads": ("SEED = 0", "SEED = 0\nDOSE = 3", "DOSE = 3", "DOSE"),
    "a binding that no cell reads": ("Rows.tokens = 10000", "Rows.tokens = 10000\nother/Rows.tokens = 1", "other/", ""),
    "a string for a number": ("Model.width = 16", "Model.width = '16'", "Model.width", "'16'"),
    "a number for a string": ("Model.name = 'tiny'", "Model.name = 1", "Model.name", "1"),
    "not a number": ("Optimizer.rate = 0.003", "Optimizer.rate = float('nan')", "Optimizer.rate", ""),
    "ratio above 1": ("'RATIO': [0.25]", "'RATIO': [1.5]", "'RATIO': [1.5]", "1.5"),
    "ratio below 0": ("'RATIO': [0.25]", "'RATIO': [-0.5]", "'RATIO': [-0.5]", "-0.5"),
    "heads that do not divide": ("Model.kv_heads = 2", "Model.kv_heads = 3", "Model.", "heads"),
    "an axis without values": ("'SEED': [0, 1], 'SFT", "'SEED': [], 'SFT", "'SEED': []", "at least one value"),
    "a value twice": ("'SEED': [0, 1], 'SFT", "'SEED': [1, 1], 'SFT", "'SEED': [1, 1]", "twice"),
    "an axis of no macro": ("'SEED': [0, 1], 'SFT", "'SEEDS': [0, 1], 'SFT", "'SEEDS'", "SEED"),
    "an arm that is not in the grid": (
        "install/Contrast.treatment = {'ARM': 'compassion'}",
        "install/Contrast.treatment = {'ARM': 'indifferent'}",
        "install/Contrast.treatment",
        "indifferent",
    ),
    "a treatment without its control": ("['compassion', 'neutral']", "['compassion']", "install/", "neutral"),
    "a dose beyond the corpus": ("Documents.tokens = 5000", "Documents.tokens = 500", "Documents.tokens", "repetition"),
    "a name that leaves the folder": ("Ablation.name = 'tiny'", "Ablation.name = '../x'", "Ablation.name", "letters"),
    "no syntax": ("SEED = 0", "SEED = ", "SEED = ", ""),
    "a window too small": (
        "pretrain/Mixture.ratio = %RATIO",
        "pretrain/Mixture.ratio = %RATIO\npretrain/Mixture.placement = 'late'\npretrain/Mixture.second = @sft/Rows()\n"
        "pretrain/Mixture.second_ratio = 0.6",
        "'RATIO': [0.25]",
        "the second source leaves",
    ),
    "a file that is not there": (
        "pretrain/Mixture.base = @BaseText()\n",
        "pretrain/Mixture.base = @Files()\nFiles.path = 'own.txt'\n"
        "Files.name = 'own'\nFiles.tokens = 16000\n",
        "Files.path",
        "own.txt does not exist",
    ),
    "a misspelt scope": ("Run.stages = (@pretrain/Stage()", "Run.stages = (@pretrian/Stage()", "@pretrian/Stage()",
                         "did you mean pretrain?"),
    "a size that leaves the folder": ("Model.name = 'tiny'", "Model.name = '../x'", "Model.name", "letters"),
    "more than the machine holds": ("Model.width = 16", "Model.width = 40000000", "Model.width", "a smaller size"),
    "sequences too short for documents": (
        "Stage.length = 64", "Stage.length = 8", "Stage.length = 8", "are not cut",
    ),
    "a scope for a class": ("Run.stages = (@pretrain/Stage()", "Run.stages = (@pretrian()", "@pretrian()",
                            "did you mean pretrain/"),
    "a folder of caml's own": ("Ablation.name = 'tiny'", "Ablation.name = 'ledger'", "Ablation.name", "another name"),
    "words of another world": ("Documents.tokens = 5000", "Documents.tokens = 5000\nDocuments.setting = 'full'",
                               "Documents.setting", "make them alike"),
    "too small a vocabulary": ("TrainedTokenizer.vocabulary = 128", "TrainedTokenizer.vocabulary = 20",
                               "TrainedTokenizer.vocabulary", "at least"),
    "no family of probes": ("Run.probes = @WorldProbes()", "Run.probes = @WorldProbes()\nWorldProbes.families = ()",
                            "WorldProbes.families", "at least one"),
    "a family twice": ("Run.probes = @WorldProbes()",
                       "Run.probes = @WorldProbes()\nWorldProbes.families = ('leak', 'leak')",
                       "WorldProbes.families", "once"),
    "no held-out text": ("Run.probes = @WorldProbes()", "Run.probes = @WorldProbes()\nWorldProbes.held_out_tokens = 0",
                         "WorldProbes.held_out_tokens", "above 0"),
    "more than can be": ("TOKENS = 12288\nSFT", "TOKENS = 10000000000000000000000\nSFT", "TOKENS = 1", "fewer"),
    "a time below 0": ("CHECKPOINT_SECONDS = 20.0", "CHECKPOINT_SECONDS = -1.0", "CHECKPOINT_SECONDS", "0 or above"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_file_ends_in_one_line_with_its_place(mistake: str, folder: Path) -> None:
    old, new, where, says = MISTAKES[mistake]
    assert TINY.count(old) == 1
    text = TINY.replace(old, new)
    (folder / "tiny.gin").write_text(text)
    result = caml("run", "tiny.gin")
    lines = {number for number, line in enumerate(text.splitlines(), start=1) if where in line}
    assert_refused(result, folder, "tiny.gin:", says)
    assert int(re.search(r"tiny\.gin:(\d+)", result.stderr)[1]) in lines, result.stderr  # type: ignore[index]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["run", "absent.gin"], ["absent.gin"]),
        (["run", "."], ["."]),
        (["run", "tiny.gin", "--set", "RATOI=0.1"], ["--set RATOI", "RATIO"]),
        (["run", "tiny.gin", "--set", "RATIO"], ["--set RATIO", "MACRO=VALUE"]),
        (["run", "tiny.gin", "--set", "SEED=7"], ["--set SEED=7", "0, 1"]),
        (["run", "tiny.gin", "--set", "ARM=kindness"], ["ARM"]),
        (
            ["run", "tiny.gin", "--only", CELL.replace("seed=1", "seed=9")],
            ["seed=9", "there is no such cell"],
        ),
        (["explain", "tiny.gin", "RATOI"], ["RATOI", "RATIO"]),
        (["explain", "tiny.gin", "optimiser"], ["optimiser", "Optimizer"]),
        (["diff", "tiny.gin", CELL, "x"], ["x", "there is no such cell"]),
        (["power", "tiny.gin"], ["no results", "caml run tiny.gin"]),
        (["report", "tiny.gin"], ["12 StageRuns", "caml run tiny.gin"]),
        (["rnu", "tiny.gin"], ["rnu", "caml --help"]),
        (["run"], ["ABLATION.gin", "run --help"]),
        (["run", "tiny.gin", "--onyl", "x"], ["--onyl", "--only", "run --help"]),
        (["ui", "tiny.gin", "--port", "x"], ["--port", "ui --help"]),
    ],
)
def test_a_mistake_in_the_command_ends_in_one_line(
    arguments: list[str], says: list[str], folder: Path
) -> None:
    assert_refused(caml(*arguments), folder, *says)


def test_a_file_may_begin_with_the_mark_of_a_byte_order(folder: Path) -> None:
    (folder / "tiny.gin").write_text(TINY, encoding="utf-8-sig")
    assert caml("show", "tiny.gin").exit_code == 0


@pytest.mark.parametrize("moment", ["reading the commands", "a command"])
def test_an_interrupt_at_any_moment_ends_in_one_line(
    moment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if moment == "a command":
        monkeypatch.setattr("typer.core.TyperGroup.invoke", interrupt)
    else:
        monkeypatch.setattr("caml.command.OneLine.main", interrupt)
    monkeypatch.setattr(sys, "argv", ["caml", "doctor"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "caml: interrupted\n"


def test_an_include_that_is_missing_is_named_by_its_line(folder: Path) -> None:
    (folder / "tiny.gin").write_text(f"{TINY}\ninclude 'sizes.gin'\n")
    line = line_of((folder / "tiny.gin").read_text(), "include")
    assert_refused(caml("run", "tiny.gin"), folder, f"tiny.gin:{line}: ", "sizes.gin")


@pytest.mark.parametrize("command", ["run", "lock"])
def test_an_output_folder_that_cannot_be_written_is_refused(command: str, folder: Path) -> None:
    # A file stands where a folder should be: not even root can write below it.
    result = caml(command, "tiny.gin", "--set", "OUTPUT='tiny.gin/runs'")
    assert_refused(result, folder, f"the output folder {folder / 'tiny.gin/runs'} cannot be written")


def test_show_tells_cells_sizes_and_cost(folder: Path) -> None:
    result = caml("show", "tiny.gin")
    assert result.exit_code == 0 and [path.name for path in folder.iterdir()] == ["tiny.gin"]
    lines = result.stdout.splitlines()
    assert sum("missing" in line for line in lines) == 12
    assert any(line.startswith(f"{CELL}  missing") for line in lines)
    assert "12 cells, 12 StageRuns in 3 populations of at most 12" in result.stdout
    one = caml("show", "tiny.gin", "--set", "SEED=1", "--set", "ARM=compassion")
    assert "2 cells, 2 StageRuns in 2 populations" in one.stdout
    assert "control: none" not in result.stdout
    alone = TINY.replace("Ablation.control = {'ARM': 'neutral'}\n", "")
    (folder / "alone.gin").write_text(alone)
    assert "control: none; Ablation.control names one" in caml("show", "alone.gin").stdout
    # Six StageRuns of 12288 tokens, four of 8192; six operations a token for each parameter of a matrix (all but five
    # norms) and for each number that attention makes over half of 64 positions, twice.
    size = re.search(r"size tiny: ([\d,]+) .* and ([\d,]+) in", result.stdout)
    cost = re.search(r"training cost: (\S+) floating", result.stdout)
    assert size and cost
    parameters = sum(int(count.replace(",", "")) for count in size.groups())
    of_token = 6 * (parameters - (3 * 16 + 2 * 8) + 2 * 8 * 64)
    assert float(cost[1]) == pytest.approx(of_token * (6 * 12288 + 4 * 8192), rel=0.01)


def test_explain_names_file_and_line(folder: Path) -> None:
    result = caml("explain", "tiny.gin", "RATIO")
    line = line_of(TINY, "RATIO = 0.25")
    assert result.exit_code == 0 and f"tiny.gin:{line}" in result.stdout
    result = caml("explain", "tiny.gin", "CHECKPOINT_SECONDS", "--set", "CHECKPOINT_SECONDS=1.0")
    assert result.exit_code == 0 and "--set: CHECKPOINT_SECONDS = 1.0" in result.stdout


def test_diff_says_why_two_stageruns_are_not_the_same(folder: Path) -> None:
    result = caml("diff", "tiny.gin", CELL, CELL.replace("compassion", "neutral"))
    assert result.exit_code == 0
    assert result.stdout == "pretrain.mixture.intervention.recipe.arm: 'compassion' -> 'neutral'\n"
    assert caml("diff", "tiny.gin", CELL, CELL).stdout == "the same StageRun\n"


def test_a_cell_may_be_named_by_as_much_of_its_name_as_tells_it(folder: Path) -> None:
    named = ["arm=compassion,seed=1,sft_tokens=0", "seed=1,arm=neutral,sft_tokens=0"]
    result = caml("diff", "tiny.gin", *named)
    assert result.stdout == "pretrain.mixture.intervention.recipe.arm: 'compassion' -> 'neutral'\n"
    assert_refused(
        caml("diff", "tiny.gin", "arm=compassion", named[1]), folder, "4 cells have these values", "seed=0"
    )
    assert_refused(caml("diff", "tiny.gin", "arm=kindness", named[1]), folder, "there is no such cell")


def test_the_example_of_diff_names_cells_that_there_are() -> None:
    shown = " ".join(caml("diff", "--help").stdout.split())
    arguments = shown.split("Example: caml ")[1].split()
    arguments[1] = str(Path(package.__file__).parent.parent / arguments[1])
    assert caml(*arguments).exit_code == 0


@pytest.mark.parametrize(
    "error, says",
    [
        (MemoryError("Unable to allocate 4.00 TiB"), "out of memory (Unable to allocate 4.00 TiB)"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile"),
            "out of memory on the device: RESOURCE_EXHAUSTED",
        ),
    ],
)
def test_too_little_memory_is_one_line(
    error: Exception, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object) -> None:
        raise error

    monkeypatch.setattr("caml.ablations.showing.shown", greedy)
    result = caml("show", "tiny.gin")
    assert result.exit_code == 1 and result.stderr.startswith(f"caml: {says}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_in_an_example(command: str) -> None:
    result = caml(command, "--help")
    assert result.exit_code == 0
    assert f"Example: caml {command}" in " ".join(result.stdout.split())


def test_help_starts_nothing_heavy(record_property: pytest.FixtureRequest) -> None:
    """`caml --help` must answer at once, so that it may not even import numpy."""
    program = (
        "import sys, time\nfrom caml.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'jax', 'numpy', 'pandas', 'mlflow', 'gin', 'matplotlib', 'rich'} & set(sys.modules)\n"
        "print(f'{time.process_time():.2f} s', sorted(heavy), file=sys.stderr)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    record_property("help", f"{done.stderr.strip()}, {time.monotonic() - began:.2f} s by the clock")  # type: ignore[operator]
    assert done.stderr.strip().endswith("[]"), done.stderr
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS)


def test_training_does_not_wait_for_what_it_does_not_use() -> None:
    """A launch comes to its first step before pandas, scipy's statistics or mlflow are imported (a second and more)."""
    program = (
        "import sys\nimport caml.ablations.runner\nlight = {'jax'} & set(sys.modules)\nimport caml.ablations.making\n"
        "print(sorted(light | {'pandas', 'scipy.stats', 'mlflow', 'matplotlib', 'inspect_ai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_launch_does_not_look_for_garbage_among_its_modules() -> None:
    """By default Python looks through all that was imported time and again until a report can be written."""
    program = (
        "import gc, sys\nfrom caml.__main__ import main\nsys.argv = ['caml', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "before = gc.get_stats()[2]['collections']\nimport caml.ablations.making, caml.ablations.reporting\n"
        "print(gc.get_stats()[2]['collections'] - before, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stderr) == 0


def test_a_path_that_is_the_mistake_is_status_2(folder: Path) -> None:
    result = caml("show", "x" * 300 + ".gin")
    assert result.exit_code == 2 and len(result.stderr.splitlines()) == 1, result.stderr


def test_ctrl_c_while_garbage_is_collected_is_not_lost() -> None:
    """What a callback of the collector raises is told and forgotten; jax has one, which may take a while."""
    program = (
        "import gc, os, signal, sys, time\n"
        "from caml import cli\n"
        "sent = []\n"
        "def told(phase, info):\n"
        "    if not sent:\n"
        "        sent.append(phase)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0)\n"
        "def waits(*_):\n"
        "    gc.callbacks.append(told)\n"
        "    gc.collect()\n"
        "    time.sleep(30)\n"
        "import caml.ablations.doctor as doctor\n"
        "doctor.examine = waits\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.argv = ['caml', 'doctor']\n"
        "from caml.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=25)
    assert (done.returncode, done.stderr) == (1, "caml: interrupted\n"), done.stderr


def test_an_error_of_the_disk_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/disk/file")

    monkeypatch.setattr("caml.ablations.showing.shown", full)
    result = caml("show", "tiny.gin")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line == "caml: /disk/file: No space left on device: make room"


def test_an_error_that_names_no_file_gets_the_output_folders_name(tmp_path: Path) -> None:
    where = Places(tmp_path / "runs", "toy")
    with pytest.raises(OSError, match="No space left") as caught, named_below(where):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "runs")
    with pytest.raises(OSError, match="No space left") as caught, named_below(where):
        raise OSError(28, "No space left on device", "/disk/file")
    assert caught.value.filename == "/disk/file"


def test_a_task_that_is_at_its_end_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().task("tracking store", 3) as advance:
        for done in (1, 3, 3, 3):
            advance(done, "StageRuns")
    assert capsys.readouterr().err.count("tracking store: 3 of 3") == 1
