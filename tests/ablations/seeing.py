"""The caml command, which keeps every batch that training is given: `seeing.py FOLDER COMMAND ...`.

Below FOLDER, `NAME/FIRST.npz` has the batches of StageRun NAME from step FIRST on.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np


def keep(folder: Path) -> None:
    """Have the data of every StageRun write down the batches that it hands out."""
    from caml.ablations.prepare import Stores

    opened = Stores.data

    def data(stores: Any, stagerun: Any) -> Any:
        found = opened(stores, stagerun)
        batches = found.batches
        kept = folder / stagerun.name
        kept.mkdir(parents=True, exist_ok=True)

        def handed_out(first: int, count: int) -> Any:
            batch = batches(first, count)
            np.savez(kept / f"{first}.npz", **batch._asdict())
            return batch

        found.batches = handed_out
        return found

    Stores.data = data  # type: ignore[method-assign]


# Processes that write stores import this file too.
if __name__ == "__main__":
    from caml.__main__ import main

    keep(Path(sys.argv[1]))
    sys.argv = ["caml", *sys.argv[2:]]
    main()
