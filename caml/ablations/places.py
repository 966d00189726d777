"""Where an ablation keeps what it makes, all of it below its output folder."""

import contextlib
import dataclasses
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from caml.ablations.runs import Ablation
from caml.config.errors import Failure, UserError
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


def make_writable(where: Places) -> None:
    """Make the output folder; raise UserError where it cannot be written, Failure where the disk is full."""
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
            "name another one with Ablation.output"
        ) from None
