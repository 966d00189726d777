"""A ledger to write, and a tracking store for each test."""

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_tracking import Trainer

from caml.tracking.ledger import Ledger


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(Ledger(tmp_path / "ledger"))


@pytest.fixture
def uri(stored: Callable[[Path], None], tmp_path: Path) -> str:
    """A new SQLite store."""
    stored(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"
