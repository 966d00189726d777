"""A resolved tree of dataclasses as gin text that runs alone: every value, defaults included."""

import dataclasses
import math
from typing import Any


def write(tree: Any) -> str:
    """Gin text that resolves to a tree equal to `tree`, a configured dataclass.

    Each object has a scope of its own, named after its place: `run/stages_0/mixture/base/Text.tokens = 5`.
    Raises TypeError for a value that gin text cannot hold (NaN, an array, a function).
    """
    blocks: list[list[str]] = []
    _write_object(tree, "", blocks)
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _write_object(value: Any, scope: str, blocks: list[list[str]]) -> None:
    block: list[str] = []
    blocks.append(block)
    name = f"{scope}/{type(value).__name__}" if scope else type(value).__name__
    for field in dataclasses.fields(value):
        if field.init:
            place = f"{scope}/{field.name}" if scope else field.name
            block.append(f"{name}.{field.name} = {_literal(getattr(value, field.name), place, blocks)}")


def _literal(value: Any, place: str, blocks: list[list[str]]) -> str:
    """The right side for `value`; an object in it becomes a reference, and a block of its own."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        _write_object(value, place, blocks)
        return f"@{place}/{type(value).__name__}()"
    if type(value) in (list, tuple):
        items = [_literal(item, f"{place}_{i}", blocks) for i, item in enumerate(value)]
        if type(value) is list:
            return f"[{', '.join(items)}]"
        return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
    if type(value) is dict and all(type(key) in (str, int, float, bool) for key in value):
        items = [
            f"{key!r}: {_literal(v, f'{place}_{i}', blocks)}" for i, (key, v) in enumerate(value.items())
        ]
        return f"{{{', '.join(items)}}}"
    if value is None or type(value) in (bool, int, str) or (type(value) is float and math.isfinite(value)):
        return repr(value)
    raise TypeError(f"{place}: gin text cannot hold {value!r}")
