"""Loss at the end by rate and width, mean over seeds, and what the best rate of the smallest costs the others."""

import argparse

import caml


def main() -> None:
    """Print a table in Markdown for each optimizer and base width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="of the finished ablation, such as runs/size-transfer")
    tables = caml.load(parser.parse_args().folder)
    cells = tables.cells.merge(tables.stageruns[["stagerun", "final_loss"]], on="stagerun")
    for (optimizer, base), some in cells.groupby(["OPTIMIZER", "BASE_WIDTH"]):
        means = some.pivot_table(values="final_loss", index="RATE", columns="SIZE")
        means = means[some.sort_values("params")["SIZE"].unique()]
        print(f"\n{optimizer}, base width {base}\n")
        print("| rate | " + " | ".join(means.columns) + " |\n|---|" + "---|" * len(means.columns))
        for rate, row in means.iterrows():
            told = [f"**{x:.3f}**" if x == means[size].min() else f"{x:.3f}" for size, x in row.items()]
            print(f"| {rate:g} | " + " | ".join(told) + " |")
        taken = means[means.columns[0]].idxmin()
        lost = [f"{means[size][taken] - means[size].min():.3f}" for size in means.columns]
        print(f"| lost at {taken:g} | " + " | ".join(lost) + " |")


if __name__ == "__main__":
    main()
