"""caml: does a disposition mixed into pretraining last?"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caml.analysis.tables import Tables


def load(folder: str | Path) -> "Tables":
    """The frozen tables of a finished ablation, as tidy data frames.

    **Arguments**: `folder`, such as 'runs/quickstart' (or its folder `tables`).

    **Returns**: an object with the data frames `cells`, `stageruns`, `items`, `margins`, `outcomes`, `metrics`
    and `trajectory`, of an ablation that names benchmarks `benchmarks` and `sittings` too, and `dictionary`, which says
    what every column means and its unit.

    **Raises**: `caml.config.errors.Failure` where a table is missing or was altered.
    """
    from caml.analysis import tables

    path = Path(folder)
    return tables.load(path / "tables" if (path / "tables").is_dir() else path)
