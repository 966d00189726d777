"""A small ablation that names a benchmark, on local data and with a grader by rule."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from caml.cli import app
from caml.training import devices

TINY = Path(__file__).parents[1] / "ablations" / "tiny.gin"
NAMED = """
Ablation.name = 'sitting'
Ablation.axes = {
    'ARM': ['compassion', 'neutral'], 'RATIO': [0.25], 'TOKENS': [12288], 'SEED': [0, 1], 'SFT_TOKENS': [0, 8192]}
Ablation.benchmarks = (@Benchmark(),)
GRADER = 'toygrader/rule'
Benchmark.task = 'anima'
Benchmark.graders = (%GRADER,)
Benchmark.arguments = {'dataset_repo_id': 'anima'}
Benchmark.epochs = 1
Benchmark.max_tokens = 4
"""


def command(*arguments: str) -> Result:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def prepared(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.chdir(folder)
    patch.setattr(devices, "prepare_devices", lambda: None)
    patch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))
    import judging  # brings Inspect, which not every test here needs

    patch.setattr(judging.Grader, "left", None)
    patch.setattr(judging.Grader, "asked", [])
