"""Checkpoints: Orbax for a population in flight, safetensors for the final parameters of a member.

Orbax can name an empty step the latest and restores a flipped bit without complaint, so a checkpoint
exists here when our own marker does: it is written last and holds a digest of every file.
"""

import errno
import json
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save as save_tensors

from caml.config.errors import Failure
from caml.config.fingerprint import canonical
from caml.data.files import digest_bytes, digest_file, write_bytes, write_json

MARKER = "marker.json"
# Bytes that must be free beside twice the state: what Orbax writes around it.
ROOM = 1 << 20
# Before the names of arrays that are kept beside the tree.
BESIDE = "beside."
# Read by `transformers` to know the layout of the arrays.
METADATA = {"format": "pt"}


def save_parameters(path: Path, params: Mapping[str, Any]) -> None:
    """Write parameters by name to the safetensors file `path`, in one step.

    Not forced to the disk: whoever vouches for the file keeps its digest.
    """
    arrays = {name: np.ascontiguousarray(params[name]) for name in sorted(params)}
    write_bytes(path, save_tensors(arrays, METADATA), durable=False)


def _orbax() -> Any:
    """Orbax, imported where it is used: a second and more that most commands would wait for in vain.

    What goes wrong in its threads is raised to us; it need not tell of it in tracebacks as well.
    """
    import orbax.checkpoint as orbax
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    return orbax


def _names(tree: Any) -> list[str]:
    """A name for each leaf of the tree, in the order of its leaves."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [jax.tree_util.keystr(path, simple=True, separator=".") for path, _ in paths]


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path != folder / MARKER
    )


class Checkpoints:
    """The checkpoints of one population in `folder`, of which the newest `keep` stay.

    `identity` (JSON data) says whose they are: a checkpoint of something else raises Failure.
    """

    def __init__(self, folder: Path, identity: Any, keep: int = 2):
        self._folder, self._keep = folder, keep
        self._identity = json.loads(canonical(identity))
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def newest(self, like: Any) -> tuple[int, Any, dict[str, np.ndarray], list[str]]:
        """Step, tree (numpy arrays, structured as `like`), what was kept beside it, and what is wrong with others.

        Step 0 and `like` itself where there is none. The last names each damaged checkpoint in a line.
        """
        passed_over = []
        for folder in reversed(self._finished()):
            body, wrong = self._check(folder)
            if wrong:
                passed_over.append(f"{folder} is not used: {wrong}")
                continue
            if body["identity"] != self._identity:
                raise Failure(
                    f"{folder} is of another population, or of the same laid out differently; "
                    f"{_difference(body['identity'], self._identity)}; without the folder {folder.parent} it begins "
                    "anew"
                )
            return body["step"], *self._restore(folder, like, body["beside"]), passed_over
        return 0, like, {}, passed_over

    def save(self, step: int, tree: Any, beside: Mapping[str, np.ndarray]) -> None:
        """Begin to write the checkpoint of `step`; a checkpoint still being written is waited for first.

        The tree's arrays are copied on their devices at once, so the caller may donate its own. `beside`: arrays of the
        host that are kept with it.
        """
        self.wait()
        copies: dict[str, Any] = dict(zip(_names(tree), map(jnp.copy, jax.tree.leaves(tree)), strict=True))
        copies |= {BESIDE + name: array for name, array in beside.items()}
        self._thread = threading.Thread(target=self._write, args=(step, copies), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Return when the checkpoint under way exists; raises Failure where it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            why = "no space left on the disk" if "No space left" in str(error) else str(error).splitlines()[0]
            raise Failure(f"the checkpoint in {self._folder} could not be written: {why}") from error

    def _write(self, step: int, copies: dict[str, Any]) -> None:
        try:
            orbax = _orbax()
            folder = (self._folder / f"{step:08d}").resolve()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            # Orbax's own threads tell of a full disk in many tracebacks: they are not begun then.
            needed = 2 * sum(array.nbytes for array in copies.values()) + ROOM
            if shutil.disk_usage(folder).free < needed:
                raise OSError(errno.ENOSPC, "No space left on device")
            # Floats of training shrink by a fourteenth, for a third of what writing them takes of a processor.
            handler = orbax.PyTreeCheckpointHandler(use_compression=False)
            orbax.Checkpointer(handler).save(folder / "state", copies)
            body = {
                "step": step,
                "identity": self._identity,
                "beside": [name.removeprefix(BESIDE) for name in copies if name.startswith(BESIDE)],
                "files": {name: digest_file(folder / name) for name in _files(folder)},
            }
            write_json(folder / MARKER, {"body": body, "sha256": digest_bytes(canonical(body).encode())})
            self._retire(step)
        # The caller's thread raises it at its next call.
        except BaseException as error:
            self._error = error

    def _finished(self) -> list[Path]:
        """Folders with a marker, oldest step first."""
        if not self._folder.is_dir():
            return []
        return sorted(folder for folder in self._folder.iterdir() if (folder / MARKER).is_file())

    def _retire(self, step: int) -> None:
        """Remove all but the newest up to `step`, and what a kill left half written.

        What lies past the step just written was passed over.
        """
        kept = [folder for folder in self._finished() if folder.name <= f"{step:08d}"][-self._keep :]
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder not in kept:
                # Without its marker first: a kill in between must not leave a checkpoint with holes.
                (folder / MARKER).unlink(missing_ok=True)
                shutil.rmtree(folder)

    def _check(self, folder: Path) -> tuple[dict, str]:
        """The marker's content, and in a few words what is wrong with the checkpoint ('' if nothing is)."""
        try:
            marker = json.loads((folder / MARKER).read_bytes())
            body = marker["body"]
            whole = marker["sha256"] == digest_bytes(canonical(body).encode())
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole or f"{body['step']:08d}" != folder.name:
            return {}, f"{MARKER} was altered"
        if "beside" not in body:
            return {}, "an earlier version wrote it"
        found = _files(folder)
        for name, digest in body["files"].items():
            if name not in found:
                return {}, f"{name} is missing"
            if digest_file(folder / name) != digest:
                return {}, f"{name} was altered"
        return body, ""

    def _restore(self, folder: Path, like: Any, beside: list[str]) -> tuple[Any, dict[str, np.ndarray]]:
        orbax = _orbax()
        names = _names(like)
        as_numpy = {
            name: orbax.RestoreArgs(restore_type=np.ndarray)
            for name in [*names, *(BESIDE + name for name in beside)]
        }
        found = orbax.PyTreeCheckpointer().restore(folder.resolve() / "state", restore_args=as_numpy)
        tree = jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in names])
        return tree, {name: found[BESIDE + name] for name in beside}


def _difference(found: Any, wanted: Any) -> str:
    """Where two identities differ, in a few words."""
    keys = [key for key in wanted if found.get(key) != wanted[key]]
    return "; ".join(f"{key} is {found.get(key)} there and {wanted[key]} here" for key in keys)[:400]
