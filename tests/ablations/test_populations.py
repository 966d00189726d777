"""Populations: planned from the whole ablation, trained into the ledger, realised counts as training saw them."""

import dataclasses
import json
import shutil
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from whole_runs import TINY, manifests, parameters

from caml.ablations import making, runner, trainer
from caml.ablations.catalogue import load_ablation
from caml.ablations.condition import study_of
from caml.ablations.grid import cells, used_stageruns
from caml.ablations.inflight import CHECKPOINTS, recorded_members
from caml.ablations.places import places
from caml.ablations.populations import Population, depth, plan
from caml.ablations.prepare import Stores
from caml.ablations.progress import Advance, Stopped
from caml.ablations.runs import StageRun
from caml.data.mixture import Batch, StageData
from caml.evals.evaluation import Evaluator
from caml.tracking.ledger import Ledger
from caml.training import layouts, loop


class Silence:
    """Shows nothing, and remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        yield lambda done, note: None


@pytest.fixture(scope="module")
def tiny() -> list[StageRun]:
    return used_stageruns(cells(load_ablation(TINY)))


@pytest.mark.parametrize("members", [0, 1, 2, 3, 4, 5, 100])
def test_every_stagerun_is_in_one_population_after_its_parent(members: int, tiny: list[StageRun]) -> None:
    planned = plan(tiny, members)
    placed = [member for population in planned for member in population.members]
    assert len(placed) == len(set(placed)) == len(tiny)
    when = {member: i for i, population in enumerate(planned) for member in population.members}
    for population in planned:
        assert len({(depth(m), m.model, m.stage.batch, m.stage.length) for m in population.members}) == 1
        assert len({m.steps == 0 for m in population.members}) == 1
        assert len(population.members) <= (members or 12)
        alike = [p for p in planned if p.of and (depth(p.members[0]), p.members[0].steps > 0) ==
                 (depth(population.members[0]), population.members[0].steps > 0)]  # fmt: skip
        assert population.of == sum(len(p.members) for p in alike)
        assert all(when[m.parent] < when[m] for m in population.members if m.parent)
    assert len({population.name for population in planned}) == len(planned)


def test_members_of_a_population_have_one_tokenizer_and_are_scored_in_one_length(tmp_path: Path) -> None:
    text = TINY.read_text().replace("vocabulary = 128", "vocabulary = %WORDS")
    text = text.replace("SEED = 0\n", "SEED = 0\nWORDS = 128\nLENGTH = 64\n")
    text = text.replace("Stage.length = 64", "sft/Stage.length = 64\npretrain/Stage.length = %LENGTH")
    axes = "'WORDS': [128, 130], 'LENGTH': [64, 128], 'SEED': [0, 1], 'SFT"
    text = text.replace("'SEED': [0, 1], 'SFT", axes).replace("(@install/Contrast(),)", "()")
    # A claim would have to say of which length and vocabulary it speaks.
    text = "\n".join(line for line in text.splitlines() if not line.startswith("install/"))
    (tmp_path / "wide.gin").write_text(text)
    planned = plan(used_stageruns(cells(load_ablation(tmp_path / "wide.gin"))))
    tuned = [population for population in planned if population.members[0].parent]
    assert len(tuned) == 4
    for population in tuned:
        assert len({(m.tokenizer, m.root.stage.length) for m in population.members}) == 1


def test_a_population_of_which_a_member_was_put_aside_starts_anew(
    tiny: list[StageRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = places(load_ablation(TINY).tree)
    population = next(p for p in plan(tiny) if p.members[0].steps)
    for member in population.members:
        where.ledger.start(member.name, "", {"fingerprint": member.fingerprint}, {})
    checkpoint = where.populations / population.name / CHECKPOINTS / "00000016"
    said: list[str] = []

    def recorded() -> list[StageRun]:
        return recorded_members(where, population, population.members, said.append)

    assert recorded() == list(population.members)
    checkpoint.mkdir(parents=True)
    assert recorded() == list(population.members)
    assert checkpoint.exists()
    shutil.rmtree(where.ledger.folder(population.members[1].name))
    assert recorded() == list(population.members)
    assert not checkpoint.exists() and not said
    # A record that was cut short is of nobody, and it is said which.
    record = where.populations / population.name / "members.json"
    record.write_text(record.read_text()[:40])
    checkpoint.mkdir(parents=True)
    assert recorded() == list(population.members)
    assert not checkpoint.exists()
    assert said == [f"{record} was cut short or altered; this population starts anew"]


def test_members_side_by_side_are_computed_in_no_more_places_than_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layouts.MEMBERS_LIE, "cpu", "stacked")
    monkeypatch.chdir(tmp_path)

    def planned(asked: int = 0, done: str = "") -> tuple[dict[str, tuple[int, int, int]], list[str]]:
        """Members, places and how many are side by side, of the populations with steps; what was said."""
        (tmp_path / "few.gin").write_text(f"{TINY.read_text()}\nAblation.population = {asked}\n")
        study, said = study_of(load_ablation(tmp_path / "few.gin")), list[str]()
        stageruns = used_stageruns(study.whole)
        with pytest.MonkeyPatch.context() as patch:
            if done:
                patch.setattr(making, "_to_train", lambda *_: {s for s in stageruns if s.stage.name != done})
            populations = making.planned(study, stageruns, said.append)
        laid = {
            p.name.rsplit("-", 1)[0]: (
                len(p.members), p.places, trainer.layout(making._pace(study), p).beside
            )
            for p in populations if p.members[0].steps
        }  # fmt: skip
        return laid, [line.split(",")[0] for line in said]

    looked_at = ["compiling for 6 members of size tiny", "compiling for 4 members of size tiny"]
    assert planned() == ({"pretrain-tiny": (6, 6, 3), "sft-tiny": (4, 4, 2)}, looked_at)
    assert planned(asked=5) == ({"pretrain-tiny": (3, 3, 2), "sft-tiny": (4, 4, 2)}, [])
    # Of what needs no training nothing is looked at, and all is scored by one program.
    assert planned(done="pretrain")[1] == looked_at[1:]
    assert planned(done="pretrain")[0]["pretrain-tiny"][1] == 12


def test_side_by_side_no_member_waits_for_one_of_more_than_twice_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = TINY.read_text().replace("[0, 12288]", "[1024, 2048, 4096, 12288]")
    (tmp_path / "lengths.gin").write_text(f"{text}\nAblation.population = 40\n")
    study = study_of(load_ablation(tmp_path / "lengths.gin"))

    def planned() -> list[list[int]]:
        populations = making.planned(study, used_stageruns(study.whole), lambda line: None)
        assert all(p.of == len(p.members) for p in populations)
        return [[m.steps for m in p.members] for p in populations if p.members[0].stage.name == "pretrain"]

    assert planned() == [[*[96] * 6, *[32] * 2, *[16] * 2, *[8] * 2]]
    monkeypatch.setitem(layouts.MEMBERS_LIE, "cpu", "stacked")
    assert planned() == [[96] * 6, [32, 32, 16, 16], [8, 8]]


def test_what_is_to_be_trained_is_what_is_not_there_and_what_follows_from_it(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished / "runs" / "ledger", tmp_path / "runs" / "ledger")
    monkeypatch.chdir(tmp_path)
    study = study_of(load_ablation(TINY))
    stageruns = used_stageruns(study.whole)
    assert making._to_train(study, stageruns) == set()
    tuned = [s for s in stageruns if s.parent]
    shutil.rmtree(study.where.ledger.folder(tuned[0].name))
    assert making._to_train(study, stageruns) == {tuned[0]}
    shutil.rmtree(study.where.ledger.folder(tuned[1].parent.name))
    assert making._to_train(study, stageruns) == {tuned[0], tuned[1], tuned[1].parent}


def test_a_member_that_has_ended_is_scored_no_more_while_others_train(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: list[str],
    stored: Callable[[Path], None],
) -> None:
    stored(tmp_path / "runs")
    (tmp_path / "cut.gin").write_text(TINY.read_text().replace("[0, 12288]", "[4096, 12288]"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trainer, "OBSERVE_STEPS", 16)
    scored: list[tuple[int, bool]] = []
    plain, as_planned = Evaluator.monitor, making.plan

    def watched(self: Evaluator, params: dict, seeds: list[int], places: int = 0) -> list[dict[str, float]]:
        compiled.clear()
        found = plain(self, params, seeds, places)
        scored.append((len(seeds), "jit(<lambda>)" in compiled))
        return found

    def turned(*asked: object, **named: object) -> list[Population]:
        """Populations in which the shortest members come first."""
        return [
            dataclasses.replace(p, members=p.members[::-1])
            for p in as_planned(*asked, **named)  # type: ignore[arg-type]
        ]

    monkeypatch.setattr(Evaluator, "monitor", watched)
    monkeypatch.setattr(making, "plan", turned)
    loaded = load_ablation(tmp_path / "cut.gin", ["ARM='base'"])
    runner.run(loaded, Silence(), threading.Event())
    assert scored == [(4, True), (4, False), *[(2, False)] * 4]
    ledger = places(loaded.tree).ledger
    ends = defaultdict(list)
    for stagerun in used_stageruns(cells(loaded)):
        for part in ledger.read_segments(stagerun.name, "trajectory"):
            ends[stagerun.steps] += part.table["step"].to_pylist()
        # At its end a member has the mechanism that its final parameters have.
        last = [row for row in part.table.to_pylist() if row["outcome"] == "mechanism"][-1]
        (evaluation,) = ledger.folder(stagerun.name).glob("evals/*/outcomes.json")
        assert last["value"] == pytest.approx(json.loads(evaluation.read_text())["mechanism"], abs=1e-6)
    assert {steps: sorted(set(at)) for steps, at in ends.items()} == {
        32: [16, 32], 96: [16, 32, 48, 64, 80, 96],
    }  # fmt: skip


def test_the_plan_is_the_same_in_every_launch(tiny: list[StageRun]) -> None:
    again = used_stageruns(cells(load_ablation(TINY)))
    assert [p.name for p in plan(tiny, 3)] == [p.name for p in plan(again, 3)]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, stored: Callable[[Path], None]
) -> tuple[Path, dict[str, list[Batch]], Silence]:
    """One cell of the tiny ablation trained in this process, each member alone, and the batches that were read."""
    folder = tmp_path_factory.mktemp("trained")
    stored(folder / "runs")
    seen: dict[str, list[Batch]] = defaultdict(list)
    progress = Silence()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plain = StageData.batches

        def watched(self: StageData, first_step: int, count: int) -> Batch:
            batches = plain(self, first_step, count)
            assert first_step == sum(len(read.tokens) for read in seen[names[id(self.mixture)]])
            seen[names[id(self.mixture)]].append(batches)
            return batches

        names: dict[int, str] = {}
        give = Stores.data

        def named(self: Stores, stagerun: StageRun) -> StageData:
            data = give(self, stagerun)
            data.mixture = dataclasses.replace(data.mixture)
            names[id(data.mixture)] = stagerun.name
            return data

        patch.setattr(StageData, "batches", watched)
        patch.setattr(Stores, "data", named)
        loaded = load_ablation(TINY, ["ARM='compassion'", "CHECKPOINT_SECONDS=0.0", "OUTPUT='runs'"])
        last = "arm=compassion,ratio=0.25,seed=1,tokens=12288,sft_tokens=8192"
        runner.run(loaded, progress, threading.Event(), only=last)
    return folder / "runs", dict(seen), progress


def test_a_member_alone_has_the_bits_of_the_population(
    trained: tuple[Path, dict[str, list[Batch]], Silence], finished: Path
) -> None:
    alone = parameters(trained[0])
    assert len(alone) == 2 and alone.items() <= parameters(finished / "runs").items()


def test_rows_are_the_same_where_a_launch_was_stopped_in_the_midst_of_one(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: Callable[[Path], None]
) -> None:
    stored(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "steps_at_once", lambda *_: 3)  # as where steps are dear
    stop = threading.Event()

    class Stopping(Silence):
        @contextmanager
        def task(self, name: str, total: int) -> Iterator[Advance]:
            yield lambda done, note: stop.set() if name == "pretrain tiny" and done >= 48 else None

    cell = "arm=neutral,ratio=0.25,seed=0,tokens=12288,sft_tokens=0"
    loaded = load_ablation(TINY)
    with pytest.raises(Stopped):
        runner.run(loaded, Stopping(), stop, only=cell)
    checkpoint = max(Path("runs/populations").glob("*/checkpoints/*"))
    reached = int(checkpoint.name)
    assert reached % trainer.LOG_STEPS, "the test wants it stopped where a row is not full"
    ledger = places(loaded.tree).ledger
    (stagerun,) = (s for c in cells(loaded) if c.id == cell for s in c.stageruns)
    rows = [row for part in ledger.read_segments(stagerun.name, "metrics") for row in part.table.to_pylist()]
    assert rows[-1]["step"] == reached - reached % trainer.LOG_STEPS
    progress = Silence()
    runner.run(loaded, progress, threading.Event(), only=cell)
    assert f"goes on from step {reached}" in progress.said
    assert not list(ledger.root.glob("*.damaged-*")), "it began anew"
    for kind in ("metrics", "trajectory"):
        found, wanted = (
            [row for part in led.read_segments(stagerun.name, kind) for row in part.table.to_pylist()]
            for led in (ledger, Ledger(finished / "runs/ledger"))
        )
        assert found == wanted
    assert parameters(Path("runs")).items() <= parameters(finished / "runs").items()


def test_a_row_is_a_mean_that_loses_nothing() -> None:
    """Of seven steps, the first standing alone: in float32 the ones would be lost beside the large number."""
    losses = np.float32([[3.0, 2**24, 1, 1, 1, 1, 1, 1]])
    arrays = {"loss": losses, "skipped": np.zeros_like(losses)}
    records = [(0, {name: values[:, :5] for name, values in arrays.items()})]
    records.append((5, {name: values[:, 5:] for name, values in arrays.items()}))
    assert trainer._rows(records, 0, 0, 8) == {
        "step": [1, 8],
        "loss": [3.0, (2**24 + 6) / 7],
        "skipped": [0, 0],
    }


def test_counts_are_those_of_the_batches_that_training_saw(
    trained: tuple[Path, dict[str, list[Batch]], Silence], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, seen, _ = trained
    monkeypatch.chdir(output.parent)
    cell = max(
        (c for c in cells(load_ablation(TINY)) if c.stageruns[-1].name in seen),
        key=lambda c: len(c.stageruns),
    )
    stores = Stores(places(load_ablation(TINY).tree))
    for stagerun in cell.stageruns:
        manifest = manifests(output)[stagerun.name]
        read = Batch(*(np.concatenate(parts) for parts in zip(*seen[stagerun.name], strict=True)))
        assert len(read.tokens) == manifest["steps"]
        assert manifest["tokens"] == read.tokens.size
        assert manifest["loss_tokens"] == read.weights.sum()
        assert (read.tokens[read.segments == 0] == 0).all()
        # Which source a sequence is of is told by its text alone.
        rows = read.tokens.reshape(-1, read.tokens.shape[-1])
        used = (read.segments > 0).reshape(rows.shape)
        kinds = dict.fromkeys(manifest["sources"], 0)
        tokens = dict.fromkeys(manifest["sources"], 0)
        texts = {
            role: _text(stores, source, stagerun) for role, source in stagerun.stage.mixture.sources().items()
        }
        for row, here in zip(rows, used, strict=True):
            text = row[here].astype("<u2").tobytes()
            found = [role for role, whole in texts.items() if text in whole]
            # The rest of a long base document may be a word that others have too; those of arms are whole.
            (role,) = found if len(text) > 32 else {"base"}.intersection(found)
            kinds[role] += 1
            tokens[role] += int(here.sum())
        for role, source in manifest["sources"].items():
            assert (source["slots"], source["tokens"]) == (kinds[role], tokens[role])
            assert source["padding"] == kinds[role] * rows.shape[1] - tokens[role]
        if stagerun.parent is None:
            assert manifest["dose_tokens"] == tokens["intervention"]


def _text(stores: Stores, source: object, stagerun: StageRun) -> bytes:
    template = stagerun.stage.mixture.template
    store = stores.open(source, stagerun.seed, stagerun.tokenizer, template)  # type: ignore[arg-type]
    return (store.folder / "tokens.bin").read_bytes()
