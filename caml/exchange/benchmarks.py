"""Benchmarks of Inspect on a model of caml: asked, graded, kept with all that says what the numbers are.

A benchmark's folder has Inspect's own log, `samples.parquet` (a row for each sample, epoch and dimension),
`scores.json` (the summary), and a marker that is written last. What was graded when a launch ended early is in the
log, and the next launch asks the rest.
"""

import contextlib
import dataclasses
import importlib
import importlib.metadata
import importlib.util
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from caml.analysis.intervals import student
from caml.config.errors import Failure, UserError
from caml.config.fingerprint import fingerprint, identity
from caml.config.text import aligned, counted
from caml.data.files import write_bytes, write_json
from caml.evals.benchmark import GRADED, Benchmark
from caml.tracking import markers
from caml.tracking.ledger import BENCHMARK_SCORES
from caml.tracking.segments import parquet

LOGS, SAMPLES, SCORES = "logs", "samples.parquet", BENCHMARK_SCORES
OVERALL = "overall"
# Of a request to a provider that does not answer: Inspect's own default is to try for ever.
RETRIES = 5
# Raised when what is made of Inspect's log changes.
VERSION = 1


@dataclasses.dataclass(frozen=True)
class Sat:
    """A benchmark that a model sat: where it is kept, and its summary."""

    folder: Path
    scores: dict[str, Any]

    def told(self) -> Iterator[str]:
        """The summary in lines: what was asked, how much of it was scored, and means with intervals over items."""
        s = self.scores
        dropped = f"; {counted(s['dropped'], 'row')} of the data set gave no sample" if s["dropped"] else ""
        yield (
            f"{s['task']} (version {s['task_version']}), {s['dataset']}: {counted(s['items'], 'item')}, "
            f"{counted(s['epochs'], 'epoch')}, {s['scored']} of {counted(s['samples'], 'sample')} scored{dropped}"
        )
        for reason, count in s["unscored"].items():
            yield f"  {counted(count, 'sample')} without a score: {reason}"
        if s["graders"]:
            yield f"  graded by {', '.join(s['graders'])}"
        rows = [["", "items", "mean", "95% over items"]]
        languages = s["languages"] if len(s["languages"]) > 1 else {}
        named = [*s["dimensions"].items(), *((f"{OVERALL}, {name}", of) for name, of in languages.items())]
        for name, of in named:
            rows.append([name, str(of["items"]), f"{of['mean']:.3f}", _limits(of["low"], of["high"])])
        yield from aligned(rows)
        yield f"  kept in {self.folder}"


def _limits(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def say(text: str) -> None:
    """A line for a person, beside the results."""
    print(text, file=sys.stderr, flush=True)


def require_inspect() -> None:
    """Raise UserError where Inspect is not installed."""
    if importlib.util.find_spec("inspect_ai") is None:
        raise UserError("benchmarks are Inspect's, which is not installed: pip install 'caml[evals]'")


def sit(model: Path, params: str, benchmark: Benchmark, shelf: Path) -> Sat:
    """Let the model at `model` sit a benchmark, or find that it did.

    `params`: the digest of its parameters. `shelf`: the folder below which its benchmarks are kept. Raises UserError
    where task, data or grader cannot be had, Failure where samples were left without a score by an error: what was
    graded is kept, and the same call goes on.
    """
    require_inspect()
    about = {
        "version": VERSION,
        "benchmark": identity(benchmark),
        "params": params,
        "software": {name: _version(name) for name in ("inspect_ai", "inspect_evals")},
    }
    folder = shelf / f"{benchmark.name}-{fingerprint(about)[:12]}"
    if (folder / markers.MARKER).exists():
        return Sat(folder, json.loads(markers.read(folder, folder.name).read(SCORES)))
    log = _asked(model, benchmark, folder / LOGS)
    if log.status != "success" or not log.samples:
        raise Failure(
            f"{benchmark.name}: {_ended(log)}; what was graded is kept, and the same command goes on"
        )
    samples = pd.DataFrame(list(_rows(log)))
    failed = samples[samples["error"] != ""].drop_duplicates("sample")
    if len(failed):
        total = samples["sample"].nunique()
        raise Failure(
            f"{benchmark.name}: {len(failed)} of {counted(total, 'sample')} ended with an error, such as "
            f"{failed['error'].iloc[0]!r}; the others are kept, and the same command asks these again"
        )
    scores = about | _summary(log, samples, benchmark)
    import pyarrow as pa

    write_bytes(folder / SAMPLES, parquet(pa.Table.from_pandas(samples, preserve_index=False)))
    write_json(folder / SCORES, scores)
    listed = [SAMPLES, SCORES, *(f"{LOGS}/{path.name}" for path in (folder / LOGS).glob("*.eval"))]
    markers.write(folder, listed, {"params": params})
    return Sat(folder, scores)


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
    arguments = dict(benchmark.arguments)
    if benchmark.name in GRADED:
        arguments = {"grader_max_retries": RETRIES, **arguments, "grader_models": graders}
    common: dict[str, Any] = {
        "log_dir": str(logs),
        "fail_on_error": False,
        "display": "plain",
        "log_level": "error",
    }
    logs.mkdir(parents=True, exist_ok=True)
    before = sorted(logs.glob("*.eval"), key=lambda path: path.stat().st_mtime)
    # What Inspect prints of its progress is no result.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if before:
                (log,) = eval_retry(str(before[-1]), **common)
            else:
                (log,) = inspect_eval(
                    benchmark.inspects,
                    model=f"caml/{model}",
                    model_roles=roles,
                    task_args=arguments,
                    epochs=benchmark.epochs or None,
                    limit=benchmark.limit or None,
                    temperature=benchmark.temperature,
                    max_tokens=benchmark.max_tokens,
                    seed=benchmark.seed,
                    max_retries=RETRIES,
                    **common,
                )
        except PrerequisiteError as error:
            raise UserError(f"{benchmark.name}: {_plain(error.message)}") from None
        except (UserError, Failure, KeyboardInterrupt):
            raise
        except (
            Exception
        ) as error:  # of a task, its data or a provider: Inspect has no exception of its own for them
            raise UserError(
                f"{benchmark.name} cannot be asked: {type(error).__name__}: {_plain(error)}"
            ) from None
    return log


def _plain(message: Any) -> str:
    return " ".join(str(message).split())[:300]


def _ended(log: Any) -> str:
    """Why Inspect ended early."""
    if log.error is not None:
        return _plain(log.error.message)
    return "no sample was asked" if not log.samples else f"Inspect says {log.status}"


def _rows(log: Any) -> Iterator[dict[str, Any]]:
    """A row for each sample, epoch and dimension: its score, or why there is none."""
    for sample in log.samples:
        language = str((sample.metadata or {}).get("language") or "")
        row = {
            "sample": f"{sample.id}#{sample.epoch}",
            "item": str(sample.id).removesuffix(f"_{language}") if language else str(sample.id),
            "language": language,
            "epoch": sample.epoch,
            "dimension": OVERALL,
            "value": math.nan,
            "unscored": "",
            "error": "",
        }
        if sample.error is not None:
            yield row | {"error": _plain(sample.error.message)}
            continue
        scores = sample.scores or {}
        if not scores:
            yield row | {"unscored": "the task has no scorer"}
        for scorer, score in scores.items():
            yield from _dimensions(row, score, "" if len(scores) == 1 else f"{scorer} ")


def _dimensions(row: dict[str, Any], score: Any, prefix: str) -> Iterator[dict[str, Any]]:
    from inspect_ai.scorer import value_to_float

    value = score.value
    parts = value if isinstance(value, dict) else {OVERALL: value}
    for name, part in parts.items():
        number = value_to_float()(part) if not isinstance(part, (list, dict)) else math.nan
        reason = ""
        if math.isnan(number):
            reason = str(
                (score.metadata or {}).get("grader_failure_mode") or score.explanation or "no number"
            )
        yield row | {"dimension": f"{prefix}{name}", "value": float(number), "unscored": _plain(reason)}


def _summary(log: Any, samples: pd.DataFrame, benchmark: Benchmark) -> dict[str, Any]:
    """Means with intervals in which an item counts once, however many languages and epochs it has."""
    by_sample = samples.drop_duplicates("sample")
    asked, overall = len(by_sample), _main(samples)
    scored = overall[overall["value"].notna()]
    return {
        "task": log.eval.task,
        "task_version": str(log.eval.task_version),
        **_data(log, benchmark),
        "graders": list(benchmark.graders),
        "epochs": int(by_sample["epoch"].max()),
        "items": int(by_sample["item"].nunique()),
        "samples": asked,
        "scored": len(scored),
        "unscored": dict(Counter(overall.loc[overall["value"].isna(), "unscored"])),
        "dimensions": {
            str(name): _mean(group)
            for name, group in samples.groupby("dimension", sort=False)
            if _known(group)
        },
        "languages": {
            str(name or "not stated"): _mean(group)
            for name, group in overall.groupby("language", sort=True)
            if _known(group)
        },
    }


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


def _main(samples: pd.DataFrame) -> pd.DataFrame:
    """The rows of the overall score, or of the first scorer's where a task has several."""
    names = list(dict.fromkeys(samples["dimension"]))
    return samples[samples["dimension"] == (OVERALL if OVERALL in names else names[0])]


def _known(group: pd.DataFrame) -> bool:
    return bool(group["value"].notna().any())


def _mean(group: pd.DataFrame) -> dict[str, Any]:
    """Over epochs, then languages, then items, with Student's 95% limits over items."""
    known = group[group["value"].notna()]
    by_language = known.groupby(["item", "language"])["value"].mean()
    items = by_language.groupby("item").mean().to_numpy()
    found = student(items)
    limits = [None if math.isnan(x) else float(x) for x in (found.low, found.high)]
    return {
        "mean": float(found.estimate),
        "low": limits[0],
        "high": limits[1],
        "items": len(items),
        "samples": len(known),
    }
