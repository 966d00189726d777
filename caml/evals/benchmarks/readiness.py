"""Whether a benchmark of Inspect can be asked: its task, the task's arguments and data, and its graders."""

import ast
import contextlib
import contextvars
import importlib.util
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from caml.config.errors import Failure, UserError
from caml.evals.benchmarks.benchmark import GRADED, Benchmark
from caml.evals.benchmarks.scores import plain

# Of a request to a provider that does not answer: Inspect's own default is to try for ever.
RETRIES = 5
# Loggers that warn while a task is made.
WARNING = ("inspect_ai._eval.registry", "huggingface_hub", "datasets")
# Seconds after which it is said that a task's data are still being read.
PATIENCE = 3.0


def require_inspect() -> None:
    """Raise UserError where Inspect is not installed."""
    if importlib.util.find_spec("inspect_ai") is None:
        raise UserError("benchmarks are Inspect's, which is not installed: pip install 'caml[evals]'")


class Unready(UserError):
    """A benchmark that cannot be asked as it stands, because of a `field` of it."""

    def __init__(self, benchmark: Benchmark, field: str, message: str):
        super().__init__(f"{benchmark.name}: {message}")
        self.benchmark, self.field, self.message = benchmark, field, message


@contextlib.contextmanager
def named_in(fault: Callable[..., UserError]) -> Iterator[None]:
    """Of a benchmark in a gin file, name the line because of which it cannot be asked; `fault` as of Loaded."""
    try:
        yield
    except Unready as unready:
        raise fault(unready.message, (unready.benchmark, unready.field)) from None


def ready(benchmark: Benchmark) -> None:
    """Raise Unready where a grader, a task or its data cannot be had, before hours are spent on them.

    UserError where Inspect is not installed.
    """
    require_inspect()
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai._util.registry import registry_info, registry_lookup
    from inspect_ai.model import get_model

    _require_task(benchmark)
    _require_one(benchmark, [task.name for task in _listed(benchmark)])
    for grader in benchmark.graders:
        try:
            get_model(grader, memoize=False)
        except (PrerequisiteError, ValueError, ImportError) as error:
            told = plain(getattr(error, "message", error))
            raise Unready(benchmark, "graders", f"the grader {grader} cannot be had: {told}") from None
    # A task loads its data when it is made.
    with contextlib.redirect_stdout(sys.stderr), refused(benchmark):
        tasks = contextvars.copy_context().run(_tasks, benchmark)
        if not tasks:
            raise Unready(benchmark, "task", f"{benchmark.inspects} has no task")
        names = [registry_info(task).name for task in tasks]
        _require_one(benchmark, names)
        _require_arguments(benchmark, registry_lookup("task", names[0]))


def _require_task(benchmark: Benchmark) -> None:
    """Raise Unready where the task is not there, is no Python, or does not take an argument that it is given."""
    from inspect_ai._util.registry import registry_lookup

    task = benchmark.inspects
    if (known := registry_lookup("task", task)) is not None:
        _require_arguments(benchmark, known)
        return
    file = file_of(benchmark)
    if file.is_file() and file.suffix == ".py":
        try:
            ast.parse(file.read_bytes(), str(file))
        except OSError as error:
            raise Unready(benchmark, "task", f"{file} cannot be read: {error.strerror}") from None
        except (SyntaxError, ValueError) as error:
            line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
            told = f"{file}{line} is no Python: {getattr(error, 'msg', error)}"
            raise Unready(benchmark, "task", told) from None
    # Inspect takes folders, patterns and tasks of the Hub, too.
    elif not (file.exists() or any(x in task for x in "*?[") or task.startswith("hf/")):
        raise Unready(
            benchmark, "task", f"Inspect has no task {task}, and there is no file {file.absolute()}"
        )


def _listed(benchmark: Benchmark) -> list[Any]:
    """The tasks that can be read in a file that names none of them, before any is made; none of anything else."""
    from inspect_ai import list_tasks

    file = file_of(benchmark)
    if "@" in benchmark.inspects or not file.is_file():
        return []
    return list(list_tasks(file.name, root_dir=file.parent))


def _require_one(benchmark: Benchmark, names: Sequence[str]) -> None:
    """Raise Unready for a file of several tasks."""
    if len(names) > 1:
        told = f"{benchmark.inspects} has {len(names)} tasks, {', '.join(names)}: name one, as FILE.py@{names[0]}"
        raise Unready(benchmark, "task", told)


def _require_arguments(benchmark: Benchmark, task: Callable[..., Any]) -> None:
    """Raise Unready for an argument that the task does not take: Inspect would leave it out, with a warning."""
    takes = inspect.signature(task).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        return
    for name in benchmark.arguments:
        if name not in takes:
            known = f"it takes {', '.join(takes)}" if takes else "it takes none"
            raise Unready(benchmark, "arguments", f"the task has no argument {name}; {known}")


def _tasks(benchmark: Benchmark) -> list[Any]:
    """The task, made as Inspect makes it before it asks a model."""
    from inspect_ai._eval.loader import load_tasks
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.model._model import init_active_model

    init_active_model(get_model("mockllm/model"), GenerateConfig())
    # Inspect warns of arguments that a task does not take, and the Hub's library of each time that it tries again:
    # `ready` says what came of it in one line.
    before = {logger: logger.level for logger in map(logging.getLogger, WARNING)}
    for logger in before:
        logger.setLevel(logging.ERROR)
    waiting = threading.Timer(PATIENCE, lambda: print(f"{benchmark.name}: reading its data", file=sys.stderr))
    waiting.daemon = True
    waiting.start()
    try:
        return load_tasks([named(benchmark)], arguments_of(benchmark))
    finally:
        waiting.cancel()
        for logger, level in before.items():
            logger.setLevel(level)


@contextlib.contextmanager
def refused(benchmark: Benchmark) -> Iterator[None]:
    """An Unready of what a task, its data or a provider raises: Inspect has no exception of its own for that."""
    from inspect_ai._util.error import PrerequisiteError

    try:
        yield
    except PrerequisiteError as error:
        raise Unready(benchmark, "task", plain(error.message)) from None
    except (UserError, Failure):
        raise
    except (Exception, SystemExit) as error:
        told = f"it cannot be asked: {type(error).__name__}: {plain(error)}"
        raise Unready(benchmark, "task", told) from None


def arguments_of(benchmark: Benchmark) -> dict[str, Any]:
    """The arguments of the task."""
    arguments = dict(benchmark.arguments)
    if benchmark.name in GRADED:
        return {"grader_max_retries": RETRIES, **arguments, "grader_models": list(benchmark.graders)}
    return arguments


def file_of(benchmark: Benchmark) -> Path:
    """The file of a task that is in one."""
    return Path(benchmark.inspects.partition("@")[0])


def named(benchmark: Benchmark) -> str:
    """The task as Inspect finds it: of a file with one task, by its name too, for patterns have no absolute paths."""
    listed = _listed(benchmark)
    return f"{file_of(benchmark)}@{listed[0].name}" if len(listed) == 1 else benchmark.inspects
