"""What a person sees of training that does not go as it should, and of where its time goes."""

import json
from pathlib import Path

import pytest
from whole_runs import TINY, command, manifests, run, tables


@pytest.mark.slow
def test_skipped_steps_are_told_and_a_profile_is_written(tmp_path: Path, cache: Path) -> None:
    text = TINY.read_text()
    axes = text[text.index("    {'ARM': ['base']") : text.index("]\nAblation.contrasts")]
    text = text.replace(
        axes, "    {'ARM': ['base'], 'RATIO': [0.0], 'SPIKE': [0.0, 1.2], 'SFT_TOKENS': [0, 8192]},\n"
    )
    text = text[: text.index("Ablation.contrasts")] + text[text.index("Run.model") :]
    text = text.replace("12288", "20480").replace("BaseText.tokens = 16000", "BaseText.tokens = 24000")
    text = text.replace("Ablation.control = {'ARM': 'neutral'}\n", "")
    (tmp_path / "spiking.gin").write_text(f"{text}Optimizer.spike = %SPIKE\nSPIKE = 0.0\n")
    done = run(command("run", "spiking.gin", "--profile"), tmp_path, cache)
    assert done.returncode == 0, done.stderr

    (trace,) = (tmp_path / "runs/tiny/profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    assert done.stderr.count("a profile of 2 dispatches is written") == 1 and str(trace) in done.stderr
    again = run(command("run", "spiking.gin", "--profile"), tmp_path, cache)
    assert again.returncode == 0 and "no profile was written: nothing is left to train" in again.stderr

    skipped = {name: manifest["skipped"] for name, manifest in manifests(tmp_path / "runs").items()}
    (name,) = [name for name, count in skipped.items() if count]
    assert name.startswith("pretrain-") and 0 < skipped[name] < 60
    found = tables(tmp_path / "runs")
    assert found["metrics"]["skipped"].sum() == skipped[name]
    runs = found["stageruns"].set_index("name")
    assert runs["skipped"].to_dict() == skipped
    flagged = found["report flagged"].query("reason == 'skipped steps at spikes of its gradient'")
    child = runs.index[runs["parent"] == runs.loc[name, "stagerun"]]
    assert set(flagged["name"]) == {name, *child} and len(child) == 1
    shown = run(command("show", "spiking.gin"), tmp_path, cache).stdout
    assert shown.count("skipped at spikes of the gradient norm") == 1
    assert f"{skipped[name]} steps of {name} skipped at spikes" in shown
    assert json.loads((tmp_path / "runs/ledger" / name / "manifest.json").read_text())["diverged"] is False
