"""Checkpoints: what is damaged is named and never used; parameters survive a round trip in safetensors."""

import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from caml.config.errors import Failure
from caml.config.fingerprint import canonical
from caml.data.files import digest_bytes
from caml.training.checkpoints import MARKER, Checkpoints, save_parameters

TREE = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": (np.int32(7) * np.ones(2, np.int32),)}
EMPTY = jax.tree.map(np.zeros_like, TREE)


def written(folder: Path, *steps: int, keep: int = 2) -> Checkpoints:
    """Checkpoints of `steps`, each of TREE plus its step."""
    checkpoints = Checkpoints(folder, {"members": ["x"]}, keep)
    for step in steps:
        tree = jax.tree.map(lambda x, step=step: jax.numpy.asarray(x + step), TREE)
        checkpoints.save(step, tree, {"row": np.array([0.1, np.nan, step])})
    checkpoints.wait()
    return checkpoints


def newest(folder: Path) -> tuple[int, list[str]]:
    """Step and complaints, after a check that the tree is the step's own."""
    step, tree, beside, passed_over = Checkpoints(folder, {"members": ["x"]}).newest(EMPTY)
    row = np.array([0.1, np.nan, step])
    assert beside.keys() == ({"row"} if step else set()) and (
        not step or beside["row"].tobytes() == row.tobytes()
    )
    for found, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(TREE if step else EMPTY), strict=True):
        assert found.dtype == wanted.dtype
        assert (found == wanted + np.asarray(step, wanted.dtype)).all()
    return step, passed_over


def test_the_newest_are_kept_and_the_newest_is_found(tmp_path: Path):
    written(tmp_path, 4, 8, 12)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["00000008", "00000012"]
    assert newest(tmp_path) == (12, [])


def test_without_any_training_starts_at_0(tmp_path: Path):
    assert newest(tmp_path / "none") == (0, [])


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_no_damaged_file_is_ever_used(tmp_path: Path, damage: str):
    written(tmp_path, 4, 8)
    names = [path.relative_to(tmp_path) for path in files_of(tmp_path / "00000008")]
    assert Path("00000008", MARKER) in names
    rng = random.Random(damage)
    for name in names:
        path = tmp_path / name
        before = path.read_bytes()
        if damage == "flip":
            at = rng.randrange(len(before))
            path.write_bytes(before[:at] + bytes([before[at] ^ 1 << rng.randrange(8)]) + before[at + 1 :])
        elif damage == "cut":
            path.write_bytes(before[: rng.randrange(len(before))])
        else:
            path.unlink()
        step, passed_over = newest(tmp_path)
        assert step == 4, name
        unmarked = damage == "remove" and name.name == MARKER
        assert len(passed_over) == (0 if unmarked else 1)
        assert all("00000008 is not used" in line and name.name in line for line in passed_over)
        path.write_bytes(before)
    assert newest(tmp_path) == (8, [])


def test_one_of_an_earlier_version_is_not_used(tmp_path: Path):
    written(tmp_path, 4)
    marker = tmp_path / "00000004" / MARKER
    body = json.loads(marker.read_bytes())["body"]
    del body["beside"]
    marker.write_text(json.dumps({"body": body, "sha256": digest_bytes(canonical(body).encode())}))
    assert newest(tmp_path) == (0, [f"{marker.parent} is not used: an earlier version wrote it"])
    # What is written then is kept, though an earlier step, and what was passed over goes.
    written(tmp_path, 2)
    assert newest(tmp_path) == (2, [])


def test_a_marker_moved_to_another_step_is_not_believed(tmp_path: Path):
    written(tmp_path, 4)
    (tmp_path / "00000004").rename(tmp_path / "00000009")
    assert newest(tmp_path)[0] == 0


def test_another_populations_checkpoint_is_refused_by_what_differs(tmp_path: Path):
    written(tmp_path, 4)
    with pytest.raises(
        Failure, match=r"members is \['x'\] there and \['y'\] here; without the folder .* begins anew"
    ):
        Checkpoints(tmp_path, {"members": ["y"]}).newest(EMPTY)


def test_what_a_kill_left_is_cleared_by_the_next(tmp_path: Path):
    (tmp_path / "00000002" / "state").mkdir(parents=True)
    written(tmp_path, 4)
    assert [folder.name for folder in tmp_path.iterdir()] == ["00000004"]


def test_a_checkpoint_that_cannot_be_written_is_a_failure(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Failure, match="could not be written"):
        written(tmp_path / "file", 4)


def test_parameters_come_back_and_open_anywhere(tmp_path: Path):
    params = {"model.norm.weight": np.ones(3, np.float32), "lm_head.weight": np.eye(3, dtype=np.float32)[::2]}
    path = tmp_path / "model.safetensors"
    save_parameters(path, params)
    found = load_file(path)
    assert found.keys() == params.keys() and all((found[name] == params[name]).all() for name in params)
    header = path.read_bytes()[8:]
    assert json.JSONDecoder().raw_decode(header.decode("latin1"))[0]["__metadata__"] == {"format": "pt"}
