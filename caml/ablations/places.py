"""Where an ablation keeps what it makes, all of it below its output folder."""

import contextlib
import dataclasses
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

from caml.ablations.runs import Ablation
from caml.config.errors import Failure, UserError
from caml.data.files import write_json
from caml.tracking.ledger import Ledger


@dataclasses.dataclass(frozen=True)
class Places:
    """Folders below `output`. Stores, tokenizers and the ledger are shared by all ablations there."""

    output: Path
    name: str

    @property
    def stores(self) -> Path:
        """Token stores, by recipe."""
        return self.output / "stores"

    @property
    def tokenizers(self) -> Path:
        """Tokenizers, by recipe."""
        return self.output / "tokenizers"

    @property
    def ledger(self) -> Ledger:
        """StageRuns, by name."""
        return Ledger(self.output / "ledger")

    @property
    def populations(self) -> Path:
        """Checkpoints of populations in flight."""
        return self.output / "populations"

    @property
    def folder(self) -> Path:
        """What belongs to this ablation alone: cells, frozen tables, lock and report."""
        return self.output / self.name

    @property
    def profile(self) -> Path:
        """The profiler's traces that were asked for."""
        return self.folder / "profile"

    @property
    def owner(self) -> Path:
        """Which gin file has its results in `folder`, and what it states."""
        return self.folder / "owner.json"

    @property
    def lock(self) -> Path:
        """What was stated before results existed."""
        return self.folder / "lock.json"

    @property
    def tracking(self) -> str:
        """The MLflow store that is used where the gin file names none."""
        return f"sqlite:///{self.output / 'mlflow.db'}"


def places(ablation: Ablation) -> Places:
    """The places of `ablation`, its output folder relative to the current one."""
    return Places(Path(ablation.output).absolute(), ablation.name)


@contextlib.contextmanager
def named_below(where: Places) -> Iterator[None]:
    """Give an error of the disk that names no file, as of a full one, the output folder's name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS):
            error.filename = error.filename or str(where.output)
        raise


def taken(where: Places, file: Path, states: str) -> Path | None:
    """The other gin file whose results are in the ablation's folder, where that states another grid than `file`.

    None where the folder is free: nobody's, this file's own, or that of a file that is gone.
    """
    other, stated = _owner(where)
    return other if other and stated != states and not other.samefile(file) else None


def claim(where: Places, file: Path, states: str) -> list[Path]:
    """Make the ablation's folder, and note that it has the results of `file`, or leave it the older of two alike.

    Returns what was not there before, for `let_go`. Raises UserError where it cannot be written, Failure where the disk
    is full.
    """
    made = [path for path in (where.owner, where.folder, *where.folder.parents) if not path.exists()]
    make_writable(where)
    other, stated = _owner(where)
    if other is None or (other.samefile(file) and stated != states):
        write_json(where.owner, {"file": str(file.absolute()), "states": states})
    return made


def let_go(made: list[Path]) -> None:
    """Take a claim back: what it has made, folders where nothing else is in them by now."""
    with contextlib.suppress(OSError):
        for path in made:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _owner(where: Places) -> tuple[Path | None, str]:
    """The gin file that has its results in the ablation's folder, if it is there still, and what it states."""
    try:
        owner = json.loads(where.owner.read_text())
        file, states = Path(owner["file"]), str(owner["states"])
    except (OSError, ValueError, TypeError, KeyError):
        return None, ""
    return (file, states) if file.exists() else (None, "")


def make_writable(where: Places) -> None:
    """Make the folders; raise UserError where they cannot be written, Failure where the disk is full."""
    own = where.folder
    folders = (where.output, own, where.ledger.root, where.stores, where.tokenizers, where.populations)
    for path in (*folders, *(own / name for name in ("cells", "tables", "report", "profile"))):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file, and caml keeps a folder there: move it out of the way")
    names = ("lock.json", "owner.json", "headline.txt", "reported.txt", "report/index.html")
    for path in (where.output / "mlflow.db", *(own / name for name in names)):
        if path.is_dir():
            raise UserError(f"{path} is a folder, and caml keeps a file there: move it out of the way")
    try:
        where.folder.mkdir(parents=True, exist_ok=True)
        probe = where.folder / f".write-{os.getpid()}"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failure(f"the disk of {where.output} is full") from None
        raise UserError(
            f"the output folder {where.output} cannot be written ({error.strerror}); "
            f"name another one with {'Ablation' if where.name else 'Corpora'}.output"
        ) from None
