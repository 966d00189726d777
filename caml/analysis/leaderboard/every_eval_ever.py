"""Scores in the schema of Every Eval Ever, version 0.3.0 (EvalEval Coalition, evalevalai.com), for submission there.

A file for each model and benchmark, below `data/BENCHMARK/DEVELOPER/MODEL/`, as its datastore is laid out. Files are
the same with every call: a file's name follows from what is in it.
"""

import hashlib
import importlib.metadata
import json
import math
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from caml.analysis.files import replace_file
from caml.analysis.leaderboard.boards import PROBES, Board, Leaderboard, Row, Score, Sitting
from caml.analysis.leaderboard.entrants import ELSEWHERE, Member
from caml.analysis.tables import NATS, POINTS

SCHEMA = "0.3.0"
DATA = "data"


def write(folder: Path, leaderboard: Leaderboard, organization: str) -> int:
    """Write the files below `folder`; those of an earlier call that no model has any more go. Returns how many.

    `organization`: who evaluated the models, and trained those that are not from elsewhere.
    """
    records: dict[Path, dict[str, Any]] = {}
    for board in leaderboard.boards:
        for row in board.rows:
            for member in row.entrant.members:
                sitting = row.sittings.get(member.key)
                if sitting:
                    record = _record(board, row, member, sitting, organization)
                    model = record["model_info"]["id"].split("/")
                    path = folder / DATA / _plain(board.tab) / model[0] / model[1]
                    records[path / f"{_uuid(record)}.json"] = record
    for old in (folder / DATA).glob("*/*/*/*.json"):
        if old not in records:
            old.unlink()
    for path, record in records.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        replace_file(path, (text + "\n").encode())
    return len(records)


def _record(board: Board, row: Row, member: Member, sitting: Sitting, organization: str) -> dict[str, Any]:
    """What one model scored on one board."""
    summary, ours = sitting.summary, row.entrant.stage != ELSEWHERE
    developer = _plain(organization) if ours else "unknown"
    model = f"{developer}/{_plain(member.name)}"
    at = f"{sitting.written / 1000:.3f}"
    software = dict(summary.get("software", {"caml": _version()}))
    library = summary.get("library", "caml")
    version = software.pop(library, "")
    # The harness runs exported models by itself.
    engine = "transformers" if "transformers" in software else "caml"
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{_plain(board.tab)}/{model}/{at}",
        "evaluation_timestamp": at,
        "retrieved_timestamp": at,
        "source_metadata": {
            "source_name": "caml",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "first_party" if ours else "third_party",
        },
        "eval_library": {
            "name": library,
            "version": version or "unknown",
            "additional_details": {key: value or "not installed" for key, value in software.items()},
        },
        "model_info": {
            "name": member.name,
            "id": model,
            "developer": organization if ours else "unknown",
            "inference_engine": {"name": engine, "version": software.get(engine) or _version()},
            "additional_details": _model(row, member),
        },
        "evaluation_results": list(_results(board, sitting)),
    }


def _model(row: Row, member: Member) -> dict[str, str]:
    one = row.entrant
    about: dict[str, str] = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown",
        "size": one.size,
        "non_embedding_parameters": str(one.params),
    }
    if one.stage == ELSEWHERE:
        return about
    return about | {
        "fingerprint": member.key,
        "stage": one.stage,
        "arm": one.arm,
        "ratio": f"{one.ratio:g}",
        "dose_tokens": str(one.dose_tokens),
        "seed": str(member.seed),
    }


def _results(board: Board, sitting: Sitting) -> Iterator[dict[str, Any]]:
    for name, score in sitting.scores.items():
        if not math.isnan(score.mean):
            result: dict[str, Any] = {
                "evaluation_result_id": f"{_plain(board.tab)}/{_plain(name)}",
                "evaluation_name": name,
                "source_data": _data(board, sitting),
                "metric_config": _metric(board, name, sitting, score.share),
                "score_details": _score(score, sitting),
            }
            benchmark = sitting.summary.get("benchmark", {})
            if "temperature" in benchmark:
                arguments = {key: benchmark[key] for key in ("temperature", "max_tokens")}
                details = {"seed": str(benchmark["seed"]), "epochs": str(sitting.summary["epochs"])}
                result["generation_config"] = {"generation_args": arguments, "additional_details": details}
            yield result


def _data(board: Board, sitting: Sitting) -> dict[str, Any]:
    summary = sitting.summary
    if board.tab == PROBES or not summary.get("dataset_revision"):
        name = str(summary.get("dataset") or board.asked.get("items", ""))
        return {"dataset_name": Path(name).name, "source_type": "other"}
    return {
        "dataset_name": Path(summary["dataset"]).name,
        "source_type": "hf_dataset",
        "hf_repo": summary["dataset"],
        "hf_split": "train",
        "samples_number": sitting.samples,
        "additional_details": {"revision": summary["dataset_revision"]},
    }


def _metric(board: Board, name: str, sitting: Sitting, share: bool) -> dict[str, Any]:
    summary = sitting.summary
    config: dict[str, Any] = {
        "evaluation_description": "; ".join(f"{key}: {value}" for key, value in board.asked.items()),
        "metric_id": f"{_plain(board.tab)}.{_plain(name)}",
        "metric_name": name,
        "metric_unit": "nats" if board.unit == NATS else "proportion" if share else POINTS,
        "lower_is_better": False,
        "score_type": "continuous",
        "min_score": 0.0 if share else "-Infinity",
        "max_score": 1.0 if share else "Infinity",
    }
    if summary.get("graders"):
        config["llm_scoring"] = {
            "judges": [{"model_info": _judge(grader)} for grader in summary["graders"]],
            "input_prompt": f"that of {summary['task']}, version {summary['task_version']}",
        }
    return config


def _judge(grader: str) -> dict[str, Any]:
    details = {"deployment_type": "unknown", "model_availability": "unknown"}
    return {"name": grader, "id": grader, "additional_details": details}


def _score(score: Score, sitting: Sitting) -> dict[str, Any]:
    details = {"items": str(score.items), "samples": str(sitting.samples), "scored": str(sitting.scored)}
    told: dict[str, Any] = {"score": score.mean, "details": details}
    if not math.isnan(score.low):
        limits = {
            "lower": score.low,
            "upper": score.high,
            "confidence_level": 0.95,
            "method": "Student's t over items",
        }
        told["uncertainty"] = {"confidence_interval": limits, "num_samples": score.items}
    return told


def _plain(name: str) -> str:
    """`name` as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unknown"


def _uuid(record: Mapping[str, Any]) -> str:
    """A UUID of version 4, as files there are named, that follows from what the record says."""
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _version() -> str:
    return importlib.metadata.version("caml")
