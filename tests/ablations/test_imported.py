"""Runs that begin with a model from a folder: washed out by the same protocol, to the same bits as where it is from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from whole_runs import TINY, command, parameters, run

from caml.cli import app
from caml.training import devices

BEFORE = "arm={},ratio=0.25,seed=1,tokens=12288,sft_tokens=0"


@pytest.fixture(autouse=True)
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "prepare_devices", lambda: None)


def caml(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def exported(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Both arms of seed block 1 before fine-tuning, exported."""
    monkeypatch.chdir(finished)
    for arm in ("compassion", "neutral"):
        assert caml("export", str(TINY), str(tmp_path / arm), "--cell", BEFORE.format(arm)).exit_code == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path


def washing(folder: Path, *changes: tuple[str, str]) -> Path:
    """The tiny ablation's fine-tuning, of two models that come from folders."""
    lines = TINY.read_text().splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith("Stage.optimizer"))
    tail = "\n".join(
        line for line in lines[begin:] if not line.startswith(("pretrain/", "BaseText", "Documents"))
    )
    given = caml("import", str(folder / "compassion")).stdout.replace("Imported.", "compassion/Imported.")
    given = given.replace("Run.initial = @Imported()", "Run.initial = %START")
    text = f"""
SEED = 1
SFT_TOKENS = 8192
START = @neutral/Imported()
Ablation.name = 'washing'
Ablation.run = @Run()
Ablation.control = {{'START': 'neutral'}}
Ablation.axes = {{'START': [@compassion/Imported(), @neutral/Imported()], 'SEED': [1], 'SFT_TOKENS': [0, 8192]}}
Run.seed = %SEED
Run.stages = (@pretrain/Stage(), @sft/Stage())
Run.probes = @WorldProbes()
{given}
neutral/Imported.name = 'neutral'
neutral/Imported.path = '{folder / "neutral"}'
pretrain/Stage.name = 'pretrain'
pretrain/Stage.tokens = 0
pretrain/Stage.mixture = @sft/Mixture()
{tail}
"""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (folder / "washing.gin").write_text(text)
    return folder / "washing.gin"


def test_a_model_from_a_folder_is_fine_tuned_to_the_bits_of_where_it_is_from(
    exported: Path, finished: Path, cache: Path, stored: Callable[[Path], None]
):
    file = washing(exported)
    stored(exported / "runs")
    done = run(command("run", str(file)), exported, cache)
    assert done.returncode == 0, done.stderr
    before, after = parameters(finished / "runs"), parameters(exported / "runs")
    for arm in ("compassion", "neutral"):
        for stage in ("pretrain", "sft"):
            own = [digest for name, digest in after.items() if name.startswith(f"{stage}-{arm}-r0.25-")]
            theirs = [
                d for n, d in before.items() if n.startswith(f"{stage}-{arm}-r0.25-") and "-seed1-" in n
            ]
            assert own == theirs and len(own) == 1
    manifest = json.loads(next(exported.glob("runs/ledger/sft-compassion-*/manifest.json")).read_text())
    there = json.loads((exported / "compassion/caml.json").read_text())[0]
    assert (manifest["arm"], manifest["ratio"], manifest["dose_tokens"]) == (
        "compassion",
        0.25,
        there["dose_tokens"],
    )
    assert there["dose_tokens"] > 0
    # What is in the ledger runs alone.
    alone = next(exported.glob("runs/ledger/sft-compassion-*/config.gin"))
    assert "compassion/" not in caml("show", str(alone)).stderr
    assert caml("show", str(alone)).stdout.splitlines()[0].split()[1] == "scored"


WRONG = {
    "another width": (("Model.width = 16", "Model.width = 32"), "Model.width", "32, where "),
    "another vocabulary": (
        ("LoadedTokenizer.vocabulary = 128", "LoadedTokenizer.vocabulary = 256"),
        "LoadedTokenizer.vocabulary",
        "256",
    ),
    "no folder": (
        ("neutral/Imported.path = '", "neutral/Imported.path = 'no"),
        "neutral/Imported.",
        "40 hexadecimal",
    ),
    "a dose of no arm": (
        (
            "neutral/Imported.name = 'neutral'",
            "neutral/Imported.name = 'neutral'\nneutral/Imported.ratio = 0.5",
        ),
        "neutral/Imported.ratio",
        "arm",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_not_the_models_own_is_refused(exported: Path, wrong: str):
    change, place, says = WRONG[wrong]
    file = washing(exported, change)
    told = caml("show", str(file))
    assert told.exit_code == 2
    (line,) = told.stderr.splitlines()
    assert place in line and says in line and "washing.gin:" in line, line


def test_a_tokenizer_that_is_not_the_models_is_refused(exported: Path):
    other = exported / "other"
    shutil.copytree(exported / "compassion", other)
    (other / "tokenizer.json").write_text(
        (other / "tokenizer.json").read_text().replace('"zebra"', '"zebu"') + " "
    )
    file = washing(
        exported, (f"LoadedTokenizer.path = '{exported / 'compassion'}'", f"LoadedTokenizer.path = '{other}'")
    )
    told = caml("show", str(file))
    assert told.exit_code == 2 and "the tokenizer is not that of" in told.stderr, told.stderr


def test_weights_that_are_not_whole_are_named_before_anything_is_trained(exported: Path):
    file = washing(exported)
    weights = exported / "neutral/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    told = caml("show", str(file))
    assert told.exit_code == 2
    (line,) = told.stderr.splitlines()
    assert (
        "washing.gin:" in line and "neutral/Imported.path" in line and "no whole safetensors file" in line
    ), line


def test_of_a_name_on_the_hub_the_commit_is_asked_for(exported: Path):
    for arguments, says in (
        (("owner/name",), "owner/name is no folder here; of a name on the Hub, --revision says which commit"),
        (("owner/name", "--revision", "main"), "--revision says which commit (40 hexadecimal digits)"),
        (("compassion", "--revision", "a" * 40), "compassion is a folder here, which has none"),
    ):
        told = caml("import", *arguments)
        assert (told.exit_code, told.stdout) == (2, "") and says in told.stderr, told.stderr
        assert len(told.stderr.splitlines()) == 1


def test_what_import_prints_is_for_a_file_that_includes_ones_own_study(exported: Path):
    """Without its tokenizer it is refused, as is the same in the study's own file, each in a line."""
    printed = caml("import", str(exported / "compassion")).stdout
    bound = [line for line in printed.splitlines() if "Tokenizer" not in line]
    one = "Ablation.axes = {'SEED': [1]}\nAblation.control = {}\nAblation.contrasts = ()"
    for name, text, says in (
        ("wash", f"include '{TINY}'\n{one}\n{printed}", ""),
        ("bare", "\n".join([f"include '{TINY}'", one, *bound]), "the tokenizer is not that of"),
        ("twice", f"{TINY.read_text()}\n{printed}", "bound already in twice.gin:"),
    ):
        (exported / f"{name}.gin").write_text(text)
        told = caml("show", str(exported / f"{name}.gin"))
        if says:
            assert told.exit_code == 2 and len(told.stderr.splitlines()) == 1 and says in told.stderr, (
                told.stderr
            )
        else:
            assert told.exit_code == 0, told.stderr


def test_other_weights_are_another_stagerun_and_broken_ones_are_named(exported: Path):
    file = washing(exported)
    names = [line.split()[2] for line in caml("show", str(file)).stdout.splitlines()[:4]]
    weights = exported / "compassion/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    again = [line.split()[2] for line in caml("show", str(file)).stdout.splitlines()[:4]]
    assert [a == b for a, b in zip(names, again, strict=True)] == [False, False, True, True]
    weights.unlink()
    told = caml("show", str(file))
    assert told.exit_code == 2 and "lacks model.safetensors" in told.stderr


def test_import_prints_what_a_run_takes_and_says_what_is_no_model(exported: Path):
    told = caml("import", str(exported / "compassion")).stdout
    assert "Imported.name = 'compassion'  # compassion, ratio 0.25" in told
    assert "LoadedTokenizer.vocabulary = 128" in told and "Model.width = 16" in told
    for folder, says in ((exported, "has no config.json"), ("me/none", "40 hexadecimal digits")):
        refused = caml("import", str(folder))
        assert refused.exit_code == 2 and says in refused.stderr, refused.stderr
