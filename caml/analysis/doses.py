"""The fine-tuning dose S by one name: it is a realised count, and differs by a few tokens between seed blocks."""

import pandas as pd

DOSE = ["finetune", "finetune_tokens"]


def name_doses(cells: pd.DataFrame) -> pd.DataFrame:
    """`cells` with S as every table and figure calls it: the count of the first seed block, at equal slots.

    Rows of a second source displace some of the first's and have other lengths: such a dose is called by what
    it would have been without them, where that was run.
    """
    first = cells.sort_values(["seed", "second_ratio"]).drop_duplicates(DOSE).set_index(DOSE)["S"]
    return cells.assign(S=first.loc[pd.MultiIndex.from_frame(cells[DOSE])].to_numpy())
