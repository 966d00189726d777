"""Words and tables for people."""

from collections.abc import Collection, Iterator, Sequence


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`, `1,200 StageRuns`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> Iterator[str]:
    """Rows of cells as lines, columns under each other: those numbered in `left` to the left, others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()
