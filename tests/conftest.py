"""Tests run on two virtual devices of the CPU, as a launch on a small machine does.

Set by environment variables, which jax reads when it starts: tests of rooms without jax never import it.
"""

import gc
import os
import shutil
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
# Compiled programs are kept from one run of the tests to the next: they are found by what they compute.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "programs")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
if os.environ["JAX_PLATFORMS"] != "cpu":
    # As training does it (caml/models/products.py), for tests that call its parts.
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

from collections.abc import Callable, Iterator

import pytest


def pytest_collection_finish() -> None:
    """What was imported is no garbage, and there is much of it: it isn't looked through again and again."""
    gc.set_threshold(10_000)
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a test leaves in the environment is no matter of those after it, nor of the processes that they start."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Puts an empty tracking store into an output folder: to make one takes seconds, and few tests are about it."""
    from caml.tracking.store import Store

    empty = tmp_path_factory.mktemp("store") / "mlflow.db"
    Store(f"sqlite:///{empty}", "unused")

    def put(output: Path) -> None:
        output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(empty, output / "mlflow.db")

    return put


@pytest.fixture
def compiled() -> Iterator[list[str]]:
    """Names of the programs that are compiled, or found compiled on the disk, while a test runs."""
    from jax import monitoring

    names: list[str] = []

    def heard(event: str, seconds: float, **facts: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(str(facts["fun_name"]))

    monitoring.register_event_duration_secs_listener(heard)
    yield names
    monitoring.unregister_event_duration_listener(heard)
