"""The table of what benchmarks printed: of each file in `benchmarks/results/` the last line of each case.

`make bench-training KEEP=benchmarks/results/NAME.jsonl` adds the lines of a run to a file, one for each machine; this
draws them all into `benchmarks/results/TABLE.md`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
HEAD = (
    "| benchmark | case | ours | peer or limit | unit | ratio | goal | | code, date |\n"
    "|---|---|---|---|---|---|---|---|---|"
)


def read(path: Path) -> list[dict[str, Any]]:
    """The last line of each benchmark and case, in the order in which cases first came."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            told = json.loads(text)
            found[told["benchmark"], told["case"]] = told
        except (json.JSONDecodeError, KeyError, TypeError) as problem:
            raise SystemExit(f"{path}:{number} is not a line of a benchmark ({problem!r})") from None
    return list(found.values())


def rows(found: list[dict[str, Any]]) -> Iterator[str]:
    """A row of the table for each line."""
    for told in found:
        numbers = [_number(told[of], told.get("spread", {}).get(of)) for of in ("ours", "peer", "ratio")]
        goal = told["goal"]
        met = (
            ""
            if not goal
            else "met"
            if told["ratio"] >= goal
            else f"missed by {1 - told['ratio'] / goal:.0%}"
        )
        ours, peer, ratio = numbers
        cells = (
            told["benchmark"],
            told["case"],
            ours,
            peer,
            told["unit"],
            ratio,
            f"{goal:g}" if goal else "",
            met,
        )
        yield "| " + " | ".join((*cells, f"{told['code']}, {told['date']}")) + " |"


def _number(value: float, spread: list[float] | None) -> str:
    """A number in four figures, with its least and most in brackets."""

    def told(x: float) -> str:
        return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"

    return told(value) + (
        f" [{told(spread[0])}, {told(spread[1])}]" if spread and spread[0] != spread[1] else ""
    )


def main() -> None:
    """Write the table, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    parts = [
        "# Results of benchmarks, as they were printed\nMedians, and in brackets the least and the most of the rounds."
    ]
    for path in sorted(RESULTS.glob("*.jsonl")):
        found = read(path)
        for machine in dict.fromkeys(told["machine"] for told in found):
            here = [told for told in found if told["machine"] == machine]
            versions = {name: told for line in here for name, told in line["versions"].items()}
            named = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
            parts.append(f"## {machine}\n{named}\n\n" + "\n".join([HEAD, *rows(here)]))
    text = "\n\n".join(parts) + "\n"
    (RESULTS / "TABLE.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
