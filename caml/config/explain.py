"""Which line of which file set a value, what it replaced, and why two identities are not the same."""

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from caml.config import checks
from caml.config.errors import UserError
from caml.config.files import REQUIRED, Binding, Macro, show, shown, suggest
from caml.config.resolve import Loaded

_MISSING = object()


def explain(loaded: Loaded, key: str) -> list[str]:
    """Lines that say where the value of `key` comes from, in the tree at the file's own macros.

    `key` is a macro (`RATIO`), a parameter (`Optimizer.rate`, `sft/Optimizer.rate`), a class for all of its
    parameters (`sft/Optimizer`) or a place in the tree (`run.stages[0].optimizer.rate`).
    Raises UserError where it names nothing.
    """
    for macro, given in loaded.restrictions.items():
        what = f"{macro} is an axis, and this command tells of the file's own values"
        raise UserError(f"--set {macro}={show(given)}: {what}; leave it out")
    if key in loaded.macros:
        return [f"{key} = {_shown(loaded.macro(key))}", *_trail(loaded, loaded.macros[key])]
    scope, _, rest = key.rpartition("/")
    name, _, field = rest.partition(".")
    if name in loaded.classes and not rest.endswith("."):
        return list(_explain_parameter(loaded, scope, name, field))
    return _explain_place(loaded, key)


def diff(one: Any, other: Any, place: str = "") -> list[str]:
    """Lines `PLACE: VALUE -> VALUE` for everything in which two trees of JSON data differ."""
    if one == other and type(one) is type(other):
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        pairs = [
            (f".{key}" if place else str(key), one.get(key, _MISSING), other.get(key, _MISSING))
            for key in keys
        ]
    elif isinstance(one, list) and isinstance(other, list):
        length = max(len(one), len(other))
        ones, others = ([*items, *[_MISSING] * (length - len(items))] for items in (one, other))
        pairs = [(f"[{i}]", *pair) for i, pair in enumerate(zip(ones, others, strict=True))]
    else:
        return [f"{place}: {_json(one)} -> {_json(other)}"]
    return [line for step, a, b in pairs for line in diff(a, b, f"{place}{step}")]


def _explain_parameter(loaded: Loaded, scope: str, name: str, field: str) -> Iterator[str]:
    fields = checks.annotations(loaded.classes[name])
    if field and field not in fields:
        raise UserError(f"{name} has no parameter {field}{suggest(field, fields)}")
    scopes = [s for s in loaded.scopes(name) if not scope or f"{s}/".startswith(f"{scope}/")]
    if not scopes:
        where = f"in scope {scope}" if scope else "at all"
        raise UserError(f"{shown(loaded.path)} builds no {name} {where}")
    for found in scopes:
        for wanted in [field] if field else fields:
            key = f"{found}/{name}.{wanted}" if found else f"{name}.{wanted}"
            yield from _explain_field(loaded, key, found, name, wanted)


def _explain_place(loaded: Loaded, key: str) -> list[str]:
    steps = re.findall(r"[^.\[\]]+", key) if re.fullmatch(r"\w+(\.\w+|\[\d+\])*", key) else []
    value, owner, whole = loaded.tree, None, True
    for i, step in enumerate(steps):
        if step in _fields(value):
            origin = loaded.origin(value)
            owner = (origin, step) if origin else owner  # else part of a default
            value, whole = getattr(value, step), True
        elif isinstance(value, (list, tuple)) and step.isdecimal() and int(step) < len(value):
            value, whole = value[int(step)], False
        elif isinstance(value, dict) and step in value:
            value, whole = value[step], False
        else:
            names = [*_fields(value), *((*loaded.classes, *loaded.macros) if i == 0 else ())]
            what = f"macro, class or field of {loaded.root.__name__} called " if i == 0 else ""
            place = ".".join(steps[: i + 1])
            raise UserError(f"{shown(loaded.path)} has no {what}{place}{suggest(step, names)}")
    if owner is None:
        raise UserError("name a macro, a parameter such as Optimizer.rate, or a place such as run.seed")
    origin, field = owner
    lines = _explain_field(loaded, key, origin.scope, type(origin.instance).__name__, field)
    return lines if whole else [f"{key} = {_named(value)}", *lines[1:]]


def _fields(value: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []


def _explain_field(loaded: Loaded, key: str, scope: str, name: str, field: str) -> list[str]:
    binding = loaded.text.winner(scope, name, field)
    if binding is None:
        return [
            f"{key} = {_shown(checks.default(loaded.classes[name], field))}",
            f"  the default of {name}",
        ]
    value = loaded.macro(binding.value.name) if _is_macro(binding) else binding.value
    return [f"{key} = {_shown(value)}", *_trail(loaded, binding)]


def _trail(loaded: Loaded, binding: Binding) -> Iterator[str]:
    """The line that won, what it replaced, and the same for the macro that it refers to."""
    while True:
        yield f"  {binding.place}: {binding.key} = {show(binding.value)}"
        for other in reversed(loaded.text.replaced_by(binding)):
            yield f"    instead of {other.place}: {other.key} = {show(other.value)}"
        if not binding.configurable and binding.parameter in loaded.axes_macros():
            yield f"    varied by {loaded.axes_binding().place}: {loaded.axes_binding().key}"
        if not _is_macro(binding):
            return
        binding = loaded.macros[binding.value.name]


def _named(value: Any) -> str:
    """A value inside of a list or a dictionary: an object by its class."""
    return f"@{type(value).__name__}()" if dataclasses.is_dataclass(value) else show(value)


def _is_macro(binding: Binding) -> bool:
    return isinstance(binding.value, Macro) and binding.value != REQUIRED


def _shown(value: Any) -> str:
    return "%gin.REQUIRED" if value is checks.REQUIRED else show(value)


def _json(value: Any) -> str:
    return "nothing" if value is _MISSING else show(value)
