"""`caml eval --task`: which benchmark is meant, which model sits it, and where its scores are kept."""

import ast
import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caml.ablations.examining import sit_stagerun
from caml.ablations.opening import Trained, find, open_folder
from caml.config.errors import Failure, Invalid, UserError
from caml.config.files import shown
from caml.config.resolve import Loaded, load
from caml.evals.benchmarks import inspecting
from caml.evals.benchmarks.benchmark import RENAMED, Benchmark
from caml.evals.benchmarks.readiness import require_inspect
from caml.evals.benchmarks.scores import Sat
from caml.models import huggingface
from caml.tracking.lease import acquire_all
from caml.tracking.shelves import BENCHMARKS


def benchmark_of(
    task: str,
    graders: Sequence[str],
    arguments: Sequence[str],
    epochs: int,
    limit: int,
    settings: Sequence[str],
) -> tuple[Benchmark, Loaded | None]:
    """The benchmark in the gin file `task`, and that; or the one of that name with these graders and arguments.

    Raises UserError for what it cannot be.
    """
    if task.endswith(".gin"):
        given = {"grader": graders, "argument": arguments, "epochs": epochs, "limit": limit}
        for option in (option for option, value in given.items() if value):
            field = {"grader": "graders", "argument": "arguments"}.get(option, option)
            raise UserError(
                f"--{option}: {task} says it by Benchmark.{field}; change it there, or by --set MACRO=VALUE"
            )
        loaded = load(Path(task), (Benchmark,), Benchmark, settings)
        benchmark: Benchmark = loaded.tree
        for _, problem in loaded.unread():
            raise problem
        return benchmark, loaded
    if settings:
        raise UserError("--set is for a gin file: name one with --task")
    try:
        return Benchmark(task, tuple(graders), _arguments(arguments), epochs, limit), None
    except Invalid as invalid:
        hint = "; --grader names it" if "graders" in invalid.fields else ""
        option = next((f"--{field}: " for field in invalid.fields if field in ("epochs", "limit")), "")
        raise UserError(f"{option}{invalid.message}{hint}") from None


def _arguments(given: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE, where a value is a number, a list or the like, or else text."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--argument {text}: NAME=VALUE")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def sit_here(
    path: Path, cell: str | None, stage: str | None, benchmark: Benchmark, output: Path | None = None
) -> Sat:
    """Let the model at `path` sit a benchmark; its scores go to its ledger, or below `output` (runs) without one.

    Raises as `inspecting.sit`, and Failure at Ctrl-C: what was answered is kept.
    """
    try:
        return _sit_here(path, cell, stage, benchmark, output)
    except KeyboardInterrupt:
        raise Failure("interrupted; what was answered is kept, and the same command asks the rest") from None


def _sit_here(
    path: Path, cell: str | None, stage: str | None, benchmark: Benchmark, output: Path | None
) -> Sat:
    require_inspect()
    if benchmark.task in RENAMED:
        inspecting.say(f"{benchmark.task} is called {RENAMED[benchmark.task]} since May 2026")
    if (path / huggingface.CONFIG).exists():
        checkpoint = open_folder(path)
        digest = hashlib.sha256()
        for file in huggingface.weight_files(path):
            digest.update(file.read_bytes())
        shelf = (
            (output or Path("runs")).absolute() / BENCHMARKS / f"{checkpoint.name}-{digest.hexdigest()[:12]}"
        )
        told = inspecting.told(checkpoint.name, checkpoint.model, checkpoint.vocabulary)
        with _alone(shelf):
            return inspecting.sit(path.absolute(), digest.hexdigest(), benchmark, shelf, told)
    if output is not None:
        raise UserError(f"--output {output}: the scores of a StageRun are kept in its ledger; leave it out")
    trained = find(path, cell, stage)
    with _alone(trained.ledger.folder(trained.name)):
        found = sit_stagerun(trained.ledger, trained.name, trained.stagerun, benchmark)
    mirror(trained)
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While nobody else asks the model of this folder: what is graded is not paid for twice. Raises Failure."""
    try:
        found = acquire_all([folder])
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(f"no scores can be kept in {shown(folder)}: {error.strerror}") from None
    with found as leases:
        for holder in leases.refused.values():
            raise Failure(
                f"{shown(folder)} is in use by {holder}: the same command goes on when that has ended"
            )
        yield


def mirror(trained: Trained) -> None:
    """Bring a StageRun's new scores to its ablation's tracking store, or say how that is done; a store may be away."""
    later = "`caml sync ABLATION.gin` brings the scores to the tracking store"
    if not trained.tracking:
        inspecting.say(later)
        return
    from caml.tracking.sync import sync

    try:
        sync(trained.ledger, trained.tracking, trained.ablation, [trained.name])
    except Failure as failure:  # the scores are in the ledger
        inspecting.say(f"{failure}; {later}")
