"""The frozen tables: what figures and effects are drawn from, with digests and a data dictionary."""

import dataclasses
import hashlib
import io
from pathlib import Path

import pandas as pd

from caml.analysis.files import DIGESTS, replace_file, verify, write_digests
from caml.config.errors import Failure

NATS, SHARE, POINTS = "nats", "share of 1", "points"

# table -> column -> (meaning, unit); an empty unit is a name, a label or a pure number.
DATA_DICTIONARY: dict[str, dict[str, tuple[str, str]]] = {
    "cells": {
        "cell": ("one point of the grid; every axis is a further column, named as its macro in CAPS", ""),
        "stagerun": ("fingerprint of the cell's last stage", ""),
        "root": ("fingerprint of the cell's first stage", ""),
        "stage": ("name of the last stage", ""),
        "size": ("name of the model size", ""),
        "params": ("non-embedding parameters", "parameters"),
        "arm": ("what the intervention slots hold; 'base' without intervention", ""),
        "ratio": ("intervention slots as a share of the first stage's slots", "share"),
        "dose_tokens": ("intervention tokens of the first stage, without padding", "tokens"),
        "placement": ("where in the first stage the intervention slots lie", ""),
        "pretrain_tokens": ("tokens processed in the first stage; 0 is an untrained model", "tokens"),
        "variant": (
            "values of the axes that no other column tells, as 'STYLE=mixed'; empty without such",
            "",
        ),
        "seed": ("seed block", ""),
        "finetune": ("name of the fine-tuning source; 'none' before fine-tuning", ""),
        "finetune_tokens": ("tokens processed in fine-tuning, padding included; 0 before it", "tokens"),
        "S": ("loss-bearing fine-tuning tokens, as they were counted", "tokens"),
        "second": ("name of the fine-tuning stage's second source, or 'none'", ""),
        "second_ratio": ("slots of the second source as a share of the fine-tuning stage's slots", "share"),
    },
    "stageruns": {
        "stagerun": ("fingerprint of the trained stage", ""),
        "name": ("name that a person reads in logs and in MLflow", ""),
        "stage": ("name of the stage", ""),
        "parent": ("fingerprint of the stage it started from; empty for a first stage", ""),
        "size": ("name of the model size", ""),
        "params": ("non-embedding parameters", "parameters"),
        "arm": ("what the intervention slots of the first stage hold", ""),
        "ratio": ("intervention slots as a share of the first stage's slots", "share"),
        "seed": ("seed block", ""),
        "steps": ("optimizer steps", "steps"),
        "tokens": ("tokens processed, padding included", "tokens"),
        "loss_tokens": ("tokens that bear loss", "tokens"),
        "dose_tokens": ("intervention tokens, without padding", "tokens"),
        "second_tokens": ("tokens of the second source, without padding", "tokens"),
        "final_loss": ("mean training loss at the end", "nats per token; of a preference stage, per pair"),
        "diverged": (
            "a loss or gradient was not finite, or steps were skipped one after the other: the member was stopped and "
            "kept its last good state",
            "",
        ),
        "mechanism": ("mean margin at the end with the actor's trait named in the context", NATS),
        "learned_at": (
            "first training token count at which the mechanism passed the gate; NaN if never",
            "tokens",
        ),
        "commit": ("commit of the code that trained it", ""),
        "dirty": ("the working tree differed from the commit", ""),
        "machine": ("machine that trained it", ""),
        "numerics": ("numerics class: StageRuns of other classes have other bits", ""),
    },
    "items": {
        "item": ("mirror pair: the same two continuations under two opposite needs", ""),
        "family": ("what the item measures: disposition, knowledge, avowal, convention ...", ""),
        "rung": ("step of the ladder of generalisation; empty for families without one", ""),
        "template": ("sentence frame", ""),
        "kind": ("kind of the patient", ""),
        "need": ("need of the patient in the first half", ""),
        "name": ("name of the actor", ""),
        "context": ("context of the first half", ""),
        "aligned": ("continuation that is right in the first half", ""),
        "opposed": ("continuation that is wrong in the first half", ""),
        "context_mirror": ("context of the second half", ""),
        "aligned_mirror": ("continuation that is right in the second half", ""),
        "opposed_mirror": ("continuation that is wrong in the second half", ""),
        "tokens_aligned": ("length of the aligned continuation, mean over the halves of a pair", "tokens"),
        "tokens_opposed": ("length of the opposed continuation, mean over the halves of a pair", "tokens"),
    },
    "margins": {
        "stagerun": ("fingerprint of the scored StageRun", ""),
        "item": ("mirror pair", ""),
        "margin": ("log P(aligned | context) - log P(opposed | context), mean over the mirror pair", NATS),
        "margin_token": ("the same with each log probability divided by its tokens", "nats per token"),
        "margin_character": (
            "the same with each log probability divided by its characters",
            "nats per character",
        ),
        "margin_unconditional": ("the margin less that of the continuations without their context", NATS),
    },
    "outcomes": {
        "stagerun": ("fingerprint of the scored StageRun", ""),
        "outcome": ("name of the outcome; its unit is the end of the name", ""),
        "value": ("value of the outcome", "as the outcome says"),
    },
    "metrics": {
        "stagerun": ("fingerprint of the StageRun", ""),
        "step": ("optimizer steps done", "steps"),
        "tokens": ("tokens processed in this stage", "tokens"),
        "loss": (
            "training loss, mean of the steps since the last row",
            "nats per token; of a preference stage, per pair",
        ),
        "gradient_norm": ("global norm of the gradient before clipping, mean of the same steps", ""),
        "rate": ("learning rate, mean of the same steps", ""),
    },
    "trajectory": {
        "stagerun": ("fingerprint of the StageRun", ""),
        "step": ("optimizer steps done", "steps"),
        "tokens": ("tokens processed in this stage", "tokens"),
        "outcome": ("what was scored in mid-schedule: for curves, never for an estimate", ""),
        "value": ("mean over items", NATS),
    },
}

# Tables of an ablation that names benchmarks: as above.
BENCHMARK_DICTIONARY: dict[str, dict[str, tuple[str, str]]] = {
    "benchmarks": {
        "stagerun": ("fingerprint of the StageRun that sat it", ""),
        "benchmark": ("name of the benchmark", ""),
        "dimension": ("what was graded; 'overall' is the benchmark's own", ""),
        "item": ("question, in whatever language it was asked", ""),
        "value": (
            "mean over epochs, then over languages; NaN where no sample could be scored",
            "sittings.unit",
        ),
    },
    "sittings": {
        "stagerun": ("fingerprint of the StageRun that sat it", ""),
        "benchmark": ("name of the benchmark", ""),
        "task": ("name of the task in Inspect", ""),
        "task_version": ("its version", ""),
        "dataset": ("the data set asked", ""),
        "dataset_revision": ("its commit on the Hub; empty for a folder", ""),
        "graders": ("models that graded", ""),
        "epochs": ("times that each question was asked", ""),
        "samples": ("questions asked, languages and epochs counted", "samples"),
        "scored": ("samples with an overall score", "samples"),
        "unit": (f"of its scores: {SHARE} where all are one by what they are, else {POINTS}", ""),
        "software": ("versions of what asked", ""),
    },
}
OPTIONAL = {
    "metrics": {
        "preference_accuracy": (
            "share of the pairs of which the chosen answer is preferred more than by the reference, mean of the same "
            "steps; of preference stages",
            "",
        ),
        "preference_margin": (
            "how much more the chosen answer is preferred than by the reference, mean of the same steps",
            "nats per pair",
        ),
        "skipped": ("steps since the last row that were skipped, at spikes of the gradient norm", "steps"),
    },
    "stageruns": {
        "skipped": ("steps that were skipped, at spikes of the gradient norm", "steps"),
    },
}
"""Columns that a table has where there is something to tell."""

KEYS = {
    "cells": ["cell"],
    "stageruns": ["stagerun"],
    "items": ["item"],
    "margins": ["stagerun", "item"],
    "outcomes": ["stagerun", "outcome"],
    "metrics": ["stagerun", "step"],
    "trajectory": ["stagerun", "step", "outcome"],
    "benchmarks": ["stagerun", "benchmark", "dimension", "item"],
    "sittings": ["stagerun", "benchmark"],
}


def _none_of(name: str) -> pd.DataFrame:
    """An empty table of BENCHMARK_DICTIONARY."""
    return pd.DataFrame(columns=list(BENCHMARK_DICTIONARY[name]))


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables of one ablation. Columns: `DATA_DICTIONARY`; rows are unique in `KEYS`.

    Raises Failure where a column lacks, a key stands twice, or a row refers to a StageRun or an item that
    is not there.
    """

    cells: pd.DataFrame
    stageruns: pd.DataFrame
    items: pd.DataFrame
    margins: pd.DataFrame
    outcomes: pd.DataFrame
    metrics: pd.DataFrame
    trajectory: pd.DataFrame
    benchmarks: pd.DataFrame = dataclasses.field(default_factory=lambda: _none_of("benchmarks"))
    sittings: pd.DataFrame = dataclasses.field(default_factory=lambda: _none_of("sittings"))

    def __post_init__(self) -> None:
        """Check columns, keys and references."""
        for name, columns in (DATA_DICTIONARY | BENCHMARK_DICTIONARY).items():
            table = getattr(self, name)
            missing = [c for c in columns if c not in table.columns]
            if missing:
                raise Failure(
                    f"table {name} lacks the columns {', '.join(missing)}: `caml report` writes it anew"
                )
            twice = table.duplicated(KEYS[name])
            if twice.any():
                row = table.loc[twice, KEYS[name]].iloc[0]
                raise Failure(
                    f"table {name} has a row twice: {', '.join(f'{k}={v}' for k, v in row.items())}"
                )
        known = set(self.stageruns["stagerun"])
        for name in ("cells", "margins", "outcomes", "metrics", "trajectory", *BENCHMARK_DICTIONARY):
            lost = set(getattr(self, name)["stagerun"].unique()) - known
            if lost:
                raise Failure(
                    f"table {name} names the StageRun {min(map(str, lost))}, which is not in stageruns"
                )
        lost = set(self.margins["item"].unique()) - set(self.items["item"])
        if lost:
            raise Failure(f"table margins names the item {min(map(str, lost))}, which is not in items")

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Name -> table; those of benchmarks only where some were sat."""
        named = {name: getattr(self, name) for name in DATA_DICTIONARY | BENCHMARK_DICTIONARY}
        return {name: table for name, table in named.items() if name in DATA_DICTIONARY or len(table)}

    @property
    def axes(self) -> list[str]:
        """The axis columns of `cells`, in the order of the table."""
        return [c for c in self.cells.columns if c not in DATA_DICTIONARY["cells"]]

    @property
    def dictionary(self) -> pd.DataFrame:
        """The data dictionary: one row per table and column, with meaning and unit."""
        known = DATA_DICTIONARY | BENCHMARK_DICTIONARY
        rows = [(t, c, *text) for t in self.frames for c, text in known[t].items()]
        rows += [
            (t, c, *text)
            for t, columns in OPTIONAL.items()
            for c, text in columns.items()
            if c in getattr(self, t).columns
        ]
        rows += [("cells", axis, "value of the axis", "as the macro says") for axis in self.axes]
        return pd.DataFrame(rows, columns=["table", "column", "meaning", "unit"])


def freeze(tables: Tables, folder: Path) -> dict[str, str]:
    """Write `tables` to `folder` as Parquet and CSV, with a data dictionary; returns file name -> SHA-256.

    `digests.json` is written last and names every file, so a folder that was cut short is refused by `load`.
    """
    return write_frames(tables.frames | {"dictionary": tables.dictionary}, folder)


def load(folder: Path) -> Tables:
    """Read what `freeze` wrote. Raises Failure, by name, where a file is missing or was altered."""
    there = verify(folder)
    names = [*DATA_DICTIONARY, *(name for name in BENCHMARK_DICTIONARY if f"{name}.parquet" in there)]
    return Tables(**{name: pd.read_parquet(folder / f"{name}.parquet") for name in names})


def write_frames(frames: dict[str, pd.DataFrame], folder: Path) -> dict[str, str]:
    """Write each frame to `folder` as NAME.parquet and NAME.csv, then `digests.json`; returns the digests."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DIGESTS).unlink(missing_ok=True)
    digests = {}
    for name, frame in frames.items():
        parquet = io.BytesIO()
        frame.to_parquet(parquet, index=False)
        for suffix, data in (("parquet", parquet.getvalue()), ("csv", frame.to_csv(index=False).encode())):
            replace_file(folder / f"{name}.{suffix}", data)
            digests[f"{name}.{suffix}"] = hashlib.sha256(data).hexdigest()
    write_digests(folder, digests)
    return digests
