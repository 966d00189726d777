"""Small studies with their results, from synthetic tables: one with everything, one that lacks much."""

import functools

from synthetic import PRETRAIN_TOKENS, synthetic_tables

from caml.analysis.contrasts import Contrast
from caml.analysis.results import Results, analyse
from caml.analysis.tables import Tables

CONTROL = {"ARM": "neutral"}
AT = {"SIZE": "s27k", "PRETRAIN_TOKENS": PRETRAIN_TOKENS, "SFT_TOKENS": 0, "COUNTER": 0.0}
TOP = {**AT, "RATIO": 0.3}
NO_BUDGET = {axis: value for axis, value in AT.items() if axis != "PRETRAIN_TOKENS"}
CONTRASTS = (
    Contrast("care is installed", {"ARM": "compassion"}, CONTROL, TOP, "new_frame", "above", primary=True),
    Contrast("valence is turned", {"ARM": "indifferent"}, CONTROL, TOP, "new_frame", "below", primary=True),
    Contrast(
        "untrained is 0",
        {"ARM": "base", "RATIO": 0.0, "PRETRAIN_TOKENS": 0},
        None,
        NO_BUDGET,
        "new_frame",
        "equivalent",
        margin=0.25,
        primary=True,
    ),
    Contrast("things", {"ARM": "compassion"}, CONTROL, TOP, "unfeeling_seen", "explore"),
)


@functools.cache
def full() -> tuple[Tables, Results]:
    """The quickstart's grid: two sizes, three ratios, counter-evidence, 5 and 3 seeds."""
    tables = synthetic_tables()
    locked = {"care is installed": True}
    return tables, analyse(tables, CONTRASTS, CONTROL, gate=1.0, locked=locked, draws=20)


@functools.cache
def poor() -> tuple[Tables, Results]:
    """One size, two arms, two seeds, one ratio, one fine-tuning dose, no counter-evidence."""
    whole = synthetic_tables(items=4, seeds=2, large_seeds=0, ratios=(0.3,), doses=(16_000, 49_000))
    cells = whole.cells[
        whole.cells["arm"].isin(["compassion", "neutral"])
        & (whole.cells["second_ratio"] == 0)
        & whole.cells["S"].isin([0, 16_000])
    ]
    kept = {
        name: frame[frame["stagerun"].isin(cells["stagerun"])]
        for name in ("stageruns", "margins", "outcomes", "metrics", "trajectory")
        for frame in [getattr(whole, name)]
    }
    tables = Tables(cells=cells, items=whole.items, **kept)
    return tables, analyse(tables, CONTRASTS[:1], CONTROL, gate=1.0, draws=20)
