"""Words for people."""


def counted(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`, `1,200 StageRuns`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
