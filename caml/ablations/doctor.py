"""Whether this installation works: each part is tried for real, on something small."""

import importlib.metadata
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np


def examine() -> Iterator[tuple[str, str, bool]]:
    """Name, what was found, and whether it is fine, one after the other."""
    checks: tuple[tuple[str, Callable[[], str]], ...] = (
        ("python", lambda: sys.version.split()[0]),
        ("packages", _packages),
        ("devices", _devices),
        ("training step", _step),
        ("checkpoint", _checkpoint),
        ("tracking store", _tracking),
        ("benchmarks", _benchmarks),
        ("writing here", _writing),
    )
    for name, check in checks:
        # Whatever breaks is the finding.
        try:
            yield name, check(), True
        except Exception as error:
            yield name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}", False


def _packages() -> str:
    from caml.tracking.provenance import provenance

    found = provenance()["packages"]
    lacking = [name for name, version in found.items() if version == "not installed"]
    if lacking:
        raise ImportError(f"not installed: {', '.join(lacking)}")
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _devices() -> str:
    from caml.training.devices import prepare_devices

    prepare_devices()
    import jax

    return f"{len(jax.devices())} x {jax.devices()[0].device_kind} ({jax.default_backend()})"


def _step() -> str:
    import jax.numpy as jnp

    from caml.models.sizes import Model
    from caml.models.transformer import init_parameters
    from caml.training.step import Batch, loss_and_gradients

    model = Model("tiny", 16, 1, 2, 2, 8, 32)
    tokens = np.arange(32, dtype=np.int32).reshape(2, 16)
    ones = np.ones_like(tokens)
    batch = Batch(tokens, ones, np.broadcast_to(np.arange(16), tokens.shape), ones.astype(np.float32))
    params = {name: jnp.asarray(x) for name, x in init_parameters(model, 64, 0).items()}
    loss = float(loss_and_gradients(params, model, batch)[0])
    if not abs(loss - np.log(64)) < 0.2:
        raise ArithmeticError(
            f"the loss of an untrained model is {loss:.3f} nats, not about {np.log(64):.3f}"
        )
    return f"loss {loss:.3f} nats"


def _checkpoint() -> str:
    from caml.training.checkpoints import Checkpoints

    with tempfile.TemporaryDirectory() as folder:
        tree = {"x": np.arange(4.0, dtype=np.float32)}
        checkpoints = Checkpoints(Path(folder), {"is": "doctor"})
        checkpoints.save(1, tree, {"row": np.arange(2)})
        checkpoints.wait()
        step, found, beside, _ = checkpoints.newest(tree)
        if step != 1 or not np.array_equal(found["x"], tree["x"]) or beside["row"].tolist() != [0, 1]:
            raise OSError("a checkpoint came back altered")
    return "written and restored"


def _tracking() -> str:
    from caml.tracking.store import Store

    with tempfile.TemporaryDirectory() as folder:
        Store(f"sqlite:///{folder}/mlflow.db", "doctor")
    return "a new SQLite store opens"


def _benchmarks() -> str:
    """Inspect is an extra: without it all but benchmarks works."""
    try:
        versions = {name: importlib.metadata.version(name) for name in ("inspect_ai", "inspect_evals")}
    except importlib.metadata.PackageNotFoundError:
        return "Inspect is not installed, which only they need: pip install 'caml[evals]'"
    if not any(
        found.dist and found.dist.name == "caml"
        for found in importlib.metadata.entry_points(group="inspect_ai")
    ):
        raise ImportError("Inspect does not find caml's models: install caml again")
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _writing() -> str:
    with tempfile.NamedTemporaryFile(dir=".") as file:
        file.write(b"x")
    return str(Path.cwd())
