"""Writing files so that a kill leaves the old content or the new, never half; and digests of files."""

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes, durable: bool = True) -> None:
    """Write `data` to `path` in one step: a reader sees the old content or all of the new.

    Without `durable` that holds when the process is killed, but not when the power fails: for many small
    files whose digests are kept elsewhere, as waiting for the disk costs milliseconds a file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.part")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        error.filename = str(path)  # a full disk names no file
        raise
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str, durable: bool = True) -> None:
    """Write `text` as UTF-8 to `path` in one step."""
    write_bytes(path, text.encode(), durable)


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write `value` as indented JSON to `path` in one step."""
    write_text(path, json_text(value), durable)


def json_text(value: Any) -> str:
    """The text that `write_json` writes for `value`."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def digest_bytes(data: bytes) -> str:
    """SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of the content of the file at `path` in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
