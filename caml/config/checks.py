"""Whether a value fits the annotation of a field, and what would."""

import dataclasses
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

NUMBERS = {int: "a whole number", float: "a number", bool: "True or False", str: "text in quotes"}


class REQUIRED:
    """Stands where a file says %gin.REQUIRED and nothing was bound."""


class Misfit(Exception):
    """A value that its field cannot take; `path` leads to it through lists and dictionaries."""

    def __init__(self, path: tuple[Any, ...], message: str):
        super().__init__(message)
        self.path = path
        self.message = message


@functools.cache
def annotations(cls: type) -> dict[str, Any]:
    """The annotation of each field of a dataclass that a configuration can bind."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


@functools.cache
def required(cls: type) -> tuple[str, ...]:
    """The fields of a dataclass that have no default."""
    missing = dataclasses.MISSING
    return tuple(
        f.name
        for f in dataclasses.fields(cls)
        if f.init and f.default is missing and f.default_factory is missing
    )


def default(cls: type, name: str) -> Any:
    """The default of a field that has one."""
    field = cls.__dataclass_fields__[name]  # type: ignore[attr-defined]
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()


def fit(value: Any, kind: Any, path: tuple[Any, ...] = ()) -> Any:
    """`value` as a field annotated `kind` takes it: an int becomes a float there, a list a tuple.

    Raises Misfit for another type, a bool where a number is wanted, NaN, infinity and %gin.REQUIRED.
    """
    if value is REQUIRED:
        raise Misfit(path, "has no value yet; bind one")
    if isinstance(value, float) and not math.isfinite(value):
        raise Misfit(path, f"{value} is not a finite number")
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return _fit_anything(value, path)
    if origin in (typing.Union, types.UnionType):
        return _fit_union(value, kind, arguments, path)
    if origin is typing.Literal and any(value == a and type(value) is type(a) for a in arguments):
        return value
    if origin is typing.Annotated:
        return fit(value, arguments[0], path)
    if (origin or kind) in (tuple, list, Sequence) and isinstance(value, (tuple, list)):
        return _fit_items(value, kind, origin or kind, arguments, path)
    if (origin or kind) in (dict, Mapping) and isinstance(value, dict):
        key_kind, item_kind = arguments or (Any, Any)
        return {fit(k, key_kind, (*path, k)): fit(v, item_kind, (*path, k)) for k, v in value.items()}
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max:
            raise Misfit(path, f"{str(value)[:12]}... is too large for a number")
        return float(value)
    if kind is None or kind is type(None):
        if value is None:
            return None
    elif isinstance(kind, type) and origin is None and not (kind is int and isinstance(value, bool)):
        members = _members(kind)
        if isinstance(value, kind) if members is None else dataclasses.is_dataclass(value):
            missing = [name for name in sorted(members or ()) if not hasattr(value, name)]
            if not missing:
                return value
            raise Misfit(
                path, f"@{type(value).__name__}() has no {missing[0]}; {describe(kind)} belongs here"
            )
    raise Misfit(path, f"{_named(value)}; {describe(kind)} belongs here")


def describe(kind: Any) -> str:
    """An annotation in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in NUMBERS:
        return NUMBERS[kind]
    if kind is None or kind is type(None):
        return "None"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in arguments)
    if origin is typing.Literal:
        return " or ".join(repr(a) for a in arguments)
    if (origin or kind) in (tuple, list, Sequence):
        items = [describe(a) for a in arguments if a not in (Ellipsis, Any)]
        return f"a list ({', '.join(items)}{', ...' if Ellipsis in arguments else ''})" if items else "a list"
    if (origin or kind) in (dict, Mapping):
        return "a dictionary"
    if isinstance(kind, type) and _members(kind) is not None:
        return f"a {kind.__name__}"
    return f"@{kind.__name__}()" if isinstance(kind, type) else str(kind)


def _fit_anything(value: Any, path: tuple[Any, ...]) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(fit(v, Any, (*path, i)) for i, v in enumerate(value))
    if isinstance(value, dict):
        return {k: fit(v, Any, (*path, k)) for k, v in value.items()}
    return value


def _fit_union(value: Any, kind: Any, arguments: tuple[Any, ...], path: tuple[Any, ...]) -> Any:
    misfits = []
    for argument in sorted(arguments, key=lambda a: type(value) is not a):  # an int stays one in int | float
        try:
            return fit(value, argument, path)
        except Misfit as misfit:
            misfits.append(misfit)
    inner = [m for m in misfits if len(m.path) > len(path)]
    raise inner[0] if inner else Misfit(path, f"{_named(value)}; {describe(kind)} belongs here")


def _fit_items(value: Any, kind: Any, origin: Any, arguments: tuple[Any, ...], path: tuple[Any, ...]) -> Any:
    if origin is tuple and arguments and arguments[-1] is not Ellipsis:
        if len(value) != len(arguments):
            raise Misfit(path, f"a list of {len(value)}; {describe(kind)} belongs here")
        kinds = list(arguments)
    else:
        kinds = [arguments[0] if arguments else Any] * len(value)
    items = (fit(v, k, (*path, i)) for i, (v, k) in enumerate(zip(value, kinds, strict=True)))
    return list(items) if origin is list else tuple(items)


@functools.cache
def _members(kind: type) -> frozenset[str] | None:
    """The attributes and methods that a protocol asks for; None for any other class."""
    if not getattr(kind, "_is_protocol", False):
        return None
    parts = [c for c in kind.__mro__ if getattr(c, "_is_protocol", False) and c is not typing.Protocol]
    names = {name for c in parts for name in (*vars(c), *inspect.get_annotations(c))}
    return frozenset(name for name in names if not name.startswith("_"))


def _named(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "None is no value here"
    if isinstance(value, bool):
        return f"{value} is a flag"
    if isinstance(value, str):
        return f"{value[:40]!r} is text"
    if isinstance(value, (int, float)):
        return f"{value} is a number" if isinstance(value, int) else f"{value} is written with a fraction"
    if isinstance(value, (list, tuple)):
        return "this is a list"
    if isinstance(value, dict):
        return "this is a dictionary"
    return f"@{type(value).__name__}() does not fit"
