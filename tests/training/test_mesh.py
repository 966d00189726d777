"""Members over virtual devices: bits do not depend on company, and losses are those of one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy_training as toy
from toy_training import Memory, member, run

PROGRAM = """
import json, sys
from pathlib import Path
from toy_training import Memory, member, run, same
members = [member(seed, 40) for seed in range(5)]
sink = Memory()
whole = run(members, Path(sys.argv[1]) / "whole", sink, places=6)
few = run([members[3], members[1]], Path(sys.argv[1]) / "few", Memory(), places=6)
bits = [same({k: x[i] for k, x in few.params.items()}, {k: x[m] for k, x in whole.params.items()})
        for i, m in enumerate((3, 1))]
print(json.dumps({"same": bits, "programs": few.programs, "loss": sink.column("loss").tolist()}))
"""


@pytest.mark.slow
def test_two_devices(tmp_path: Path):
    found = json.loads(
        subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path)],
            env=os.environ
            | {
                "JAX_PLATFORMS": "cpu",
                "JAX_NUM_CPU_DEVICES": "2",
                "PYTHONPATH": str(Path(toy.__file__).parent),
            },
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
    )
    assert found["same"] == [True, True]
    assert found["programs"] == 0
    sink = Memory()
    run([member(seed, 40) for seed in range(5)], tmp_path / "here", sink, places=6)
    np.testing.assert_allclose(sink.column("loss"), found["loss"], atol=1e-5)


def test_the_stacked_layout_trains_the_same_losses(tmp_path: Path):
    turn, stacked = Memory(), Memory()
    members = [member(0, 12), member(1, 6, broken=4), member(2, 12)]
    run(members, tmp_path / "turn", turn)
    found = run(members, tmp_path / "stacked", stacked, layout="stacked")
    assert found.stopped.tolist() == [-1, 4, -1]
    np.testing.assert_allclose(stacked.column("loss"), turn.column("loss"), atol=1e-5)
