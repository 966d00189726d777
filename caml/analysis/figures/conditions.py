"""What sets cells of a grid apart beside size, arm and doses: placement, token budget, and axes of no column."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd

from caml.analysis.figures.style import count

UNIFORM = "uniform"


@dataclasses.dataclass(frozen=True)
class Condition:
    """One value of each; None stands for what the grid doesn't vary.

    `pretrain_tokens` is None too where every size has one budget: then the size tells it.
    """

    placement: str | None
    pretrain_tokens: int | None
    variant: str
    exact: bool = False  # budgets that three digits don't tell apart

    @property
    def name(self) -> str:
        """The condition in words, such as `late, 262k pretraining tokens`; empty where nothing is to be told."""
        tokens, budget = self.pretrain_tokens, ""
        if tokens is not None:
            budget = f"{f'{tokens:,}' if self.exact else count(tokens)} pretraining tokens"
        return ", ".join(part for part in (self.placement, budget, self.variant) if part)

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of `frame` under this condition.

        Cells without intervention have no placement, and untrained ones no budget: they stand under all. So do
        untrained ones where none has this variant.
        """
        hit = frame["variant"] == self.variant
        untrained = frame["pretrain_tokens"] == 0
        if not (hit & untrained).any():
            hit |= untrained & (frame["variant"] == frame.loc[untrained, "variant"].min())
        if self.placement is not None:
            hit &= (frame["placement"] == self.placement) | (frame["ratio"] == 0)
        if self.pretrain_tokens is not None:
            hit &= frame["pretrain_tokens"].isin([0, self.pretrain_tokens])
        return frame[hit]


class Conditions:
    """The conditions of the `cells` of a grid, or of any table with their columns.

    `every`: those of trained cells, in the order of the cells, which is that of the axes; one at least.
    """

    def __init__(self, cells: pd.DataFrame):
        trained = cells[cells["pretrain_tokens"] > 0]
        placements = set(trained.loc[trained["ratio"] > 0, "placement"])
        self._placed = bool(placements - {UNIFORM})
        self._budgeted = bool((trained.groupby("size")["pretrain_tokens"].nunique() > 1).any())
        budgets = set(trained["pretrain_tokens"])
        self._exact = len(set(map(count, budgets))) < len(budgets)
        found = list(dict.fromkeys(self.of(row) for row in trained.to_dict("records")))
        # Base stands beside the arms with an intervention, under each of their placements.
        beside = {dataclasses.replace(c, placement=None) for c in found if c.placement is not None}
        self.every = [c for c in found if c not in beside]
        self.every = self.every or [Condition(None, None, min(cells["variant"], default=""))]

    def of(self, row: Mapping[Any, Any]) -> Condition:
        """The condition of a row of any result table, as far as its columns tell of it."""
        placed = self._placed and row.get("ratio", 1.0) > 0
        tokens = row.get("pretrain_tokens", 0) if self._budgeted else 0
        return Condition(
            str(row["placement"]) if placed else None,
            int(tokens) or None,
            str(row.get("variant", "")),
            self._exact,
        )

    def place(self, name: str) -> int:
        """Where in the order of `every` the condition of this name stands; the last place for another."""
        names = [condition.name for condition in self.every]
        return names.index(name) if name in names else len(names)

    def told(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`frame` with the column `condition`: the name of each row's."""
        return frame.assign(condition=[self.of(row).name for row in frame.to_dict("records")])
