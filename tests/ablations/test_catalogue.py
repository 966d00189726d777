"""What settings make of an ablation: another one, where they change what it trains or states."""

from pathlib import Path

import pytest
from whole_runs import TINY

from caml.ablations.catalogue import load_ablation
from caml.ablations.grid import cells
from caml.ablations.places import places
from caml.config.explain import explain


@pytest.mark.parametrize(
    "settings, name",
    [
        ([], "tiny"),
        (["OUTPUT=elsewhere", "CHECKPOINT_SECONDS=1.5"], "tiny"),
        (["OVER=2"], "tiny"),
        (["ARM=compassion", "SEED=[0]"], "tiny"),
        (["PEAK=0.003"], "tiny"),
        (["PEAK=0.001"], "tiny+peak=0.001"),
        (["PEAK=0.001", "OUTPUT=elsewhere", "SEED=0", "DECAY=0.5"], "tiny+decay=0.5,peak=0.001"),
        (["DECAY=0"], "tiny+decay=0"),
        (["DECAY=0.0"], "tiny+decay=0"),
        (["PEAK=@rate/Thing()"], ""),
    ],
)
def test_settings_that_change_the_study_give_it_a_name_of_its_own(
    tmp_path: Path, settings: list[str], name: str
) -> None:
    file = tmp_path / "mine.gin"
    text = TINY.read_text().replace("Optimizer.rate = 0.003", "Optimizer.rate = %PEAK")
    text += "OVER = 1\nAblation.execution = @Execution()\nExecution.fsdp = %OVER\n"
    file.write_text(f"{text}PEAK = 0.003\nDECAY = 0.2\nSchedule.decay = %DECAY\n")
    if not name:
        with pytest.raises(Exception, match="there is no Thing"):
            load_ablation(file, settings)
        return
    loaded = load_ablation(file, settings)
    assert loaded.tree.name == name and places(loaded.tree).folder.name == name
    assert len(cells(loaded)) > 0
    assert load_ablation(file, settings).as_written().tree.name == "tiny"
    if "+" in name and not loaded.restrictions:
        assert explain(loaded, "Ablation.name")[1] == f"  --set: Ablation.name = '{name}'"


def test_a_setting_that_no_folder_takes_is_told_by_a_digest(tmp_path: Path) -> None:
    file = tmp_path / "mine.gin"
    file.write_text(
        TINY.read_text().replace("name = 'compassion against neutral'", "name = %SAID\nSAID = ''")
    )
    loads = [load_ablation(file, [f"SAID={value!r}"]) for value in ("a b", "a/b", "x" * 150, "y" * 150)]
    assert len({loaded.tree.name for loaded in loads}) == 4
    for loaded in loads:
        assert loaded.tree.name.startswith("tiny+said=") and len(loaded.tree.name) <= 100
        assert cells(loaded)
