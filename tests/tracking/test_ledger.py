"""What was written is what is read, and what was damaged is named and never used."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_tracking import EVALUATION, Trainer, cut, flip, lose

from caml.config.errors import Failure
from caml.tracking import segments
from caml.tracking.ledger import PARAMS, Ledger, State
from caml.tracking.markers import Damaged

FILES = (
    "config.gin",
    "manifest.json",
    "metrics/00000010-00000020.parquet",
    "trajectory/00000010-00000020.parquet",
    PARAMS,
)


def read_everything(ledger: Ledger, name: str) -> None:
    ledger.manifest(name)
    ledger.config(name)
    ledger.params(name)
    ledger.read_segments(name, "metrics")
    ledger.read_segments(name, "trajectory")


def steps(ledger: Ledger, name: str) -> list[int]:
    return [step for part in ledger.read_segments(name, "metrics") for step in part.table["step"].to_pylist()]


def test_a_stagerun_goes_from_missing_to_complete_and_reads_back(trainer: Trainer) -> None:
    ledger = trainer.ledger
    assert ledger.state("run") is State.MISSING
    assert ledger.names() == []
    trainer.start("run")
    assert ledger.state("run") is State.STARTED
    trainer.segment("run", 0)
    trainer.segment("run", 10)
    trainer.finish("run", 20)
    assert ledger.state("run", content=True) is State.COMPLETE
    assert ledger.names() == ["run"]
    manifest = ledger.manifest("run")
    assert manifest["steps"] == 20
    assert manifest["final_loss"] == 0.5
    assert manifest["learned_at"] is None
    assert manifest["launches"] == [{"commit": "c0ffee", "dirty": False}]
    assert ledger.config("run") == "WIDTH = 32\n"
    assert np.frombuffer(ledger.params("run"), np.float32)[7] == 7
    (first, second) = ledger.read_segments("run", "metrics")
    assert second.table["step"].to_pylist() == list(range(11, 21))
    assert np.array_equal(first.table["loss"].to_numpy(), trainer.loss(range(1, 11)))
    assert ledger.read_segments("run", "trajectory")[1].table.to_pylist() == [
        {"step": 20, "tokens": 64, "outcome": "mechanism", "value": 1.0}
    ]


def test_an_untrained_stagerun_has_no_metrics(trainer: Trainer) -> None:
    trainer.start("run")
    trainer.finish("run", 0)
    assert trainer.ledger.state("run") is State.COMPLETE
    assert trainer.ledger.read_segments("run", "metrics") == []


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", [cut, flip, lose])
def test_damage_of_a_complete_stagerun_is_named_and_moved_aside(
    trainer: Trainer, file: str, damage: Callable[[Path], None]
) -> None:
    ledger = trainer.ledger
    trainer.whole("run")
    damage(ledger.folder("run") / file)
    assert ledger.state("run", content=True) is State.DAMAGED
    if damage is not flip:
        assert ledger.state("run") is State.DAMAGED
    with pytest.raises(Damaged) as caught:
        read_everything(ledger, "run")
    assert caught.value.file == ledger.folder("run") / file
    assert str(caught.value.file) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(Failure):
        trainer.start("run")
    aside = ledger.repair(caught.value.name, caught.value.evaluation)
    assert aside.name == "run.damaged-1"
    assert ledger.state("run") is State.MISSING
    trainer.whole("run")
    assert ledger.state("run", content=True) is State.COMPLETE
    assert ledger.repair("run").name == "run.damaged-2"
    assert ledger.names() == []


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_marker_vouches_for_nothing(trainer: Trainer, damage: Callable[[Path], None]) -> None:
    trainer.whole("run")
    damage(trainer.ledger.folder("run") / "complete.json")
    if damage is cut:  # the last byte is the newline, which says nothing
        cut(trainer.ledger.folder("run") / "complete.json")
    assert trainer.ledger.state("run") is State.DAMAGED
    with pytest.raises(Damaged, match=r"complete\.json"):
        trainer.ledger.params("run")


def test_without_its_marker_a_stagerun_is_not_complete(trainer: Trainer) -> None:
    trainer.whole("run")
    (trainer.ledger.folder("run") / "complete.json").unlink()
    assert trainer.ledger.state("run") is State.STARTED
    with pytest.raises(Failure, match="not complete"):
        trainer.ledger.params("run")


@pytest.mark.parametrize("file", ["margins.parquet", "outcomes.json", "complete.json"])
@pytest.mark.parametrize("damage", [cut, flip, lose])
def test_damage_of_an_evaluation_is_named_and_moved_aside(
    trainer: Trainer, file: str, damage: Callable[[Path], None]
) -> None:
    ledger = trainer.ledger
    trainer.whole("run")
    path = ledger.folder("run") / "evals" / EVALUATION / file
    damage(path)
    if damage is cut:
        cut(path)
    state = ledger.evaluation_state("run", EVALUATION, content=True)
    if (file, damage) == ("complete.json", lose):
        assert state is State.STARTED
        with pytest.raises(Failure, match="not complete"):
            ledger.read_evaluation("run", EVALUATION)
        return
    assert state is State.DAMAGED
    with pytest.raises(Damaged) as caught:
        ledger.read_evaluation("run", EVALUATION)
    assert caught.value.file == path
    assert ledger.state("run", content=True) is State.COMPLETE, "the training is untouched"
    ledger.repair(caught.value.name, caught.value.evaluation)
    assert ledger.evaluation_state("run", EVALUATION) is State.MISSING
    trainer.evaluate("run")
    assert ledger.evaluation_state("run", EVALUATION, content=True) is State.COMPLETE
    assert ledger.evaluations("run") == [EVALUATION]


def test_an_evaluation_of_other_parameters_is_refused(trainer: Trainer) -> None:
    ledger = trainer.ledger
    trainer.whole("run")
    kept = ledger.folder("run") / "evals"
    shutil.copytree(kept, ledger.root / ".kept")
    ledger.repair("run")
    trainer.start("run")
    path = ledger.params_path("run")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    ledger.complete("run", 0, {})
    shutil.copytree(ledger.root / ".kept", kept)
    assert ledger.evaluation_state("run", EVALUATION) is State.DAMAGED
    with pytest.raises(Damaged, match="other parameters"):
        ledger.read_evaluation("run", EVALUATION)


def change_a_loss(path: Path) -> None:
    """A file that is well-formed in everything but what it says of its own content."""
    table = pq.read_table(path)
    loss = table["loss"].to_numpy().copy()
    loss[3] += 1e-9
    changed = table.set_column(table.column_names.index("loss"), "loss", pa.array(loss))
    pq.write_table(changed, path)


@pytest.mark.parametrize("damage", [cut, change_a_loss, lose])
def test_a_resume_on_a_damaged_segment_is_refused(trainer: Trainer, damage: Callable[[Path], None]) -> None:
    trainer.start("run")
    for begin in (0, 10, 20):
        trainer.segment("run", begin)
    lost = trainer.ledger.folder("run") / "metrics/00000010-00000020.parquet"
    damage(lost)
    with pytest.raises(Damaged, match=lost.name):
        trainer.start("run", 30)
    with pytest.raises(Damaged, match=lost.name):
        trainer.finish("run", 30)
    trainer.start("run", 10)  # from before the damage it goes
    trainer.segment("run", 10)
    trainer.finish("run", 20)
    assert steps(trainer.ledger, "run") == list(range(1, 21))


def test_an_overshot_stagerun_does_not_complete(trainer: Trainer) -> None:
    trainer.start("run")
    trainer.segment("run", 0)
    trainer.segment("run", 10)
    for end in (10, 30):
        with pytest.raises(Damaged, match="metrics"):
            trainer.finish("run", end)
    trainer.finish("run", 20)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 4)), max_size=5))
def test_however_often_it_is_killed_no_step_is_there_twice(
    tmp_path_factory: pytest.TempPathFactory, launches: list[tuple[int, int]]
) -> None:
    trainer = Trainer(Ledger(tmp_path_factory.mktemp("ledger")))
    reached = 0
    for segments_written, lost in launches:  # a launch writes segments, and dies some after its checkpoint
        trainer.start("run", reached * 10)
        for number in range(reached, reached + segments_written):
            trainer.segment("run", number * 10)
        reached = max(reached, reached + segments_written - lost)
    trainer.start("run", reached * 10)
    trainer.segment("run", reached * 10)
    trainer.finish("run", reached * 10 + 10)
    assert steps(trainer.ledger, "run") == list(range(1, reached * 10 + 11))
    assert len(trainer.ledger.read_segments("run", "trajectory")) == reached + 1


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_a_flipped_bit_of_a_segment_is_found_or_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    columns = {"step": [1, 2, 3], "loss": [0.5, float("nan"), -0.0], "outcome": ["a", "b", "c"]}
    path = segments.write(folder, 0, 3, columns)
    content = bytearray(path.read_bytes())
    whole = segments.decode(segments.parse(path), bytes(content))
    assert whole is not None
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    read = segments.decode(segments.parse(path), bytes(content))
    if read is not None:
        assert read.written == whole.written
        assert str(read.table) == str(whole.table)


def test_a_segment_under_another_name_is_not_taken_for_what_it_covers(trainer: Trainer) -> None:
    trainer.start("run")
    trainer.segment("run", 0)
    folder = trainer.ledger.folder("run") / "metrics"
    shutil.copy(folder / "00000000-00000010.parquet", folder / "00000010-00000020.parquet")
    with pytest.raises(Damaged, match=r"00000010-00000020\.parquet"):
        trainer.start("run", 20)


def test_rows_outside_their_segment_are_refused(tmp_path: Path) -> None:
    for steps_written in ([5, 11], [7, 6], []):
        with pytest.raises(ValueError, match="segment"):
            segments.write(tmp_path, 0, 10, {"step": steps_written, "loss": [0.0] * len(steps_written)})
    assert list(tmp_path.iterdir()) == []


def test_another_stagerun_does_not_get_the_folder(trainer: Trainer) -> None:
    trainer.start("run")
    with pytest.raises(Failure, match=r"run holds the StageRun 0000"):
        trainer.ledger.start("run", "", {"fingerprint": "f" * 64}, {})


def test_each_launch_with_other_code_is_kept(trainer: Trainer) -> None:
    trainer.start("run")
    begun = trainer.ledger.manifest("run")["started"]
    trainer.start("run")
    fingerprint = trainer.ledger.manifest("run")["fingerprint"]
    trainer.ledger.start("run", "", {"fingerprint": fingerprint}, {"commit": "beef", "dirty": True})
    manifest = trainer.ledger.manifest("run")
    assert [launch["commit"] for launch in manifest["launches"]] == ["c0ffee", "beef"]
    assert manifest["started"] == begun


@pytest.mark.parametrize("name", ["", "..", "a/b", "/a", ".hidden", "a\nb"])
def test_a_name_stays_in_the_ledger(trainer: Trainer, name: str) -> None:
    with pytest.raises(Failure, match="cannot name"):
        trainer.ledger.folder(name)


def test_what_a_killed_launch_left_half_written_is_not_part_of_it(trainer: Trainer) -> None:
    trainer.start("run")
    trainer.segment("run", 0)
    (trainer.ledger.folder("run") / "metrics" / ".00000010-00000020.parquet.1.part").write_bytes(b"half")
    trainer.finish("run", 10)
    assert len(list((trainer.ledger.folder("run") / "metrics").iterdir())) == 1
