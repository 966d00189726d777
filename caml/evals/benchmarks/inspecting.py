"""Benchmarks of Inspect on a model of caml: asked, graded, kept with all that says what the numbers are.

A benchmark's folder has Inspect's own log, `samples.parquet` (a row for each sample, epoch and dimension),
`scores.json` (the summary), and a marker that is written last. What was graded when a launch ended early is in the
log, and the next launch asks the rest.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from caml.config.errors import Failure, UserError
from caml.config.files import shown
from caml.config.fingerprint import fingerprint, identity
from caml.config.text import counted
from caml.data.files import digest_file
from caml.evals.benchmarks.benchmark import GRADED, Benchmark
from caml.evals.benchmarks.readiness import (
    RETRIES,
    arguments_of,
    file_of,
    named,
    ready,
    refused,
    require_inspect,
)
from caml.evals.benchmarks.scores import Sat, plain, rows, summary
from caml.models.sizes import Model
from caml.tracking import markers, shelves

LOGS = "logs"
# Raised when what is made of Inspect's log changes.
VERSION = 3


def say(text: str) -> None:
    """A line for a person, beside the results."""
    print(text, file=sys.stderr, flush=True)


def told(name: str, model: Model, vocabulary: int) -> dict[str, Any]:
    """What a summary says of the model that sat: its name, its size, and its non-embedding parameters."""
    return {"name": name, "size": model.name, "parameters": model.parameters(vocabulary)[0]}


def is_of(summary: Mapping[str, Any], benchmark: Benchmark) -> bool:
    """Whether a summary is of this benchmark, asked so, whatever version of Inspect asked it."""
    return summary["version"] == VERSION and summary["benchmark"] == _identity(benchmark)


def _identity(benchmark: Benchmark) -> dict[str, Any]:
    """What sets one benchmark apart from another: all its fields, and of a task in a file the file's content."""
    file = file_of(benchmark)
    return {**identity(benchmark), **({"file": digest_file(file)} if file.is_file() else {})}


def _about(params: str, benchmark: Benchmark) -> dict[str, Any]:
    return {
        "version": VERSION,
        "benchmark": _identity(benchmark),
        "params": params,
        "software": {name: _version(name) for name in ("inspect_ai", "inspect_evals")},
    }


def sit(model: Path, params: str, benchmark: Benchmark, shelf: Path, about: Mapping[str, Any]) -> Sat:
    """Let the model at `model` sit a benchmark, or find that it did.

    `params`: the digest of its parameters. `shelf`: the folder below which its benchmarks are kept. `about`: what the
    summary says of the model, as of `told`. Raises UserError where task, data or grader cannot be had, Failure where
    samples were left without a score by an error: what was graded is kept, and the same call goes on.
    """
    require_inspect()
    folder = shelf / f"{benchmark.name}-{fingerprint(_about(params, benchmark))[:12]}"
    if (folder / markers.MARKER).exists():
        shelves.require_whole(shelf, folder.name, shown(shelf))
        return Sat(folder, shelves.read(shelf, folder.name, shown(shelf))[0])
    ready(benchmark)
    log = _asked(model, benchmark, folder / LOGS)
    if log.status != "success" or not log.samples:
        raise Failure(
            f"{benchmark.name}: {_ended(log)}; what was graded is kept, and the same command goes on"
        )
    samples = pd.DataFrame(list(rows(log)))
    failed = samples[samples["error"] != ""].drop_duplicates("sample")
    if len(failed):
        found, error = (
            f"{len(failed)} of {counted(samples['sample'].nunique(), 'sample')}",
            failed["error"].iloc[0],
        )
        error = _of_provider(error)
        if of_user := re.fullmatch(r"UserError\((['\"])(.*)\1\)", error):
            raise UserError(f"{benchmark.name}: {found} cannot be asked, such as: {of_user[2]}")
        raise Failure(
            f"{benchmark.name}: {found} ended with an error, such as {error!r}; the others are kept, and the same "
            "command asks these again"
        )
    scores = {
        **_about(params, benchmark),
        "library": "inspect_ai",
        "model": dict(about),
        **summary(log, samples, benchmark.graders, _data(log, benchmark)),
    }
    logs = [f"{LOGS}/{path.name}" for path in (folder / LOGS).glob("*.eval")]
    shelves.write(folder, scores, samples, params, logs)
    return Sat(folder, scores)


def _of_provider(error: str) -> str:
    """Of what ended with the last of several requests, what that was, and what it means where nobody answered."""
    last = re.search(r"RetryError\(<Future .* raised (\w+)>\)", error)
    if last is None:
        return error
    away = ": a grader cannot be reached" if re.search("Connect|Timeout", last[1]) else ""
    return f"{last[1]} of every request{away}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _asked(model: Path, benchmark: Benchmark, logs: Path) -> Any:
    """Inspect's log of all samples, those of an earlier launch among them."""
    from inspect_ai import eval as inspect_eval
    from inspect_ai import eval_retry
    from inspect_ai._util.error import PrerequisiteError

    graders = list(benchmark.graders)
    roles = {"grader": graders[0] if graders else "caml-no-grader/none"}
    common: dict[str, Any] = {
        "log_dir": str(logs),
        "fail_on_error": False,
        "display": "plain",
        "log_level": "error",
    }
    before = _whole_logs(logs)
    logs.mkdir(parents=True, exist_ok=True)
    # What Inspect prints of its progress is no result.
    with contextlib.redirect_stdout(sys.stderr), _interrupted(), refused(benchmark):
        try:
            if before:
                found = eval_retry(str(before[-1]), **common)
            else:
                found = inspect_eval(
                    named(benchmark),
                    model=f"caml/{model}",
                    model_roles=roles,
                    task_args=arguments_of(benchmark),
                    epochs=benchmark.epochs or None,
                    limit=benchmark.limit or None,
                    temperature=benchmark.temperature,
                    max_tokens=benchmark.max_tokens,
                    seed=benchmark.seed,
                    max_retries=RETRIES,
                    **common,
                )
        except (PrerequisiteError, UserError, Failure):
            raise
        except Exception:
            # Of a retry that is interrupted it raises what comes of having no log.
            if _was_cancelled(logs):
                raise KeyboardInterrupt from None
            raise
        finally:
            for folder in (logs, logs.parent):  # of what was refused nothing is left
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
    if not found or found[0].status == "cancelled":  # Inspect keeps a Ctrl-C to itself
        raise KeyboardInterrupt
    return found[0]


@contextlib.contextmanager
def _interrupted() -> Iterator[None]:
    """Ctrl-C, and SIGTERM as one, interrupt what Inspect is doing, which then writes down what it has."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT)),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _was_cancelled(logs: Path) -> bool:
    """Whether the newest log in a folder is of something that was interrupted."""
    from inspect_ai.log import read_eval_log

    files = _whole_logs(logs)
    return bool(files) and read_eval_log(str(files[-1]), header_only=True).status == "cancelled"


def _whole_logs(logs: Path) -> list[Path]:
    """The logs in a folder that can be read, the newest last; any other is put aside, and said."""
    from inspect_ai.log import read_eval_log

    whole = []
    for path in sorted(logs.glob("*.eval"), key=lambda path: path.stat().st_mtime):
        try:
            read_eval_log(str(path), header_only=True)
            whole.append(path)
        except Exception as error:  # of whatever reads the archive
            aside = path.rename(path.with_name(f"{path.name}.damaged"))
            say(
                f"{path} is no whole log of Inspect ({plain(error)}): put aside as {aside.name}; it is asked again"
            )
    return whole


def _ended(log: Any) -> str:
    """Why Inspect ended early."""
    if log.error is not None:
        return plain(log.error.message)
    return "no sample was asked" if not log.samples else f"Inspect says {log.status}"


def _data(log: Any, benchmark: Benchmark) -> dict[str, Any]:
    """Which data were asked, at what revision, and how many rows of them gave no sample.

    ANIMA leaves out rows with a dimension that there is not, and MORU those that are there twice, without a word.
    """
    found = log.eval.dataset
    if benchmark.name not in GRADED:
        return {"dataset": str(found.location or found.name or ""), "dataset_revision": "", "dropped": None}
    from inspect_evals.utils.huggingface import load_dataset

    given = benchmark.arguments
    own = importlib.import_module(f"inspect_evals.{benchmark.name}.dataset")
    repository = str(given.get("dataset_repo_id", own.DATASET_REPO_ID))
    revision = str(given.get("dataset_revision", own.DATASET_DEFAULT_REVISION))
    dropped = None
    if not given.keys() & {"language", "languages"}:
        folder = {"data_dir": "questions"} if benchmark.name == "anima" else {}
        with contextlib.redirect_stdout(sys.stderr):
            rows = load_dataset(repository, split="train", revision=revision, **folder)
        dropped = len(rows) - (found.samples or 0)
    # The commit is of the Hub's; a folder here has none.
    return {
        "dataset": repository,
        "dataset_revision": "" if Path(repository).exists() else revision,
        "dropped": dropped,
    }
