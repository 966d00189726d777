"""Identity of a configured value: canonical JSON without its runtime fields, and a digest of it."""

import dataclasses
import hashlib
import json
import math
from typing import Any

# Raised when a change of code changes results: StageRuns of an older version are then trained again. A layout that
# tells itself (caml/training/layouts.py) is told beside it.
NUMERICS_VERSION = 5


def runtime(default: Any = dataclasses.MISSING, **kwargs: Any) -> Any:
    """A dataclass field that says where or how fast something runs, not what it is: outside the identity."""
    return dataclasses.field(default=default, metadata={"runtime": True}, **kwargs)


def is_runtime(cls: type, name: str) -> bool:
    """Whether the field `name` of a dataclass is outside the identity."""
    return bool(cls.__dataclass_fields__[name].metadata.get("runtime"))  # type: ignore[attr-defined]


def identity(value: Any) -> Any:
    """Plain JSON data that says what `value` is.

    Dataclasses become `{"is": class name, field: ...}` without their runtime fields. Raises TypeError
    for a value without a stable form (a function, an array, a set, NaN): nothing falls back to `str`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            f.name: identity(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if not is_runtime(type(value), f.name)
        }
        return {"is": type(value).__name__, **fields}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{value} has no stable form")
        return value
    if isinstance(value, (list, tuple)):
        return [identity(v) for v in value]
    if isinstance(value, dict):
        if not all(isinstance(k, str) for k in value):
            raise TypeError("a dictionary in an identity has text keys")
        return {k: identity(v) for k, v in value.items()}
    raise TypeError(f"{type(value).__name__} has no stable form: {value!r}")


def canonical(value: Any) -> str:
    """The identity of `value` as JSON text that depends on nothing but the identity."""
    return json.dumps(
        identity(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def fingerprint(value: Any) -> str:
    """SHA-256 of `canonical(value)`, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()
