"""The command line: parse, call, print. What a command does stands in the rooms that it calls."""

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from caml.command import command, group
from caml.config.errors import Failure, Invalid, UserError
from caml.config.text import counted

app = group("caml", "Does a disposition mixed into pretraining last? Train, fine-tune, measure what is left.")
data_app = group("data", "The token stores that a gin file asks for.")
app.add_typer(data_app)

File = Annotated[Path, typer.Argument(metavar="ABLATION.gin", help="the gin file of the ablation")]
Set = Annotated[list[str], typer.Option("--set", metavar="MACRO=VALUE", help="override a macro; repeatable")]
NONE: list[str] = []
DataFile = Annotated[
    Path, typer.Argument(metavar="FILE.gin", help="a gin file that binds Ablation or Corpora")
]


def _new_file(path: Path | None) -> None:
    """Raise UserError where a file that is to be written is there already, or cannot be."""
    if path is None:
        return
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} is there already: name another file")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent} for {path.name}")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent} may not be written: name another folder for {path.name}")


def _load(file: Path, settings: list[str]) -> Any:
    from caml.ablations.catalogue import load_ablation

    return load_ablation(file, settings)


@command(
    app,
    "caml run experiments/quickstart/quickstart.gin. With a trace: caml run experiments/smoke/smoke.gin --profile",
    resumes=True,
)
def run(
    file: File,
    settings: Set = NONE,
    only: Annotated[str | None, typer.Option(metavar="CELL", help="train and score this cell alone")] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="trace a few dispatches of training into the ablation's folder profile/, for Perfetto or TensorBoard",
        ),
    ] = False,
) -> None:
    """Train what is missing of an ablation, evaluate, analyse and write its report."""
    from caml.training.devices import prepare_devices

    loaded = _load(file, settings)
    prepare_devices()
    from caml.ablations.progress import Stopped
    from caml.ablations.runner import run as run_ablation
    from caml.console import Console
    from caml.training.stopping import stop_on_signals

    with stop_on_signals() as stop:
        try:
            outcome = run_ablation(loaded, Console(), stop, only, profile)
        except Stopped:
            raise Failure("stopped and saved; the same command goes on from here") from None
    if outcome.trained:
        print(f"{counted(outcome.trained, 'StageRun')} trained or scored in {outcome.seconds:.0f} s")
    if outcome.sat:
        print(f"{counted(outcome.sat, 'sitting')} of benchmarks asked and graded")
    if not outcome.trained and not outcome.sat:
        print("nothing to do: every StageRun is trained and scored")
    for line in outcome.headline:
        print(line)
    if outcome.report:
        print(f"report: {outcome.report}")


@command(app, "caml show experiments/quickstart/quickstart.gin --set SEED=0")
def show(file: File, settings: Set = NONE) -> None:
    """Show the grid of an ablation: cells, sizes, tokens, cost, and what exists already."""
    from caml.ablations.showing import shown

    for line in shown(_load(file, settings)):
        print(line)


@command(app, "caml explain experiments/quickstart/quickstart.gin RATIO")
def explain(
    file: File,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="a macro, Class.param, scope/Class.param, Class or place")
    ],
    settings: Set = NONE,
) -> None:
    """Say which file and line set a value."""
    from caml.config.explain import explain as explain_key

    for line in explain_key(_load(file, settings), key):
        print(line)


@command(
    app,
    "caml diff experiments/smoke/smoke.gin arm=compassion,sft_tokens=0,seed=0 arm=neutral,sft_tokens=0,seed=0",
)
def diff(
    file: File,
    one: Annotated[
        str,
        typer.Argument(
            metavar="A", help="a cell, as `caml show` names it, or as much of its name as tells it"
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="another cell")],
    settings: Set = NONE,
) -> None:
    """Say why the StageRuns of two cells are not the same."""
    from caml.ablations.grid import cells
    from caml.ablations.runner import chosen
    from caml.config.explain import diff as differences

    grid = cells(_load(file, settings))
    first, second = (chosen(grid, name).stageruns[-1] for name in (one, other))
    for line in differences(first.history, second.history) or ["the same StageRun"]:
        print(line)


@command(app, "caml lock experiments/quickstart/quickstart.gin")
def lock(file: File, settings: Set = NONE) -> None:
    """Write down contrasts, grid and probes before results exist."""
    from caml.ablations.stating import lock_statement

    print(lock_statement(_load(file, settings)))


@command(app, "caml power experiments/quickstart/quickstart.gin --effect 0.3")
def power(
    file: File,
    effect: Annotated[float | None, typer.Option(help="the effect wanted, in nats")] = None,
    settings: Set = NONE,
) -> None:
    """Say how many seeds an effect needs, from the variance of the results that are there."""
    from caml.ablations.stating import power_lines

    for line in power_lines(_load(file, settings), effect):
        print(line)


@command(app, "caml report experiments/quickstart/quickstart.gin", resumes=True)
def report(
    file: File,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="write the result in short there: RESULT.md and figures"),
    ] = None,
    settings: Set = NONE,
) -> None:
    """Freeze the tables of a finished ablation again, analyse them and write the report."""
    from caml.ablations.stating import report_again
    from caml.console import Console

    headline, page = report_again(_load(file, settings), Console(), keep)
    for line in headline:
        print(line)
    print(f"report: {page}")


Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="the gin file of a cell or an ablation, the ledger's folder of a StageRun, or a folder with config.json",
    ),
]
CellOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="which cell of an ablation, or as much of its name as tells it"),
]
StageOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="the model after this stage (default: the last)")
]


@command(
    app,
    "caml generate experiments/smoke/smoke.gin --cell arm=compassion,sft_tokens=0,seed=0 --prompt 'ana was kind .'",
)
def generate(
    model: Checkpoint,
    cell: CellOption = None,
    stage: StageOption = None,
    prompt: Annotated[
        list[str], typer.Option(metavar="TEXT", help="a prompt; repeatable. Without any: what you type")
    ] = NONE,
    prompts: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="a prompt a line, or JSONL with `prompt` or `messages`; answers as JSONL"
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="write the answers to --prompts there")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="a prompt is what a user says in a chat")] = False,
    temperature: Annotated[float, typer.Option(help="0: the likeliest token each time")] = 0.0,
    top_p: Annotated[float, typer.Option(help="draw of the likeliest tokens with this share")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="the most tokens of an answer")] = 64,
    stop: Annotated[list[str], typer.Option(metavar="TEXT", help="end before this text; repeatable")] = NONE,
    seed: Annotated[int, typer.Option(help="of what is drawn")] = 0,
) -> None:
    """Let a trained model write: what follows a prompt, from a file of prompts, or in a conversation."""
    from caml.training.devices import prepare_devices

    prepare_devices()
    from caml.ablations.opening import open_checkpoint
    from caml.console import Console, typed
    from caml.evals import prompting
    from caml.evals.generation import Sampling

    if prompt and prompts:
        raise UserError("--prompt and --prompts: give one of them")
    if write and not prompts:
        raise UserError("--write is for the answers to a file of --prompts")
    _new_file(write)
    try:
        sampling = Sampling(temperature, top_p, max_tokens, tuple(stop), seed)
    except Invalid as invalid:
        raise UserError(f"--{invalid.fields[0].replace('_', '-')}: {invalid.message}") from None
    asked = prompting.read_prompts(prompts, chat) if prompts else [prompting.as_said(x, chat) for x in prompt]
    checkpoint = open_checkpoint(model, cell, stage)
    if prompts:
        try:
            answers = prompting.ask(checkpoint, asked, sampling)
        except UserError as error:
            raise UserError(f"{prompts}: {error}") from None
        with (
            open(write, "x", encoding="utf-8") if write else contextlib.nullcontext(sys.stdout) as out,
            Console().task("prompts", len(asked)) as advance,
        ):
            for number, found in enumerate(answers, 1):
                print(json.dumps(found.row(), ensure_ascii=False), file=out, flush=True)
                advance(number, "answered")
    elif prompt:
        for found in prompting.ask(checkpoint, asked, sampling):
            print(found.answer.text)
    else:
        for answer in prompting.converse(checkpoint, chat, sampling, typed()):
            print(answer, flush=True)


@command(
    app,
    "caml eval runs/ledger/NAME --items experiments/real-text/attitude.jsonl. A benchmark: caml eval runs/ledger/NAME "
    "--task anima --grader openai/gpt-5-mini",
    name="eval",
)
def evaluate(
    model: Checkpoint,
    items: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="forced-choice items: context, aligned, opposed, tags, pair"),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="TASK", help="anima, moru, tac, a task of Inspect, or a gin file that binds Benchmark"
        ),
    ] = None,
    grader: Annotated[
        list[str], typer.Option(metavar="PROVIDER/MODEL", help="who grades the task; repeatable")
    ] = NONE,
    argument: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="an argument of the task; repeatable")
    ] = NONE,
    epochs: Annotated[int, typer.Option(help="of the task; 0: its own")] = 0,
    limit: Annotated[int, typer.Option(help="the most samples of the task; 0: all")] = 0,
    harness: Annotated[
        Path | None,
        typer.Option(metavar="RESULTS", help="read what lm_eval wrote of the exported model into the ledger"),
    ] = None,
    cell: CellOption = None,
    stage: StageOption = None,
    write: Annotated[
        Path | None, typer.Option(metavar="FILE.jsonl", help="write the margin of each item there")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="where scores of a model without a ledger are kept (default: runs)"
        ),
    ] = None,
    settings: Set = NONE,
) -> None:
    """Ask a trained model forced-choice items of your own, or let it sit a benchmark of Inspect."""
    from caml.config.text import aligned

    given = [
        name for name, x in (("--items", items), ("--task", task), ("--harness", harness)) if x is not None
    ]
    if len(given) != 1:
        raise UserError("--items, --task or --harness: give one of them")
    of_task = {
        "grader": grader,
        "argument": argument,
        "epochs": epochs,
        "limit": limit,
        "output": output,
        "set": settings,
    }
    for of, options in (("--task", of_task), ("--items", {"write": write})):
        for name, value in options.items():
            if value and given != [of]:
                raise UserError(f"--{name} belongs to {of}, and {given[0]} was given")
    if harness is not None:
        from caml.exchange import harness as of_harness

        for sat in of_harness.read(model, cell, stage, harness):
            for line in sat.told():
                print(line)
        return
    if task is not None:
        from caml.evals.benchmarks.readiness import named_in
        from caml.exchange import sitting

        asked, loaded = sitting.benchmark_of(task, grader, argument, epochs, limit, settings)
        with named_in(loaded.fault) if loaded else contextlib.nullcontext():
            found = sitting.sit_here(model, cell, stage, asked, output)
        for line in found.told():
            print(line)
        return
    from caml.training.devices import prepare_devices

    prepare_devices()
    from caml.ablations.opening import open_checkpoint
    from caml.console import Console
    from caml.evals import choosing
    from caml.evals.questions import Unaskable

    assert items is not None
    _new_file(write)
    read = choosing.read_items(items)
    checkpoint = open_checkpoint(model, cell, stage)
    with Console().task("items", len(read)) as advance:
        try:
            chosen = choosing.choose(checkpoint, read, lambda done: advance(done, "scored"))
        except Unaskable as error:
            raise choosing.placed(items, error) from None
    if write:
        with open(write, "x", encoding="utf-8") as out:
            out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in choosing.row_of(chosen))
    print(f"{checkpoint.name}: {counted(len(read), 'item')}")
    for line in aligned(list(choosing.summary(chosen)), left=(0, 2)):
        print(line)


@command(app, "caml leaderboard runs --organization 'My Lab'")
def leaderboard(
    output: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="the output folder of the ablations")
    ] = Path("runs"),
    organization: Annotated[
        str, typer.Option(metavar="NAME", help="who evaluated, as files for submission say it")
    ] = "unknown",
) -> None:
    """Gather every model that was evaluated into one page, and into files in the schema of Every Eval Ever."""
    from caml.analysis.leaderboard.writing import write
    from caml.console import Console

    for line in write(output, organization, Console().task):
        print(line)


@command(
    app,
    "caml export experiments/smoke/smoke.gin --cell arm=compassion,sft_tokens=0,seed=0 --to hf exported/compassion",
)
def export(
    model: Checkpoint,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder for it")],
    to: Annotated[str, typer.Option(metavar="FORMAT", help="hf: what `transformers` opens")] = "hf",
    cell: CellOption = None,
    stage: StageOption = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="upload it to the Hugging Face Hub, too")
    ] = None,
) -> None:
    """Write a trained model with tokenizer, chat template and a card into a folder that `transformers` opens."""
    if to != "hf":
        raise UserError(f"--to {to}: the format is hf")
    from caml.exchange import models
    from caml.exchange.export import export as export_model

    if push:
        models.require_repository(push)
    name = export_model(model, folder, cell, stage)
    print(f"{name}: {folder}")
    if push:
        print(models.push(folder, push))


@command(app, "caml import exported/compassion > compassion.gin", name="import")
def import_model(
    folder: Annotated[
        str,
        typer.Argument(metavar="FOLDER", help="a folder with config.json, or a name on the Hugging Face Hub"),
    ],
    revision: Annotated[str, typer.Option(metavar="COMMIT", help="of a name on the Hub: which commit")] = "",
) -> None:
    """Print the gin lines of runs that begin with a model in the format of Hugging Face, any dense Qwen3."""
    from caml.ablations.imported import gin_lines

    for line in gin_lines(folder, revision):
        print(line)


@command(app, "caml sync experiments/quickstart/quickstart.gin", resumes=True)
def sync(file: File, settings: Set = NONE) -> None:
    """Bring what the tracking store lacks of an ablation, as often as you like."""
    from caml.ablations.stating import sync_ablation
    from caml.console import Console

    print(sync_ablation(_load(file, settings), Console()))


@command(app, "caml ui experiments/quickstart/quickstart.gin --port 5000")
def ui(
    file: File,
    port: Annotated[int, typer.Option(help="port on this machine")] = 5000,
    settings: Set = NONE,
) -> None:
    """Open the MLflow pages of an ablation's tracking store."""
    from caml.ablations.places import places
    from caml.tracking.ui import serve

    ablation = _load(file, settings).tree
    serve(ablation.tracking or places(ablation).tracking, port)


@command(
    data_app,
    "caml data prepare experiments/real-text/real_text.gin --set BASE=wiki.txt",
    "prepare",
    resumes=True,
)
def prepare_stores(file: DataFile, settings: Set = NONE) -> None:
    """Write the token stores that are missing: over all cores, in constant memory, continued where it was stopped."""
    from caml.ablations.stocking import prepare, stock_of

    _print_prepared(prepare, stock_of(file, settings))


@command(data_app, "caml data match experiments/real-text/real_text.gin --write control.jsonl", "match")
def match_controls(
    file: DataFile,
    write: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help="write the controls' text there, a row for each document"),
    ] = None,
    settings: Set = NONE,
) -> None:
    """Draw the matched controls of a file, and tell how near each comes to its treatment, beside an unmatched draw."""
    from caml.ablations.controls import draw
    from caml.ablations.stocking import stock_of

    _print_prepared(functools.partial(draw, write=write), stock_of(file, settings))


def _print_prepared(work: Callable[..., list[str]], stock: Any) -> None:
    """Print the lines of what writes stores and may be stopped."""
    from caml.ablations.progress import Stopped
    from caml.console import Console
    from caml.training.stopping import stop_on_signals

    with stop_on_signals() as stop:
        try:
            lines = work(stock, progress=Console(), stop=stop)
        except Stopped:
            raise Failure("stopped; what was read is kept, and the same command goes on from here") from None
    for line in lines:
        print(line)


@command(data_app, "caml data show experiments/real-text/real_text.gin --samples 1", "show")
def show_stores(
    file: DataFile,
    samples: Annotated[int, typer.Option(help="documents of each store that are shown", min=0)] = 3,
    settings: Set = NONE,
) -> None:
    """Show each token store: size, bytes per token, lengths, licence, origin, and some documents."""
    from caml.ablations.stocking import shown, stock_of

    for line in shown(stock_of(file, settings), samples):
        print(line)


@command(data_app, "caml data verify experiments/real-text/real_text.gin", "verify")
def verify_stores(file: DataFile, settings: Set = NONE) -> None:
    """Read every token store whole, and name those that are not as they were written."""
    from caml.ablations.stocking import stock_of, verify

    for line in verify(stock_of(file, settings)):
        print(line)


@command(data_app, "caml data export experiments/smoke/smoke.gin exported/texts", "export")
def export_stores(
    file: DataFile,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="a new folder for them")],
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="upload it to the Hugging Face Hub, too")
    ] = None,
    settings: Set = NONE,
) -> None:
    """Write the token stores of a file as a data set that `datasets` opens: text, tokens, and a card."""
    from caml.ablations.stocking import stock_of
    from caml.console import Console
    from caml.exchange import corpora, models

    if push:
        models.require_repository(push)
    names = corpora.export(stock_of(file, settings), folder, Console())
    print(f"{folder}: {counted(len(names), 'configuration')}")
    if push:
        print(models.push(folder, push, kind="dataset"))


@command(app, "caml doctor")
def doctor() -> None:
    """Check this installation: versions, devices, a training step, a checkpoint, the tracking store."""
    from caml.ablations.doctor import examine

    healthy = True
    for name, found, fine in examine():
        print(f"{'ok  ' if fine else 'FAIL'} {name}: {found}")
        healthy &= fine
    if not healthy:
        raise Failure("something is wrong with this installation; see above")
