"""The leaderboard as one page that opens anywhere."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from caml.analysis.figures.style import count, in_order, percent, spaced
from caml.analysis.files import replace_file
from caml.analysis.leaderboard.boards import Board, Leaderboard, Row, Score
from caml.analysis.pages.rendering import rendered
from caml.analysis.report.tables import interval, number
from caml.analysis.tables import NATS
from caml.config.text import counted

PAGE = "index.html"
TITLE = "Leaderboard"
READING = (
    "A row is a model, or the models of several seed blocks that are alike in everything else. Of several, a score is "
    "the mean over seed blocks, and its limits are Student's t on their means; of one, they are over items, and say "
    "nothing of another seed block. All limits are 95%. Fewer than five seed blocks claim nothing.",
    "An item counts once, however many languages and epochs it was asked in. Samples that could not be scored are left "
    "out of means, and counted under “scored”.",
    "Bars show the score: a share of 1, or, of margins in nats and of points, of the largest on the board, below 0 in "
    "orange. "
    "There is no index over benchmarks, and an “overall” is the benchmark's own. A difference between two rows is no "
    "effect of a disposition unless the two are an arm and its control: that is what reports estimate.",
)


def write_page(folder: Path, leaderboard: Leaderboard) -> Path:
    """Write the page to `folder`, its links relative to it; returns its path."""
    rows = [row.entrant for board in leaderboard.boards for row in board.rows]
    tabs = [
        {"name": tab, "boards": [_board(board, folder) for board in leaderboard.boards if board.tab == tab]}
        for tab in leaderboard.tabs
    ]
    sizes = {one.size: one.params for one in rows}
    entrants = {tuple(member.key for member in one.members) for one in rows}
    page = rendered(
        "leaderboard/page.html.jinja",
        ("sorting", "choosing"),
        title=TITLE,
        told=f"{counted(len(entrants), 'entrant')} on {counted(len(leaderboard.boards), 'board')}.",
        tabs=tabs,
        filters=[
            ("size", sorted(sizes, key=lambda size: (sizes[size], size))),
            ("arm", [spaced(arm) for arm in in_order(one.arm for one in rows if one.arm)]),
            ("stage", sorted({spaced(one.stage) for one in rows})),
        ],
        reading=READING,
        left_out=leaderboard.left_out,
    )
    path = folder / PAGE
    replace_file(path, page.encode())
    return path


def _board(board: Board, folder: Path) -> dict[str, Any]:
    scores = [score for row in board.rows for score in row.scores.values() if not score.share]
    top = max((abs(score.mean) for score in scores), default=0.0)
    return {
        "asked": list(board.asked.items()),
        "dimensions": [spaced(name) for name in board.dimensions],
        "rows": [_row(row, board, top, folder) for row in board.rows],
    }


def _row(row: Row, board: Board, top: float, folder: Path) -> dict[str, Any]:
    one, sittings = row.entrant, row.sittings.values()
    scored, samples = sum(s.scored for s in sittings), sum(s.samples for s in sittings)
    seeds = [member.seed for member in one.members if member.key in row.sittings]
    told = counted(len(seeds), "seed block") if seeds[0] >= 0 else "one model"
    unscored: dict[str, int] = {}
    for sitting in sittings:
        for reason, number_of in sitting.summary.get("unscored", {}).items():
            unscored[reason] = unscored.get(reason, 0) + number_of
    return {
        "name": spaced(one.name),
        "search": " ".join([spaced(one.name), *one.reports, *(member.name for member in one.members)]),
        "size": one.size,
        "arm": spaced(one.arm),
        "stage": spaced(one.stage),
        "params": one.params,
        "params_told": f"{count(one.params)} parameters, {told}",
        "ratio": one.ratio,
        "dose": f"{percent(one.ratio)}, {count(one.dose_tokens)} tokens" if one.ratio else "–",
        "scored": scored,
        "scored_told": f"{scored:,} of {samples:,}",
        "scores": [_score(row.scores.get(name), board, top) for name in board.dimensions],
        "links": _links(row, folder),
    }


def _score(score: Score | None, board: Board, top: float) -> Mapping[str, Any]:
    """What a cell of the table shows; an empty one sorts last. `top`: of what is no share, the largest on the board."""
    if score is None or math.isnan(score.mean):
        return {"mean": "–", "order": "-Infinity", "limits": "", "title": "", "width": "", "below": False}
    digits = 2 if board.unit == NATS else 3
    whole = 1.0 if score.share else top
    limits = "" if math.isnan(score.low) else interval(score.low, score.high, digits)
    return {
        "mean": number(score.mean, digits),
        "order": f"{score.mean:.9g}",
        "limits": limits,
        "title": f"{counted(score.seeds, 'seed block')}, {counted(score.items, 'item')}; limits over {score.over}",
        "width": f"{min(abs(score.mean) / whole, 1) * 100:.1f}" if whole else "0",
        "below": score.mean < 0,
    }


def _links(row: Row, folder: Path) -> list[tuple[str, str]]:
    """The runs of a row, what was kept of each, and the reports that tell of it."""
    found = []
    for member in row.entrant.members:
        if member.key in row.sittings:
            label = f"seed {member.seed}" if member.seed >= 0 else "run"
            found.append((label, _address(member.folder, folder)))
            if row.sittings[member.key].summary:
                found.append(("log", _address(row.sittings[member.key].folder, folder)))
    output = row.entrant.members[0].folder.parent.parent
    for name in row.entrant.reports:
        page = output / name / "report" / "index.html"
        if page.exists():
            found.append((f"report of {name}", _address(page, folder)))
    return found


def _address(path: Path, folder: Path) -> str:
    relative = os.path.relpath(path.absolute(), folder.absolute())
    return quote(f"{relative}/" if path.is_dir() else relative)
