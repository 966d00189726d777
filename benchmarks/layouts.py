"""What the table of caml/training/layouts.py rests on: tokens a second of the layouts that a platform could take.

Members in turn or side by side, and batches whole or in pieces, each in a process of its own, in turn. `ours` is the
layout that a line names, `peer` the best of the others; the goal is set for that which the table chooses.
"""

import argparse
import json

import numpy as np

from benchmarks.grid import SMALL
from benchmarks.lines import line, printed
from benchmarks.training import CASES, Case, train_here

MODELS = {SMALL.name: SMALL, "100k": Case("100k", 48, 3, 4, 24, 112, 128, 64, 16, 8), **CASES}
DISPATCHES = 4


def options(name: str, members: int) -> list[tuple[str, int]]:
    """Members `turn` or `stacked`, and the sequences that a device takes at a time, all of them last."""
    import jax

    case = MODELS[name]
    groups = max(1, len(jax.devices()) // members)
    own = case.batch // groups
    pieces = [rows for rows in (1, 2, 4, 8, 16, 32) if rows < own and own % rows == 0] + [own]
    return [("turn", rows) for rows in pieces] + ([("stacked", own)] if members > 1 else [])


def one(name: str, members: int, kind: str, rows: int) -> list[float]:
    """Tokens a second of the dispatches of one layout."""
    import jax

    from caml.training import layouts

    layouts.MEMBERS_LIE[jax.default_backend()] = kind
    case = MODELS[name]
    return train_here(case, members, case.steps * (DISPATCHES + 1), members, rows)


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=MODELS, default=["29k", "100k", "0.2M", "1M", "6M"])
    parser.add_argument("--members", type=int, nargs="+", default=[1, 4], help="trained together")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        name, members, kind, rows = asked.one
        print(json.dumps(one(name, int(members), kind, int(rows))))
        return
    from caml.training.devices import prepare_devices

    prepare_devices()
    import jax

    from caml.training.layouts import layout_of

    for name in asked.cases:
        case = MODELS[name]
        for members in asked.members:
            shapes = members, case.batch, case.length, case.width
            laid = layout_of(jax.default_backend(), len(jax.devices()), *shapes)
            chosen = "stacked" if laid.beside else "turn", laid.rows or case.batch // laid.data
            found: dict[tuple[str, int], list[float]] = {option: [] for option in options(name, members)}
            for _ in range(asked.rounds):
                for option, rates in found.items():
                    rates += printed(["benchmarks.layouts", "--one", name, str(members), *map(str, option)])
            medians = {option: float(np.median(rates)) for option, rates in found.items()}
            for option, rate in medians.items():
                told = f"{case.told}, {members} members; {option[0]}, {option[1]} rows at a time"
                goal = 0.95 if option == chosen else 0.0
                best = max(rate for other, rate in medians.items() if other != option)
                line("layouts", told, rate, best, "tokens/s", rate / best, goal, {"ours": found[option]})


if __name__ == "__main__":
    main()
