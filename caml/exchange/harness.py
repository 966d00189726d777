"""What lm-evaluation-harness found of an exported model, read into the model's ledger.

The harness runs on the folder that `caml export` wrote, and by itself: `lm_eval run --model hf --model_args
pretrained=FOLDER --tasks TASKS --log_samples --output_path RESULTS`. What it logs of each sample is read, so that
scores have limits over items, and stand beside those of other benchmarks.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load, load_file

from caml.ablations.imported import MANIFESTS
from caml.ablations.opening import Trained, find
from caml.config.errors import UserError
from caml.config.fingerprint import fingerprint
from caml.evals.benchmarks import inspecting
from caml.evals.benchmarks.scores import Sat, averages
from caml.exchange.sitting import mirror
from caml.models import huggingface
from caml.tracking import markers, shelves

LIBRARY = "lm_eval"
VERSION = 2


def read(path: Path, cell: str | None, stage: str | None, results: Path) -> list[Sat]:
    """Keep what the harness found of the StageRun at `path` (as `find` takes it) in its ledger, task by task.

    `results`: a `results_*.json` of the harness, or the folder that it wrote. Raises UserError where that is something
    else, or of another model.
    """
    trained = find(path, cell, stage)
    file = _file(results)
    told = _parsed(file)
    _require_same(trained, file, told)
    shelf, params = trained.ledger.shelf(trained.name), trained.ledger.params_digest(trained.name)
    found = []
    for task in told["results"]:
        if task in told.get("group_subtasks", {}) and told["group_subtasks"][task]:
            continue  # a group: its tasks are here themselves
        about = {
            "version": VERSION,
            "library": LIBRARY,
            "benchmark": _asked(told, task),
            "params": params,
            "software": {
                LIBRARY: str(told.get("lm_eval_version") or ""),
                "transformers": str(told.get("transformers_version") or ""),
            },
        }
        samples = _samples(file, task, told)
        scores = {
            **about,
            "model": inspecting.told(
                trained.name, trained.stagerun.model, trained.stagerun.tokenizer.vocabulary
            ),
            "task": f"{LIBRARY}/{task}",
            "task_version": str(told.get("versions", {}).get(task, "")),
            "dataset": str(told["configs"][task].get("dataset_path") or ""),
            "dataset_revision": str(
                (told["configs"][task].get("dataset_kwargs") or {}).get("revision") or ""
            ),
            "dropped": None,
            "graders": [],
            "epochs": 1,
            **averages(samples),
        }
        folder = shelf / f"{_plain(task)}-{fingerprint({**about, 'scores': scores['dimensions']})[:12]}"
        if not (folder / markers.MARKER).exists():
            shelves.write(folder, scores, samples, params)
        found.append(Sat(folder, shelves.read(shelf, folder.name, trained.name, params)[0]))
    mirror(trained)
    return found


def _file(results: Path) -> Path:
    """The newest file of results at or below `results`."""
    if results.is_file():
        return results
    if not results.is_dir():
        raise UserError(f"there is no {results}: name what lm_eval wrote to --output_path")
    files = sorted(results.rglob("results_*.json"), key=lambda file: file.name)
    if not files:
        raise UserError(f"{results} has no results_*.json: name what lm_eval wrote to --output_path")
    return files[-1]


def _parsed(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{file} is no JSON: name a results_*.json of lm_eval") from None
    wanted = ("results", "configs", "config")
    if not isinstance(told, dict) or not all(isinstance(told.get(key), dict) for key in wanted):
        raise UserError(f"{file} is no result of lm_eval: it has no {', '.join(wanted)}")
    for key in ("versions", "n-shot", "group_subtasks"):
        if not isinstance(told.get(key, {}), dict):
            raise UserError(f"{file} is no result of lm_eval: its {key} is no dictionary")
    if not told["results"]:
        raise UserError(f"{file} has no task: its results are empty")
    for task, found in told["results"].items():
        group = bool(told.get("group_subtasks", {}).get(task))
        if not isinstance(found, dict) or not (group or isinstance(told["configs"].get(task), dict)):
            raise UserError(f"{file} is no result of lm_eval: it does not say how {task} was asked")
    return told


def _require_same(trained: Trained, file: Path, told: Mapping[str, Any]) -> None:
    """Raise UserError unless the harness was given the exported folder of this StageRun."""
    given = told["config"].get("model_args")
    if isinstance(given, str):
        given = dict(part.partition("=")[::2] for part in given.split(","))
    name = given.get("pretrained") if isinstance(given, dict) else None
    folder = Path(str(name))
    if not (folder / huggingface.CONFIG).exists():
        raise UserError(
            f"{file} is of the model {name!r}, which is no folder here: run lm_eval on what `caml export` wrote"
        )
    try:
        exported = json.loads((folder / MANIFESTS).read_text(encoding="utf-8"))[-1]["fingerprint"]
    except (OSError, ValueError, LookupError, TypeError):
        raise UserError(f"{folder} was not written by `caml export`: it has no {MANIFESTS}") from None
    if exported != trained.stagerun.fingerprint:
        raise UserError(f"{file} is of the StageRun {exported[:12]} in {folder}, and not of {trained.name}")
    ours = load(trained.ledger.params(trained.name))
    theirs = {
        key: array for file in huggingface.weight_files(folder) for key, array in load_file(file).items()
    }
    if ours.keys() != theirs.keys() or any(not np.array_equal(ours[key], theirs[key]) for key in ours):
        raise UserError(
            f"the weights in {folder} are not those of {trained.name}: export it again, and run lm_eval again"
        )


def _asked(told: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What sets one way of asking a task apart from another."""
    config = told["config"]
    return {
        "task": f"{LIBRARY}/{task}",
        "limit": config.get("limit") or 0,
        "arguments": {
            "num_fewshot": told.get("n-shot", {}).get(task, 0),
            "chat_template": told.get("chat_template_sha") or "none",
            **(config.get("gen_kwargs") or {}),
        },
    }


def _samples(file: Path, task: str, told: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each item and metric that is a share of 1, as Inspect's logs are read."""
    stem = file.stem.removeprefix("results_")
    logged = file.with_name(f"samples_{task}_{stem}.jsonl")
    if not logged.exists():
        raise UserError(
            f"{logged} is not there: run lm_eval with --log_samples, so that scores have limits over items"
        )
    rows = list(_rows(logged, told["results"][task]))
    if not rows:
        raise UserError(f"{logged}: no metric of {task} is a share of 1")
    return pd.DataFrame(rows)


def _rows(logged: Path, aggregated: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    kept: dict[tuple[str, str], dict[str, float]] = {}
    try:
        lines = logged.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{logged} is not UTF-8 (byte {error.start})") from None
    for number, text in enumerate(lines, 1):
        try:
            sample = json.loads(text)
            for metric in sample["metrics"]:
                value, filtered = sample[metric], sample.get("filter", "none")
                if isinstance(value, (int, float)):
                    kept.setdefault((metric, filtered), {})[str(sample["doc_id"])] = float(value)
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{logged}:{number} is no sample of lm_eval") from None
    for (metric, filtered), values in kept.items():
        mean = aggregated.get(f"{metric},{filtered}")
        is_share = all(0 <= value <= 1 for value in values.values())
        # A metric that is no mean over items, such as a perplexity, has no limits over them.
        if (
            not is_share
            or not isinstance(mean, (int, float))
            or not math.isclose(mean, float(np.mean(list(values.values()))), abs_tol=1e-9)
        ):
            continue
        dimension = metric if filtered == "none" else f"{metric} ({filtered})"
        for item, value in values.items():
            yield {
                "sample": item, "item": item, "language": "", "epoch": 1, "dimension": dimension, "value": value,
                "share": True, "unscored": "", "error": "",
            }  # fmt: skip


def _plain(task: str) -> str:
    return "".join(x if x.isalnum() or x in "._-" else "_" for x in task)
