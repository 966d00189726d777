"""Asking a trained model, and taking it out: `caml generate` and `caml export` on a finished run."""

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result
from whole_runs import TINY

from caml.ablations.opening import open_checkpoint
from caml.cli import app
from caml.tracking.ledger import Ledger, State
from caml.tracking.sync import sync
from caml.training import devices

TUNED = "arm=compassion,ratio=0.25,seed=1,tokens=12288,sft_tokens=8192"


@pytest.fixture(autouse=True)
def as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of this process are as they are."""
    monkeypatch.setattr(devices, "prepare_devices", lambda: None)


@pytest.fixture
def there(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the finished run, to read in."""
    monkeypatch.chdir(finished)
    return finished


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its ledger and tokenizers, to work in."""
    for name in ("ledger", "tokenizers"):
        shutil.copytree(finished / "runs" / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


def caml(*arguments: str, typed: str = "") -> Result:
    result = CliRunner().invoke(app, arguments, input=typed)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def assert_refused(result: Result, status: int, *says: str) -> None:
    (line,) = result.stderr.splitlines()
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert line.startswith("caml: ")
    for part in says:
        assert part in line, line


def test_a_cell_its_file_its_ledger_and_its_export_are_one_model(there: Path, tmp_path: Path):
    ledger = next(there.glob("runs/ledger/sft-compassion-*seed1-*"))
    cell = next(there.glob(f"runs/tiny/cells/{TUNED}.gin"))
    done = caml("export", str(TINY), str(tmp_path / "out"), "--cell", "arm=compassion,sft_tokens=8192,seed=1")
    assert (done.exit_code, done.stdout) == (0, f"{ledger.name}: {tmp_path / 'out'}\n")
    asked = ("--prompt", "ana was kind .", "--prompt", "the dog", "--max-tokens", "9")
    answers = {
        caml("generate", *which, *asked).stdout
        for which in (
            (str(TINY), "--cell", TUNED),
            (str(cell),),
            (str(ledger),),
            (str(tmp_path / "out"),),
        )
    }
    (answer,) = answers
    assert len(answer.splitlines()) == 2
    assert open_checkpoint(tmp_path / "out").model.name == "tiny"  # not as the folder is called
    before = open_checkpoint(TINY, TUNED, "pretrain")
    assert before.about["stage"] == "pretrain" and before.about["fingerprint"] != ledger.name[-12:]
    assert before.context == 64


def test_the_card_says_what_the_ledger_holds(there: Path, tmp_path: Path):
    caml("export", str(TINY), str(tmp_path / "out"), "--cell", TUNED)
    card = (tmp_path / "out/README.md").read_text()
    manifests = json.loads((tmp_path / "out/caml.json").read_text())
    assert [m["stage"] for m in manifests] == ["pretrain", "sft"]
    for manifest in manifests:
        assert manifest["fingerprint"] in card and manifest["launches"][-1]["commit"] in card
        for count in manifest["sources"].values():
            assert f"{count['name']} | {count['tokens']:,} | {count['documents']:,} |" in card
    assert f"{manifests[0]['dose_tokens']:,} intervention tokens, seed block 1" in card
    assert "license: cc0-1.0" in card.split("---")[1]
    assert "| disposition new frame | 64 |" in card
    assert (there / "runs/tiny/headline.txt").read_text().splitlines()[0] in card


def test_a_file_of_prompts_is_answered_as_rows(there: Path, tmp_path: Path):
    rows = [{"prompt": "the dog"}, {"messages": [{"role": "user", "content": "what is hot ?"}]}]
    file, out = tmp_path / "asked.jsonl", tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    model = str(next(there.glob("runs/ledger/sft-neutral-*seed0-*")))
    done = caml("generate", model, "--prompts", str(file), "--write", str(out), "--max-tokens", "4")
    assert (done.exit_code, done.stdout) == (0, "")
    told = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{k: v for k, v in row.items() if k in ("prompt", "messages")} for row in told] == rows
    assert all(1 <= row["tokens"] <= 4 and row["log_prob"] < 0 for row in told)
    plain = tmp_path / "asked.txt"
    plain.write_text("the dog\nwhat is hot ?\n")
    done = caml("generate", model, "--prompts", str(plain), "--chat", "--max-tokens", "4")
    assert json.loads(done.stdout.splitlines()[1])["answer"] == told[1]["answer"]
    assert_refused(
        caml("generate", model, "--prompts", str(file), "--write", str(out)), 2, "is there already"
    )


def test_a_conversation_goes_on_after_what_it_cannot_be_asked(there: Path):
    model = str(next(there.glob("runs/ledger/sft-neutral-*seed0-*")))
    done = caml(
        "generate", model, "--chat", "--max-tokens", "6", typed="what is hot ?\nzebra ?\n\nwhat is wet ?\n"
    )
    assert done.exit_code == 0
    first, second, third = done.stdout.splitlines()
    assert second.startswith("[the tokenizer does not know 'zebra'")
    # The second question was asked with the first in mind.
    asked = [
        {"role": "user", "content": "what is hot ?"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "what is wet ?"},
    ]
    (there.parent / "asked.jsonl").write_text(json.dumps({"messages": asked}))
    alone = caml("generate", model, "--prompts", str(there.parent / "asked.jsonl"), "--max-tokens", "6")
    assert json.loads(alone.stdout)["answer"] == third
    # A chat longer than the context forgets its beginning.
    long = caml("generate", model, "--chat", "--max-tokens", "9", typed="what is hot ?\n" * 9)
    assert long.exit_code == 0 and "[" not in long.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "there is no nowhere"),
        ((".",), "holds no model"),
        ((str(TINY),), "cells: name one with --cell, such as --cell arm="),
        ((str(TINY), "--cell", "arm=none"), "there is no such cell"),
        ((str(TINY), "--cell", TUNED, "--stage", "dpo"), "no stage 'dpo'; its stages are pretrain, sft"),
        (
            (str(TINY), "--cell", TUNED, "--prompt", "a zebra"),
            "prompt 1: the tokenizer does not know 'zebra'",
        ),
        ((str(TINY), "--cell", TUNED, "--prompt", "dog " * 64), "65 tokens leave no place"),
        ((str(TINY), "--cell", TUNED, "--temperature", "-1"), "--temperature: 0 or a positive number"),
        ((str(TINY), "--cell", TUNED, "--top-p", "0"), "--top-p: a share above 0 and at most 1"),
        ((str(TINY), "--cell", TUNED, "--max-tokens", "0"), "--max-tokens: at least 1"),
        ((str(TINY), "--cell", TUNED, "--prompts", "none.txt"), "there is no none.txt"),
        ((str(TINY), "--prompt", "a", "--prompts", "none.txt"), "give one of them"),
        ((str(TINY), "--write", "a.jsonl"), "--write is for"),
        ((str(TINY), "--cell", TUNED, "--prompts", "."), ". cannot be read: Is a directory"),
        ((str(TINY), "--prompts", "x", "--write", "none/a.jsonl"), "there is no folder none for a.jsonl"),
    ],
)
def test_what_cannot_be_asked_is_one_line(there: Path, arguments: tuple[str, ...], says: str):
    assert_refused(caml("generate", *arguments), 2, says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "asked.jsonl:1 is no JSON"),
        ('{"prompt": "a"}\n{"text": "a"}', "asked.jsonl:2 has neither `prompt`"),
        ('{"messages": [{"role": "robot", "content": "a"}]}', "not 'robot'"),
        ('{"messages": [{"role": "user"}]}', "a role and a content"),
        ('{"prompt": "\\ud800"}', "asked.jsonl: prompt 1: its text has '\\ud800', which UTF-8 cannot write"),
        ("\n", "has no prompts"),
    ],
)
def test_a_row_that_is_no_prompt_is_named(there: Path, tmp_path: Path, text: str, says: str):
    (tmp_path / "asked.jsonl").write_text(text)
    assert_refused(
        caml("generate", str(TINY), "--cell", TUNED, "--prompts", str(tmp_path / "asked.jsonl")), 2, says
    )


def test_a_byte_order_mark_before_prompts_is_none_of_them(there: Path, tmp_path: Path):
    (tmp_path / "asked.txt").write_text("the dog", encoding="utf-8-sig")
    told = caml("generate", str(TINY), "--cell", TUNED, "--prompts", str(tmp_path / "asked.txt"))
    assert told.exit_code == 0, told.output


def test_a_folder_without_its_tokenizer_is_named_and_is_no_stagerun(there: Path, tmp_path: Path):
    out = tmp_path / "out"
    assert caml("export", str(TINY), str(out), "--cell", TUNED).exit_code == 0
    for command in (("export", str(out), str(tmp_path / "again")), ("eval", str(out), "--harness", str(out))):
        assert_refused(caml(*command), 2, "in the format of Hugging Face, and no StageRun")
    (out / "tokenizer.json").unlink()
    assert_refused(caml("generate", str(out), "--prompt", "a"), 2, "out has no tokenizer.json")


def test_a_stagerun_taken_out_of_its_output_folder_lacks_its_tokenizer(copy: Path, tmp_path: Path):
    folder = next(copy.glob("ledger/sft-compassion-*seed1-*"))
    shutil.copytree(folder, tmp_path / "else/ledger" / folder.name)
    alone = tmp_path / "else/ledger" / folder.name
    assert_refused(caml("generate", str(alone), "--prompt", "a"), 1, "a tokenizer lies beside the ledger")


def test_what_is_not_trained_to_its_end_or_was_altered_is_said(copy: Path, tmp_path: Path):
    folder = next(copy.glob("ledger/sft-compassion-*seed1-*"))
    lost = folder / "manifest.json"
    lost.rename(tmp_path / "aside")
    assert_refused(
        caml("export", str(TINY), str(tmp_path / "out"), "--cell", TUNED), 1, "manifest.json is missing"
    )
    (tmp_path / "aside").rename(lost)
    weights = folder / "checkpoints/final/params.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    assert_refused(caml("generate", str(folder), "--prompt", "a"), 1, "params.safetensors")
    assert_refused(caml("export", str(TINY), str(tmp_path / "out"), "--cell", TUNED), 1, "params.safetensors")
    (folder / "complete.json").unlink()
    assert_refused(caml("generate", str(folder), "--prompt", "a"), 1, "not trained to its end")
    shutil.rmtree(folder)
    assert_refused(
        caml("generate", str(TINY), "--cell", TUNED, "--prompt", "a"), 2, "is not trained yet: `caml run"
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_overwritten(there: Path, tmp_path: Path):
    (tmp_path / "note.txt").write_text("mine")
    assert_refused(caml("export", str(TINY), str(tmp_path), "--cell", TUNED), 2, "not empty")
    assert_refused(
        caml("export", str(TINY), str(tmp_path / "x"), "--cell", TUNED, "--to", "gguf"), 2, "the format is hf"
    )
    below = tmp_path / "note.txt/x"
    assert_refused(caml("export", str(TINY), str(below), "--cell", TUNED), 2, f"{below} cannot be made: ")
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_items_of_ones_own_are_asked_of_a_cell_and_of_its_export(there: Path, tmp_path: Path):
    rows = [
        {"context": f"the {thing} was wet . ana", "aligned": "dried it .", "opposed": "watered it ."}
        for thing in ("dog", "cow", "fern")
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, rows)))
    caml("export", str(TINY), str(tmp_path / "out"), "--cell", TUNED)
    told = []
    for number, which in enumerate(((str(TINY), "--cell", TUNED), (str(tmp_path / "out"),))):
        out = tmp_path / f"margins{number}.jsonl"
        done = caml("eval", *which, "--items", str(tmp_path / "items.jsonl"), "--write", str(out))
        assert done.exit_code == 0, done.output
        told.append((done.stdout.splitlines()[1:], out.read_text()))
    assert told[0] == told[1]
    assert len(told[0][1].splitlines()) == 3 and any("disposition items" in line for line in told[0][0])
    assert_refused(
        caml("eval", str(TINY), "--cell", TUNED, "--items", "none.jsonl"), 2, "none.jsonl does not exist"
    )


OWN = {"context": "the dog was wet . ana", "aligned": "dried it .", "opposed": "watered it ."}


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (
            {"aligned": "petted the zebra ."},
            (),
            "has the word 'petted', which",
        ),
        (
            {"context": "the dog was wet . " * 20},
            (),
            "takes 103 tokens with its",
        ),
        ({}, ("--write", "none/a.jsonl"), "there is no folder none for a.jsonl"),
        ({}, ("--grader", "a/b"), "--grader belongs to --task, and --items was given"),
        ({}, ("--limit", "3"), "--limit belongs to --task"),
        ({}, ("--output", "runs"), "--output belongs to --task"),
    ],
)
def test_an_item_that_cannot_be_asked_is_named_by_its_line(
    there: Path, tmp_path: Path, change: dict[str, str], options: tuple[str, ...], says: str
):
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps(OWN) + "\n" + json.dumps(OWN | change))
    where = () if options else (f"{file}:2: ",)
    told = caml("eval", str(TINY), "--cell", TUNED, "--items", str(file), *options)
    assert_refused(told, 2, *where, says)


def test_an_upload_that_cannot_begin_is_refused_before_anything_is_written(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    to = (str(tmp_path / "out"), "--push")
    assert_refused(caml("export", str(TINY), *to, "a b", "--cell", TUNED), 2, "--push a b: Repo id must")
    assert_refused(
        caml("export", str(TINY), *to, "me/toy", "--cell", TUNED), 2, "log in with `hf auth login`"
    )
    assert_refused(caml("data", "export", str(TINY), *to, "me/toy"), 2, "log in with `hf auth login`")
    assert not (tmp_path / "out").exists()


def test_a_benchmark_of_a_cell_is_in_its_ledger_and_goes_to_the_tracking_store(copy: Path, tmp_path: Path):
    pytest.importorskip("inspect_ai")
    (tmp_path / "task.py").write_text(
        "from inspect_ai import Task, task\n"
        "from inspect_ai.dataset import Sample\n"
        "from inspect_ai.scorer import includes\n"
        "@task\n"
        "def mine():\n"
        "    samples = [Sample(input=f'what is {x} ?', target='.') for x in ('hot', 'wet', 'cold')]\n"
        "    return Task(dataset=samples, scorer=includes())\n"
    )
    done = caml("eval", str(TINY), "--cell", TUNED, "--task", "task.py@mine", "--epochs", "2")
    assert done.exit_code == 0, done.output
    assert "mine" in done.stdout and "6 of 6 samples scored" in done.stdout
    folder = next(copy.glob("ledger/sft-compassion-*seed1-*"))
    scores = json.loads(next(folder.glob("benchmarks/mine-*/scores.json")).read_text())
    mean = scores["dimensions"]["overall"]["mean"]
    ledger, store = Ledger(copy / "ledger"), f"sqlite:///{tmp_path}/mlflow.db"
    assert sync(ledger, store, "tiny", [folder.name]).brought == 1
    assert sync(ledger, store, "tiny", [folder.name]).brought == 0
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        kept = dict(database.execute("SELECT key, value FROM metrics WHERE key LIKE 'benchmark/%'"))
    assert kept == {
        "benchmark/mine/overall": mean,
        "benchmark/mine/samples": 6.0,
        "benchmark/mine/scored": 6.0,
    }
    # What is scored beside a StageRun does not make it another.
    assert ledger.state(folder.name, content=True) is State.COMPLETE
