"""`caml leaderboard`: gathers an output folder, and writes page and files below it."""

from collections.abc import Iterator
from pathlib import Path

from caml.analysis.leaderboard import every_eval_ever
from caml.analysis.leaderboard.boards import Task, gather
from caml.analysis.leaderboard.page import write_page
from caml.config.errors import UserError
from caml.config.text import counted

FOLDER, FILES = "leaderboard", "every_eval_ever"


def write(output: Path, organization: str, task: Task) -> Iterator[str]:
    """Write `leaderboard/` below an output folder; lines on what is there. Raises UserError where nothing is."""
    if not output.is_dir():
        raise UserError(
            f"there is no folder {output}: name the output folder of an ablation, as `caml run` made it"
        )
    if not organization.strip():
        raise UserError("--organization: a name, as 'My Lab'")
    found = gather(output, task)
    if not found.boards:
        raise UserError(
            f"nothing below {output} was evaluated: `caml run` scores an ablation's probes, and `caml eval MODEL "
            "--task TASK` lets a model sit a benchmark"
        )
    folder = output / FOLDER
    folder.mkdir(exist_ok=True)
    page = write_page(folder, found)
    files = every_eval_ever.write(folder / FILES, found, organization.strip())
    for board in found.boards:
        beside = [other for other in found.boards if other.tab == board.tab]
        told = [
            f"{key} {value}"
            for key, value in board.asked.items()
            if any(other.asked.get(key) != value for other in beside)
        ]
        counts = f"{counted(len(board.rows), 'row')}, {counted(len(board.dimensions), 'dimension')}"
        apart = f" ({'; '.join(told)})" if told else ""
        yield f"{board.tab}{apart}: {counts}"
    for line in found.left_out:
        yield f"left out: {line}"
    yield f"page: {page}"
    yield f"for submission: {counted(files, 'file')} below {folder / FILES}"
