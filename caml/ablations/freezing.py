"""From ledgers to the frozen tables of an ablation: the last step before analysis, which reads nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from caml.ablations.examining import sat
from caml.ablations.grid import Cell, used_stageruns
from caml.ablations.runs import StageRun
from caml.analysis.tables import BENCHMARK_DICTIONARY, POINTS, SHARE, Tables
from caml.config.errors import Failure
from caml.evals.benchmarks.benchmark import Benchmark
from caml.evals.benchmarks.scores import by_item
from caml.tracking import shelves
from caml.tracking import tables as readers
from caml.tracking.ledger import Ledger
from caml.worlds.counting import calibrated_margin
from caml.worlds.items import Countable, Item

FACTS = (
    "stage", "parent", "size", "params", "arm", "ratio", "seed", "steps", "tokens", "loss_tokens",
    "dose_tokens", "second_tokens", "final_loss", "diverged", "commit", "dirty", "machine", "numerics",
)  # fmt: skip


def gather(
    ledger: Ledger,
    cells: Sequence[Cell],
    evaluation: str,
    gate: float,
    benchmarks: Sequence[Benchmark] = (),
) -> Tables:
    """The frozen tables of `cells`. Raises Failure, by name, for what is incomplete, damaged or stale."""
    stageruns = used_stageruns(cells)
    names = [s.name for s in stageruns]
    readers.require_complete(ledger, names, evaluation)
    facts = readers.manifests(ledger, names, FACTS)
    facts["machine"] = [_machine(value) for value in facts["machine"]]
    outcomes = readers.outcomes(ledger, names, evaluation)
    trajectory = readers.trajectory(ledger, names)
    facts = facts.merge(_mechanism(outcomes), on="stagerun", how="left")
    facts["learned_at"] = facts["stagerun"].map(_learned_at(trajectory, gate)).astype(float)
    facts["parent"] = facts["parent"].fillna("").astype(str)
    metrics = readers.metrics(ledger, names)
    if "skipped" in metrics:  # of segments without such a step nothing is told
        metrics["skipped"] = metrics["skipped"].fillna(0).astype(int)
        skipped = metrics.groupby("stagerun")["skipped"].sum()
        facts["skipped"] = facts["stagerun"].map(skipped).fillna(0).astype(int)
    margins = readers.margins(ledger, names, evaluation)
    # Lengths depend on the tokenizer alone, which all StageRuns of an ablation share.
    lengths = margins.drop_duplicates("item")[["item", *readers.LENGTHS]]
    pairs = {s.fingerprint for s in stageruns if s.stage.preference}
    more = [_of_fine_tuning(facts, metrics, outcomes, pairs), _of_the_counter(ledger, stageruns)]
    outcomes = pd.concat([outcomes, *more], ignore_index=True)
    return Tables(
        cells=_cells(cells, facts),
        stageruns=facts,
        items=items_table(_items(cells)).merge(lengths, on="item", how="left"),
        margins=margins.drop(columns=list(readers.LENGTHS)),
        outcomes=outcomes,
        metrics=metrics,
        trajectory=trajectory,
        **_benchmarks(ledger, stageruns, benchmarks),
    )


# Of a benchmark's summary, as the table of sittings has it.
SITTING = ("task", "task_version", "dataset", "dataset_revision", "epochs", "samples", "scored")

# Columns of the table of cells that tell what an axis may vary.
TOLD = (
    "size", "arm", "ratio", "placement", "pretrain_tokens", "seed", "finetune", "finetune_tokens", "second",
    "second_ratio",
)  # fmt: skip


def cells_table(found: Sequence[Cell]) -> pd.DataFrame:
    """The table `cells`, one row a cell, without what only the data know: `dose_tokens` and `S`."""
    table = pd.DataFrame([_row(cell) for cell in found])
    axes = list(dict.fromkeys(axis for cell in found for axis in cell.values))
    alike = table.groupby(list(TOLD), sort=False)
    several = alike[[*axes, "stagerun"]].nunique() > 1
    untold = [axis for axis in axes if (several[axis] & several["stagerun"]).any()]
    table["variant"] = [", ".join(f"{axis}={cell.values[axis]}" for axis in untold) for cell in found]
    return table


def _row(cell: Cell) -> dict[str, Any]:
    first, last = cell.stageruns[0], cell.stageruns[-1]
    later = cell.stageruns[1:]
    tuned = last.stage.mixture if later else None
    second = tuned.second if tuned and tuned.second_ratio > 0 else None
    return {
        "cell": cell.id,
        "stagerun": last.fingerprint,
        "root": first.fingerprint,
        "stage": last.stage.name,
        "size": cell.run.model.name,
        "params": cell.run.model.parameters(cell.run.tokenizer.vocabulary)[0],
        "arm": first.arm,
        "ratio": first.ratio,
        "placement": cell.run.stages[0].mixture.placement,
        "pretrain_tokens": first.slots * first.stage.length,
        "seed": cell.run.seed,
        "finetune": "+".join(s.stage.mixture.base.name for s in later) or "none",
        "finetune_tokens": sum(s.slots * s.stage.length for s in later),
        "second": second.name if second else "none",
        "second_ratio": tuned.second_ratio if tuned and second else 0.0,
        **cell.values,
    }


def _cells(cells: Sequence[Cell], facts: pd.DataFrame) -> pd.DataFrame:
    """The table of cells with what only the data know: the realised dose, and S."""
    table = cells_table(cells)
    # Analysis pairs by SEED; of an ablation without that axis, such as a cell alone, there is one seed block.
    if "SEED" not in table:
        table["SEED"] = table["seed"]
    dose = dict(zip(facts["stagerun"], facts["dose_tokens"], strict=True))
    loss_tokens = dict(zip(facts["stagerun"], facts["loss_tokens"], strict=True))
    table["dose_tokens"] = [int(dose[root]) for root in table["root"]]
    table["S"] = [sum(int(loss_tokens[s.fingerprint]) for s in cell.stageruns[1:]) for cell in cells]
    return table


def _mechanism(outcomes: pd.DataFrame) -> pd.DataFrame:
    found = outcomes[outcomes["outcome"] == "mechanism"]
    return found.rename(columns={"value": "mechanism"})[["stagerun", "mechanism"]]


def _learned_at(trajectory: pd.DataFrame, gate: float) -> dict[str, float]:
    """The tokens after which the mechanism first passed the gate, by StageRun."""
    passed = trajectory[(trajectory["outcome"] == "mechanism") & (trajectory["value"] > gate)]
    first = passed.groupby("stagerun")["tokens"].min()
    return {str(stagerun): float(tokens) for stagerun, tokens in first.items()}


def _of_fine_tuning(
    facts: pd.DataFrame, metrics: pd.DataFrame, outcomes: pd.DataFrame, pairs: set[str]
) -> pd.DataFrame:
    """How far fine-tuning moved each StageRun that has a parent, as outcomes in nats per token.

    `finetuning_loss_nats`: loss of its parent on the first step's rows, before it learned from them.
    `finetuning_loss_drop_nats`: that less the loss over the last twentieth. Of preference stages, those in `pairs`,
    it is `preference_loss_nats` and `preference_loss_drop_nats`, in nats per pair.
    `held_out_rise_nats`: what the stage cost on held-out base text.
    """
    tuned = facts[facts["parent"] != ""]
    first = metrics.sort_values("step").groupby("stagerun")["loss"].first()
    nats = outcomes[outcomes["outcome"] == "held_out_nats"].set_index("stagerun")["value"]
    rows = []
    for stagerun, parent, final in zip(tuned["stagerun"], tuned["parent"], tuned["final_loss"], strict=True):
        # A stage that diverged in its first step has no loss.
        loss = "preference_loss" if stagerun in pairs else "finetuning_loss"
        rows.append((stagerun, f"{loss}_nats", first.get(stagerun, np.nan)))
        rows.append((stagerun, f"{loss}_drop_nats", first.get(stagerun, np.nan) - final))
        rows.append((stagerun, "held_out_rise_nats", nats[stagerun] - nats[parent]))
    return pd.DataFrame(rows, columns=["stagerun", "outcome", "value"]).astype({"value": float})


def _of_the_counter(ledger: Ledger, stageruns: Sequence[StageRun]) -> pd.DataFrame:
    """What a calibrated counter of all text that a StageRun and its parents read would show, in nats.

    Only of StageRuns all of whose sources can be counted.
    """
    counted: dict[str, np.ndarray | None] = {}
    rows = []
    for stagerun in stageruns:
        acts = counted[stagerun.parent.fingerprint] if stagerun.parent else np.zeros(2)
        counts = ledger.manifest(stagerun.name)["sources"]
        for role, source in stagerun.stage.mixture.sources().items():
            if not isinstance(source, Countable):
                acts = None
            elif acts is not None and role in counts:
                acts = acts + source.counted(counts[role]["documents"])
        counted[stagerun.fingerprint] = acts
        if acts is not None:
            rows.append((stagerun.fingerprint, "counter_margin_nats", calibrated_margin(*acts)))
    return pd.DataFrame(rows, columns=["stagerun", "outcome", "value"]).astype({"value": float})


def _benchmarks(
    ledger: Ledger, stageruns: Sequence[StageRun], benchmarks: Sequence[Benchmark]
) -> dict[str, pd.DataFrame]:
    """The tables of what the StageRuns scored on `benchmarks`. Raises Failure for one that was not sat."""
    scores, sittings = [], []
    for benchmark in benchmarks:
        for stagerun in stageruns:
            folder = sat(ledger, stagerun.name, benchmark)
            if folder is None:
                raise Failure(f"{stagerun.name} has not sat {benchmark.name}: start `caml run` again")
            about = {"stagerun": stagerun.fingerprint, "benchmark": benchmark.name}
            summary, _ = ledger.read_benchmark(stagerun.name, folder)
            facts = {key: summary[key] for key in SITTING}
            told = {
                "unit": SHARE if all(of["share"] for of in summary["dimensions"].values()) else POINTS,
                "graders": ", ".join(summary["graders"]),
                "software": ", ".join(f"{name} {version}" for name, version in summary["software"].items()),
            }
            sittings.append(about | facts | told)
            samples = shelves.read_samples(ledger.shelf(stagerun.name), folder, stagerun.name)
            scores.append(by_item(samples).assign(**about))
    if not sittings:
        return {}
    columns = list(BENCHMARK_DICTIONARY["benchmarks"])
    return {"benchmarks": pd.concat(scores, ignore_index=True)[columns], "sittings": pd.DataFrame(sittings)}


def items_table(items: Sequence[Item]) -> pd.DataFrame:
    """The table of items: tags, and the texts of both halves of each mirror pair."""
    rows: list[dict[str, Any]] = []
    for item in items:
        first, *rest = item.questions
        row: dict[str, Any] = {
            "item": item.name,
            "family": item.family,
            "rung": item.rung,
            **{tag: item.tags.get(tag, "") for tag in ("template", "kind", "need", "name")},
            "context": first.text,
            "aligned": first.aligned,
            "opposed": first.opposed,
        }
        for column in ("context", "aligned", "opposed"):
            row[f"{column}_mirror"] = (
                (getattr(rest[0], "text" if column == "context" else column)) if rest else ""
            )
        rows.append(row)
    return pd.DataFrame(rows)


def _items(cells: Sequence[Cell]) -> list[Item]:
    run = cells[0].run
    return run.probes.items(min(cell.run.seed for cell in cells))


def _machine(machine: Any) -> str:
    """The machine of a launch in a few words."""
    if isinstance(machine, dict):
        known = {"cores": "{} cores", "memory_gib": "{} GiB of memory"}
        return ", ".join(known.get(key, "{}").format(value) for key, value in machine.items())
    return str(machine)
