"""What is compared on the leaderboard: a board for each way in which something was asked, and who was asked it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import numpy as np

from caml.analysis.figures.style import endpoint, rung_order
from caml.analysis.files import DIGESTS
from caml.analysis.intervals import possible, student
from caml.analysis.leaderboard import entrants as who
from caml.analysis.leaderboard.entrants import Entrant
from caml.analysis.tables import NATS, SHARE, Tables
from caml.analysis.tables import load as load_tables
from caml.config.errors import Failure
from caml.config.fingerprint import fingerprint
from caml.config.text import counted
from caml.tracking import shelves
from caml.tracking.ledger import Ledger, State

Task = Callable[[str, int], AbstractContextManager[Callable[[int, str], None]]]
"""Shows a piece of work of so many parts: gives a function that is told how many are done, and of what."""
PROBES = "own probes"
NONE = float("nan")
MARGIN = "log P(aligned) − log P(opposed) in nats, mean over both halves of a pair; 0 is no preference"


@dataclasses.dataclass(frozen=True)
class Score:
    """A mean with its 95% limits: over `seeds` seed blocks where there are several, else over `items`.

    NaN where there are no limits. `share`: whether it is a share of 1.
    """

    mean: float
    low: float
    high: float
    seeds: int
    items: int
    share: bool = False

    @property
    def over(self) -> str:
        """What the limits are over."""
        return "seed blocks" if self.seeds > 1 else "items"


@dataclasses.dataclass(frozen=True)
class Sitting:
    """What one member scored: means with limits over items by dimension, and what was kept of it.

    `folder` holds it, `written` says when it was (milliseconds since 1970), `summary` is the benchmark's own ({} of
    probes).
    """

    scores: Mapping[str, Score]
    samples: int
    scored: int
    folder: Path
    written: int
    summary: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """An entrant on a board: its scores by dimension, and what each of its members that sat it scored, by its key."""

    entrant: Entrant
    scores: Mapping[str, Score]
    sittings: Mapping[str, Sitting]


@dataclasses.dataclass(frozen=True)
class Board:
    """A benchmark as it was asked in one way: `asked` says how. Scores of another board are not to be compared."""

    tab: str
    asked: Mapping[str, str]
    unit: str
    dimensions: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Leaderboard:
    """The boards of an output folder, and what was left out of them, by name."""

    boards: tuple[Board, ...]
    left_out: tuple[str, ...]

    @property
    def tabs(self) -> tuple[str, ...]:
        """The boards' tabs, benchmarks of the field first."""
        return tuple(dict.fromkeys(board.tab for board in self.boards))


class _Gathering:
    """What was found so far: how each board was asked, and what each model scored on it, by its key."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[str, dict[str, str], str]] = {}
        self.sittings: dict[str, dict[str, Sitting]] = {}
        self.left_out: list[str] = []

    def benchmarks(self, shelf: Path, name: str, key: str, params: str = "") -> list[Mapping[str, Any]]:
        """Add what the model `key` sat; the summaries of it."""
        read: list[Mapping[str, Any]] = []
        for benchmark in shelves.benchmarks(shelf):
            try:
                summary, written = shelves.read(shelf, benchmark, name, params)
            except Failure as failure:
                self.left_out.append(str(failure))
                continue
            if "library" not in summary or any("share" not in of for of in summary["dimensions"].values()):
                self.left_out.append(f"{shelf / benchmark} was written by an earlier caml: ask it again")
                continue
            how = _how(summary)
            board = fingerprint(how)
            self.asked[board] = (str(summary["task"]).rpartition("/")[2], how, SHARE)
            scores = {
                dimension: Score(
                    of["mean"], _number(of["low"]), _number(of["high"]), 1, int(of["items"]), of["share"]
                )
                for dimension, of in {**summary["dimensions"], **_languages(summary)}.items()
            }
            counts = int(summary["samples"]), int(summary["scored"])
            sitting = Sitting(scores, *counts, shelf / benchmark, written, summary)
            # Asked again by another version of the software, the last one counts.
            before = self.sittings.setdefault(board, {}).get(key)
            if before is None or before.written < written:
                self.sittings[board][key] = sitting
            read.append(summary)
        return read

    def probes(self, tables: Tables, folder: Path) -> None:
        """Add what an ablation's StageRuns scored on its probes: margins by family and rung."""
        items = tables.items.sort_values("item")
        texts = items.drop(columns=["tokens_aligned", "tokens_opposed"])
        board = fingerprint(texts.to_dict("list"))
        self.asked[board] = (
            PROBES,
            {"items": f"{len(texts):,} mirror pairs ({board[:12]})", "score": MARGIN},
            NATS,
        )
        label = {
            (family, rung): endpoint(family, rung)
            for family in dict.fromkeys(tables.items["family"])
            for rung in rung_order(items.loc[items["family"] == family, "rung"])
        }
        pairs = zip(items["family"], items["rung"], strict=True)
        of = tables.margins["item"].map(dict(zip(items["item"], pairs, strict=True)))
        scores: dict[str, dict[str, Score]] = {}
        for key, margins in tables.margins.groupby(["stagerun", of])["margin"]:
            stagerun, pair = cast(tuple[str, tuple[str, str]], key)
            t = student(margins.to_numpy())
            limits = float(t.estimate), float(t.low), float(t.high)
            scores.setdefault(stagerun, {})[label[pair]] = Score(*limits, 1, len(margins))
        written = int((folder / DIGESTS).stat().st_mtime * 1000)
        for stagerun, by in scores.items():
            kept = {name: by[name] for name in label.values() if name in by}
            self.sittings.setdefault(board, {})[stagerun] = Sitting(
                kept, len(texts), len(texts), folder, written, {}
            )

    def boards(self, entrants: Sequence[Entrant]) -> list[Board]:
        """A board for each way of asking that an entrant was asked in; benchmarks of the field first."""
        found = [_board(self.asked[key], self.sittings[key], entrants) for key in self.sittings]
        for board in found:
            if board.rows and not board.dimensions:
                told = "; ".join(f"{key} {value}" for key, value in board.asked.items())
                sat = counted(sum(len(row.sittings) for row in board.rows), "model")
                self.left_out.append(
                    f"{board.tab} ({told}): {sat} sat it, and no sample of theirs has a score"
                )
        return sorted(
            (board for board in found if board.dimensions),
            key=lambda board: (board.tab == PROBES, board.tab, -len(board.rows)),
        )


def gather(output: Path, task: Task) -> Leaderboard:
    """Everything below an output folder that was evaluated: benchmarks in ledgers and of models from elsewhere, and the
    probes of every ablation that has frozen tables.

    What is damaged, or of parameters that are no more, is left out by name. `task` shows how many of how many folders
    were read.
    """
    found, ledger = _Gathering(), Ledger(output / "ledger")
    names, folders = ledger.names(), sorted(path.parent for path in output.glob(f"*/tables/{DIGESTS}"))
    complete: list[str] = []
    variants: dict[str, str] = {}
    reports: dict[str, dict[str, None]] = {}
    with task("models and tables", len(names) + len(folders)) as advance:
        for number, name in enumerate(names, 1):
            if ledger.state(name) is State.COMPLETE:
                try:
                    key, params = ledger.manifest(name)["fingerprint"], ledger.params_digest(name)
                    found.benchmarks(ledger.shelf(name), name, key, params)
                    complete.append(name)
                except Failure as failure:
                    found.left_out.append(str(failure))
            advance(number, name)
        for number, folder in enumerate(folders, len(names) + 1):
            try:
                tables = load_tables(folder)
                variants |= dict(zip(tables.cells["stagerun"], tables.cells["variant"], strict=True))
                for stagerun in tables.stageruns["stagerun"]:
                    reports.setdefault(stagerun, {})[folder.parent.name] = None
                found.probes(tables, folder)
                gone = len(set(tables.stageruns["name"]) - set(complete))
                if gone:
                    of = counted(len(tables.stageruns), "StageRun")
                    found.left_out.append(
                        f"{gone} of {of} in the tables of {folder.parent.name}: they left the ledger"
                    )
            except Failure as failure:
                found.left_out.append(f"the tables of {folder.parent.name}: {failure}")
            advance(number, folder.parent.name)
    known = who.told_apart(who.of_ledger(ledger, complete, reports), variants)
    for shelf in sorted((output / shelves.BENCHMARKS).glob("*/")):
        key = f"elsewhere/{shelf.name}"
        read = found.benchmarks(shelf, shelf.name, key)
        known += [who.from_elsewhere(shelf, key, read[0])] if read else []
    return Leaderboard(tuple(found.boards(known)), tuple(found.left_out))


def _how(summary: Mapping[str, Any]) -> dict[str, str]:
    """How a benchmark was asked, in words; what differs in it is not to be compared."""
    benchmark = summary["benchmark"]
    told = {
        "task": f"{summary['task']}, version {summary['task_version']}",
        "data": f"{summary['dataset']} {summary['dataset_revision']}".strip() or "without a name",
        "graded by": ", ".join(summary["graders"]) or "the task's own scorer",
        "epochs": str(summary["epochs"]),
        "samples": str(benchmark["limit"]) if benchmark.get("limit") else "all",
    }
    if "temperature" in benchmark:
        told["drawn with"] = (
            f"temperature {benchmark['temperature']:g}, {benchmark['max_tokens']} tokens at most, "
            f"seed {benchmark['seed']}"
        )
    if "file" in benchmark:
        told["task file"] = f"SHA-256 {benchmark['file'][:12]}"
    if benchmark.get("arguments"):
        told["arguments"] = json.dumps(benchmark["arguments"], sort_keys=True)
    return told


def _languages(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The overall score by language, of a benchmark with several."""
    languages = summary["languages"]
    return {f"in {name}": of for name, of in languages.items()} if len(languages) > 1 else {}


def _number(value: float | None) -> float:
    return NONE if value is None else float(value)


def _board(
    asked: tuple[str, dict[str, str], str], sittings: Mapping[str, Sitting], known: Sequence[Entrant]
) -> Board:
    tab, how, unit = asked
    rows = []
    for entrant in known:
        own = {m.key: sittings[m.key] for m in entrant.members if m.key in sittings}
        if own:
            rows.append(Row(entrant, _over_seeds(list(own.values())), own))
    dimensions = tuple(dict.fromkeys(name for row in rows for name in row.scores))
    return Board(tab, how, unit, dimensions, tuple(rows))


def _over_seeds(sittings: list[Sitting]) -> dict[str, Score]:
    """Scores of members of several seed blocks: the mean of their means, with Student's t over seed blocks."""
    names = dict.fromkeys(name for sitting in sittings for name in sitting.scores)
    out = {}
    for name in names:
        scores = [sitting.scores[name] for sitting in sittings if name in sitting.scores]
        if len(scores) == 1:
            out[name] = scores[0]
        else:
            means = np.array([score.mean for score in scores])
            t = student(means)
            items = min(score.items for score in scores)
            share = all(score.share for score in scores)
            # Means that are all alike say nothing of how another seed block would differ, as items that are.
            limits = (
                (NONE, NONE) if (means == means[0]).all() else possible(float(t.low), float(t.high), share)
            )
            out[name] = Score(float(t.estimate), *limits, len(scores), items, share)
    return out
