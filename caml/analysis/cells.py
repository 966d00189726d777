"""The table of cells as the analysis uses it: one name for a dose, and where each fine-tuning began."""

import pandas as pd

# What a dose has in common with others of its name, but for the seed block. Loss masks, templates and lengths are
# told by the variant, where the grid varies them.
ALIKE = ["finetune", "finetune_tokens", "variant"]


def prepared(cells: pd.DataFrame) -> pd.DataFrame:
    """`cells` with their doses named, and with a cell before fine-tuning for every variant of fine-tuning."""
    return _with_beginnings(_with_named_doses(cells))


def _with_named_doses(cells: pd.DataFrame) -> pd.DataFrame:
    """S as every table and figure calls it: the count of the first seed block, at equal slots.

    It is a realised count, which differs by a few tokens between seed blocks. Rows of a second source displace
    some of the first's and have other lengths: such a dose is called by what it would have been without them,
    where that was run.
    """
    first = cells.sort_values(["seed", "second_ratio"]).drop_duplicates(ALIKE).set_index(ALIKE)["S"]
    return cells.assign(S=first.loc[pd.MultiIndex.from_frame(cells[ALIKE])].to_numpy())


def _with_beginnings(cells: pd.DataFrame) -> pd.DataFrame:
    """Members before fine-tuning stand under each variant of what was fine-tuned from them.

    A grid may cross an axis of fine-tuning, which leaves them as they are, with doses above 0 alone.
    """
    began = cells[cells["S"] == 0].drop_duplicates("stagerun").set_index("stagerun")
    there = set(zip(cells["stagerun"], cells["variant"], strict=True))
    more = []
    for row in cells[cells["S"] > 0].drop_duplicates(["root", "variant"]).to_dict("records"):
        if row["root"] in began.index and (row["root"], row["variant"]) not in there:
            varied = [part.partition("=")[0] for part in row["variant"].split(", ")]
            own = {name: row[name] for name in ("variant", *varied) if name in row}
            root = began.loc[row["root"]].to_dict()
            more.append({**root, "stagerun": row["root"], "cell": f"{root['cell']},{row['variant']}", **own})
    return pd.concat([cells, pd.DataFrame(more)], ignore_index=True) if more else cells
