"""Files of results: written in one step, and held against their digests."""

import hashlib
import json
import os
from pathlib import Path

from caml.config.errors import Failure

DIGESTS = "digests.json"


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step: a reader sees the old content or all of the new."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def verify(folder: Path) -> dict[str, str]:
    """Compare every file that `digests.json` names with its digest; returns them. Raises Failure by name."""
    try:
        digests = json.loads((folder / DIGESTS).read_text())
    except FileNotFoundError:
        raise Failure(
            f"{folder} holds no {DIGESTS}, or the writing stopped: `caml report` writes it anew"
        ) from None
    except ValueError:
        raise Failure(f"{folder / DIGESTS} is damaged: `caml report` writes it anew") from None
    if not isinstance(digests, dict):
        raise Failure(f"{folder / DIGESTS} is damaged: `caml report` writes it anew")
    for name, expected in digests.items():
        path = folder / name
        if not path.is_file():
            raise Failure(f"{path} is missing: `caml report` writes it anew")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise Failure(f"{path} is not the file that was written: `caml report` writes it anew")
    return digests


def write_digests(folder: Path, digests: dict[str, str]) -> None:
    """Write `digests.json`: file name below `folder` -> SHA-256."""
    replace_file(folder / DIGESTS, (json.dumps(digests, indent=1) + "\n").encode())
