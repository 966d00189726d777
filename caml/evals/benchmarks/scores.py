"""What a log of Inspect says in numbers: a row for each sample and dimension, and means with intervals over items."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from caml.analysis.intervals import possible, student
from caml.config.text import aligned, counted
from caml.tracking.shelves import OVERALL

TAC = ("tac", "tac_welfare")
# Of these tasks every score is a share of 1, though it is written as a number.
SHARES = ("anima", "moru", *TAC)
# How TAC's samples of one scenario end.
VARIANTS = ("_base", "_price_swap", "_rating_swap", "_reversed")


@dataclasses.dataclass(frozen=True)
class Sat:
    """A benchmark that a model sat: where it is kept, and its summary."""

    folder: Path
    scores: dict[str, Any]

    def told(self) -> Iterator[str]:
        """The summary in lines: what was asked, how much of it was scored, and means with intervals over items."""
        s = self.scores
        of_data = f", {s['dataset']}" if s["dataset"] else ""
        dropped = f"; {counted(s['dropped'], 'row')} of the data set gave no sample" if s["dropped"] else ""
        yield (
            f"{s['task']} (version {s['task_version']}){of_data}: {counted(s['items'], 'item')}, "
            f"{counted(s['epochs'], 'epoch')}, {s['scored']} of {counted(s['samples'], 'sample')} scored{dropped}"
        )
        for reason, count in s["unscored"].items():
            yield f"  {counted(count, 'sample')} without a score: {reason}"
        for name, reason in s["nowhere"].items():
            yield f"  {name}: no sample has a score, such as: {reason}"
        if s["graders"]:
            yield f"  graded by {', '.join(s['graders'])}"
        rows = [["", "items", "mean", "95% over items"]]
        languages = s["languages"] if len(s["languages"]) > 1 else {}
        named = [*s["dimensions"].items(), *((f"{OVERALL}, {name}", of) for name, of in languages.items())]
        for name, of in named:
            rows.append([name, str(of["items"]), f"{of['mean']:.3f}", _limits(of["low"], of["high"])])
        if named:
            yield from aligned(rows)
        yield f"  kept in {self.folder}"


def _limits(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def plain(message: Any) -> str:
    """A message in one line, without a terminal's marks for colours, cut where it is long."""
    marks = r"\[/?(?:bold|italic|dim|blue|red|green|yellow|cyan|magenta|white)(?: [a-z]+)*\]"
    lines = [" ".join(line.split()) for line in re.sub(marks, "", str(message)).splitlines()]
    return "; ".join(filter(None, lines)).removeprefix("ERROR: ")[:300]


def rows(log: Any) -> Iterator[dict[str, Any]]:
    """A row for each sample, epoch and dimension: its score, or why there is none."""
    task = str(log.eval.task).rpartition("/")[2]
    for sample in log.samples:
        language = str((sample.metadata or {}).get("language") or "")
        row = {
            "sample": f"{sample.id}#{sample.epoch}",
            "item": _item(task, str(sample.id), language),
            "language": language,
            "epoch": sample.epoch,
            "dimension": OVERALL,
            "value": math.nan,
            "share": False,
            "unscored": "",
            "error": "",
        }
        if sample.error is not None:
            yield row | {"error": plain(sample.error.message)}
            continue
        scores = sample.scores or {}
        if not scores:
            yield row | {"unscored": "the task has no scorer"}
        for scorer, score in scores.items():
            yield from _dimensions(row, score, "" if len(scores) == 1 else f"{scorer} ", task in SHARES)


def _item(task: str, sample: str, language: str) -> str:
    """The question that a sample asks: in whatever language, and whatever TAC changed in it to balance the scenario."""
    if language:
        return sample.removesuffix(f"_{language}")
    ends = VARIANTS if task in TAC else ()
    return next((sample.removesuffix(end) for end in ends if sample.endswith(end)), sample)


def _dimensions(row: dict[str, Any], score: Any, prefix: str, shares: bool) -> Iterator[dict[str, Any]]:
    from inspect_ai.scorer import value_to_float

    value = score.value
    parts = value if isinstance(value, dict) else {OVERALL: value}
    for name, part in parts.items():
        number = value_to_float()(part) if _is_number(part) else math.nan
        reason = ""
        if not math.isfinite(number):
            number = math.nan
            reason = str(
                (score.metadata or {}).get("grader_failure_mode")
                or score.explanation
                or f"no number: {part!r}"
            )
        yield row | {
            "dimension": f"{prefix}{name}",
            "value": float(number),
            "share": shares or _is_verdict(part),
            "unscored": plain(reason),
        }


def _is_verdict(part: Any) -> bool:
    """Whether a value says right or wrong, or half of each: of such, a mean is a share."""
    from inspect_ai.scorer import CORRECT, INCORRECT, NOANSWER, PARTIAL

    verdicts = (CORRECT, INCORRECT, NOANSWER, PARTIAL)
    words = isinstance(part, str) and (part in verdicts or part.lower() in ("yes", "no", "true", "false"))
    return words or isinstance(part, bool)


def _is_number(part: Any) -> bool:
    """Whether Inspect knows a number for a value: of any other text it makes 0, with a warning."""
    if not isinstance(part, str):
        return not isinstance(part, (list, dict))
    if _is_verdict(part):
        return True
    try:
        float(part)
    except ValueError:
        return False
    return True


def summary(
    log: Any, samples: pd.DataFrame, graders: Sequence[str], data: Mapping[str, Any]
) -> dict[str, Any]:
    """What a sitting was and scored. `data` says what was asked: `dataset`, `dataset_revision`, `dropped`."""
    return {
        "task": log.eval.task,
        "task_version": str(log.eval.task_version),
        **data,
        "graders": list(graders),
        "epochs": int(samples["epoch"].max()),
        **averages(samples),
    }


def averages(samples: pd.DataFrame) -> dict[str, Any]:
    """Means with intervals in which an item counts once, however many languages and epochs it has.

    `samples`: a row for each sample, epoch and dimension, as of `rows`.
    """
    by_sample = samples.drop_duplicates("sample")
    overall = _main(samples)
    scored = overall[overall["value"].notna()]
    return {
        "items": int(by_sample["item"].nunique()),
        "samples": len(by_sample),
        "scored": len(scored),
        "unscored": dict(Counter(overall.loc[overall["value"].isna(), "unscored"])),
        "nowhere": {
            str(name): str(group["unscored"].iloc[0])
            for name, group in samples.groupby("dimension", sort=False)
            if len(scored) and not _known(group)
        },
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


def _main(samples: pd.DataFrame) -> pd.DataFrame:
    """The rows of the overall score, or of the first dimension that has one."""
    groups = dict(iter(samples.groupby("dimension", sort=False)))
    known = [name for name, group in groups.items() if _known(group)] or list(groups)
    return groups[OVERALL if OVERALL in known else known[0]]


def _known(group: pd.DataFrame) -> bool:
    return bool(group["value"].notna().any())


def by_item(samples: pd.DataFrame) -> pd.DataFrame:
    """`dimension, item, value` of samples: means over epochs, then over languages; NaN where none could be scored."""
    known = samples[samples["error"] == ""]
    by_language = known.groupby(["dimension", "item", "language"], sort=False)["value"].mean()
    return by_language.groupby(["dimension", "item"], sort=False).mean().reset_index()


def _mean(group: pd.DataFrame) -> dict[str, Any]:
    """Over epochs, then languages, then items, with Student's 95% limits over items; `share`: whether it is of 1.

    Items that are all alike, as where every answer is right, say nothing of how others would differ: no limits then.
    """
    known = group[group["value"].notna()]
    by_language = known.groupby(["item", "language"])["value"].mean()
    items = by_language.groupby("item").mean().to_numpy()
    found = student(items)
    told = len(items) > 1 and bool((items != items[0]).any())
    share = bool(known["share"].all())
    low, high = possible(float(found.low), float(found.high), share)
    return {
        "mean": float(found.estimate),
        "low": low if told else None,
        "high": high if told else None,
        "share": share,
        "items": len(items),
        "samples": len(known),
    }
