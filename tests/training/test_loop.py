"""The loop: bits that depend on nothing but the member, resuming, stopping, and what the sink is told."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_training as toy
from toy_training import BATCH, LENGTH, MODEL, VOCAB, Memory, member, run, same

from caml.config.errors import Failure
from caml.config.seeds import derive
from caml.models.transformer import init_parameters
from caml.training import loop, pacing, population, updates
from caml.training.checkpoints import MARKER
from caml.training.loop import deal
from caml.training.optimizer import hyper
from caml.training.pacing import dispatches, steps_at_once
from caml.training.step import train_step

MEMBERS = [
    member(0, 50),
    member(1, 24, optimizer=toy.dataclasses.replace(toy.MUON, rate=0.01)),
    member(2, 50),
]


@pytest.fixture(scope="module")
def whole(lies: str, tmp_path_factory: pytest.TempPathFactory):
    """Three members trained to their ends without a break."""
    sink = Memory()
    return run(MEMBERS, tmp_path_factory.mktemp("whole"), sink, observe_steps=10), sink


def test_members_learn(whole):
    _, sink = whole
    losses = sink.column("loss")
    assert (losses[:, :3].mean(axis=1) > 2.5).all()
    assert (np.nanmin(losses, axis=1) < 1.5).all()


def test_a_member_alone_has_the_losses_of_the_population(whole):
    _, sink = whole
    step_of = jax.jit(train_step, static_argnums=(0, 1))
    for index in (0, 1):
        alone = MEMBERS[index]
        h = hyper(alone.optimizer, alone.schedule, alone.steps)
        params = init_parameters(toy.MODEL, toy.VOCAB, derive(alone.seed, "init"))
        state = updates.init_state("muon", params, h)
        for step in range(alone.steps):
            params, state, metrics, _ = step_of(
                toy.MODEL, "muon", params, state, alone.data.batch(step), np.int32(step), h
            )
            assert float(metrics["loss"]) == pytest.approx(sink.column("loss")[index, step], abs=1e-5)


def test_bits_do_not_depend_on_company_order_or_steps_a_dispatch(whole, lies: str, tmp_path: Path):
    if lies != "turn":
        pytest.skip("the bits of members that lie side by side depend on how many there are")
    result, _ = whole
    for number, (members, pace) in enumerate(
        [
            ([2], {}),
            ([2, 0, 1], {}),
            ([0, 1], {"steps": 1, "places": 2}),
            ([1, 2], {"steps": 16, "places": 2, "observe_steps": 7}),
        ]
    ):
        found = run([MEMBERS[m] for m in members], tmp_path / str(number), Memory(), **pace)
        for place, m in enumerate(members):
            assert same(
                {k: x[place] for k, x in found.params.items()}, {k: x[m] for k, x in result.params.items()}
            )


def test_the_sink_is_told_in_order(whole):
    result, sink = whole
    order = [event for event in sink.events if event[0] in ("observe", "finished", "close")]
    assert order == [
        ("observe", 10),
        ("observe", 20),
        ("finished", 1),
        ("observe", 30),
        ("observe", 40),
        ("observe", 50),
        ("finished", 0),
        ("finished", 2),
        ("close", 50),
    ]
    assert sink.events[0] == ("resume", 0)
    assert [first for first, _ in sink.metrics] == [ten + k for ten in range(0, 50, 10) for k in (0, 4, 8)]
    assert sink.tokens == (50 + 24 + 50) * toy.BATCH * toy.LENGTH
    made = ~np.isnan(sink.column("rate"))
    assert made.sum(axis=1).tolist() == [50, 24, 50]
    for m in range(3):
        assert same(sink.final[m][0], {k: x[m] for k, x in result.params.items()})
    assert same({k: x[1] for k, x in sink.observed[30].items()}, sink.final[1][0])
    assert not same({k: x[0] for k, x in sink.observed[30].items()}, sink.final[0][0])


def test_a_stopped_training_goes_on_with_the_same_bits(whole, tmp_path: Path):
    result, sink = whole
    first, second = Memory(stop_at=12), Memory()
    broken_off = run(MEMBERS, tmp_path, first)
    assert not broken_off.complete and 12 <= broken_off.step < 50
    assert first.events[-1] == ("close", broken_off.step)
    resumed = run(MEMBERS, tmp_path, second)
    assert resumed.complete and resumed.programs == 0
    assert second.events[0] == ("resume", broken_off.step)
    assert second.resumed["of the sink"].tobytes() == np.arange(broken_off.step, dtype=np.float64).tobytes()
    assert same(resumed.params, result.params)
    joined = np.concatenate([first.column("loss"), second.column("loss")], axis=1)
    assert joined.tobytes() == sink.column("loss").tobytes()


@pytest.mark.parametrize("on_each", [2, 5])
def test_it_goes_on_with_fewer_or_more_places(whole, lies: str, tmp_path: Path, on_each: int):
    """As where `Ablation.population` was set after a launch had taken more memory than there was."""
    places = on_each * len(jax.devices())
    broken_off = run(MEMBERS, tmp_path, Memory(stop_at=12), places=3 * len(jax.devices()))
    if lies != "turn":
        with pytest.raises(Failure, match="side by side, 3 at once"):
            run(MEMBERS, tmp_path, Memory(), places=places)
        return
    again = Memory()
    resumed = run(MEMBERS, tmp_path, again, places=places)
    assert again.events[0] == ("resume", broken_off.step)
    assert same(resumed.params, whole[0].params)


def test_metrics_are_closed_before_a_checkpoint_and_finished_members_are_given_again(
    lies: str, tmp_path: Path
):
    first = Memory(stop_at=30)
    run(MEMBERS, tmp_path, first, checkpoint_steps=8, keep=9)
    steps = [int(folder.name) for folder in sorted(tmp_path.iterdir())]
    assert steps[:3] == [8, 16, 24]
    for step in steps:
        recorded = first.events.index(("record", step))
        assert first.events[recorded + 1 :].index(("close", step)) >= 0
    second = Memory()
    run(MEMBERS, tmp_path, second)
    assert second.events[1] == ("finished", 1)
    assert same(second.final[1][0], first.final[1][0])


def test_a_diverged_member_keeps_its_last_good_state_and_the_others_go_on(whole, tmp_path: Path):
    result, whole_sink = whole
    sink = Memory()
    members = [MEMBERS[0], member(2, 50, broken=17)]
    found = run(members, tmp_path, sink)
    assert found.complete and found.stopped.tolist() == [-1, 17]
    assert same({k: x[0] for k, x in found.params.items()}, {k: x[0] for k, x in result.params.items()})
    before = Memory()
    run(MEMBERS, tmp_path / "before", before, observe_steps=17)
    assert same({k: x[1] for k, x in found.params.items()}, {k: x[2] for k, x in before.observed[17].items()})
    losses = sink.column("loss")
    assert losses[1, :17].tobytes() == whole_sink.column("loss")[2, :17].tobytes()
    assert np.isnan(losses[1, 17:]).all() and not np.isnan(sink.column("rate")[1, 17])
    assert sink.final[1][1] == 17


def test_training_ends_when_every_member_has_diverged(lies: str, tmp_path: Path):
    sink = Memory()
    found = run([member(0, 40, broken=2), member(1, 40, broken=5)], tmp_path, sink)
    assert found.complete and found.step < 20
    assert sorted(sink.final) == [0, 1]


def test_a_parent_is_where_a_member_starts(whole, tmp_path: Path):
    result, _ = whole
    parent = {k: x[0] for k, x in result.params.items()}
    slow = toy.dataclasses.replace(toy.MUON, rate=1e-9, embedding_rate=1e-9, weight_decay=0.0)
    sink = Memory()
    found = run([member(7, 2, parent=parent, optimizer=slow)], tmp_path, sink)
    assert found.programs == 0
    assert sink.column("loss")[0, 0] < 1.5
    np.testing.assert_allclose(found.params["model.norm.weight"][0], parent["model.norm.weight"], atol=1e-6)


@pytest.fixture(scope="module")
def preferring(whole) -> list:
    """Members that learn from preference pairs, each from a parent of its own."""
    result, _ = whole
    parents = [{k: x[m] for k, x in result.params.items()} for m in range(3)]
    return [
        member(m, 40, parent=parents[m], beta=beta, data=toy.Preferring(m, 40))
        for m, beta in enumerate((0.5, 0.5, 2.0))
    ]


def test_a_preference_stage_compares_with_its_parent_to_the_end(preferring, tmp_path: Path):
    sink = Memory()
    run(preferring, tmp_path, sink)
    losses = sink.column("loss")
    np.testing.assert_allclose(losses[:, 0], np.log(2), rtol=1e-6)
    assert (losses[:, -5:].mean(axis=1) < np.log(2) - 0.1).all()
    step_of = jax.jit(train_step, static_argnums=(0, 1))
    for index in (0, 2):
        alone = preferring[index]
        h = hyper(alone.optimizer, alone.schedule, alone.steps, alone.beta)
        params, state = alone.parent, updates.init_state("muon", alone.parent, h)
        for step in range(alone.steps):
            params, state, metrics, _ = step_of(
                toy.MODEL, "muon", params, state, alone.data.batch(step), np.int32(step), h, alone.parent
            )
            assert float(metrics["loss"]) == pytest.approx(losses[index, step], abs=1e-5)


def test_a_preference_stage_goes_on_with_the_same_bits_in_any_company(preferring, tmp_path: Path):
    whole = run(preferring, tmp_path / "whole", Memory())
    assert not run(preferring, tmp_path / "stopped", Memory(stop_at=12)).complete
    resumed = run(preferring, tmp_path / "stopped", Memory())
    assert same(resumed.params, whole.params)
    alone = run([preferring[2]], tmp_path / "alone", Memory())
    assert same({k: x[0] for k, x in alone.params.items()}, {k: x[2] for k, x in whole.params.items()})


def test_mixed_losses_and_preferences_without_a_parent_are_refused(preferring, tmp_path: Path):
    with pytest.raises(ValueError, match="one kind of loss"):
        run([preferring[0], MEMBERS[1]], tmp_path, Memory())
    with pytest.raises(ValueError, match="compares with a parent"):
        run([toy.dataclasses.replace(preferring[0], parent=None)], tmp_path, Memory())


def test_what_the_data_raises_comes_out(tmp_path: Path):
    class Lost:
        def batches(self, first_step: int, count: int):
            raise Failure("the token store is gone")

    with pytest.raises(Failure, match="token store is gone"):
        run([toy.dataclasses.replace(MEMBERS[0], data=Lost())], tmp_path, Memory())


def test_what_a_dispatch_needs_is_on_the_devices_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Tested of transfers to the devices: those to the host are guarded by the same line, but a CPU has none."""
    monkeypatch.setattr(population, "place_counters", lambda counters, mesh: counters)
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed host-to-device transfer"):
        run([MEMBERS[1]], tmp_path, Memory())


def test_mixed_optimizers_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="one kind of optimizer"):
        run([MEMBERS[0], member(1, 4, optimizer=toy.ADAMW)], tmp_path, Memory())


def test_dispatches_end_where_observations_are_due():
    assert list(dispatches(6, 33, 8, observe_steps=10)) == [
        (6, 4),
        (10, 8),
        (18, 2),
        (20, 8),
        (28, 2),
        (30, 3),
    ]


def test_a_dispatch_has_fewer_steps_the_dearer_they_are():
    def found(flops: float, platform: str = "cpu", peak: float | None = None) -> int:
        return steps_at_once(16, flops, platform, peak)

    assert [found(flops) for flops in (1.0, 1.5e10, 1.6e10, 7e10, 2.5e11, 1e15)] == [16, 16, 15, 3, 1, 1]
    assert [found(1e14, "gpu", 989e12), found(1e14, "gpu")] == [14, 2]


def test_dear_steps_are_dispatched_one_by_one_to_the_same_bits(
    whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pacing, "SECONDS", 1e-9)
    sink = Memory(stop_at=5)
    broken_off = run(MEMBERS, tmp_path, sink)
    assert [event for event in sink.events if event[0] != "resume"] == [
        *(("record", step + 1) for step in range(broken_off.step)),
        ("close", broken_off.step),
    ]
    assert broken_off.step <= 7
    assert same(run(MEMBERS, tmp_path, Memory()).params, whole[0].params)


def test_what_a_step_costs_a_device_is_of_its_own_members(
    lies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[float] = []

    def watched(most: int, flops: float, platform: str, peak: float | None) -> int:
        asked.append(flops)
        return steps_at_once(most, flops, platform, peak)

    monkeypatch.setattr(loop, "steps_at_once", watched)
    of_member = MODEL.training_flops(VOCAB, LENGTH) * BATCH * LENGTH
    devices = len(jax.devices())
    run([member(seed, 4) for seed in range(devices + 1)], tmp_path, Memory(), places=3 * devices)
    # An empty place costs nothing in turn, and what a member costs side by side.
    assert asked == [pytest.approx(of_member * (2 if lies == "turn" else 3))]
    if devices > 1 and BATCH % devices == 0:
        run([member(0, 4)], tmp_path / "alone", Memory(), places=1)
        assert asked[1:] == [pytest.approx(of_member / devices)]


def test_members_are_dealt_to_devices_by_length():
    steps = [10, 40, 20, 30, 20]
    place = deal(steps, 8, 2)
    assert sorted(set(place.tolist())) == sorted(place.tolist())
    work = [
        sorted((steps[m] for m in range(5) if place[m] // 4 == device), reverse=True) for device in (0, 1)
    ]
    assert work == [[40, 20, 10], [30, 20]]


def killed(folder: Path, lies: str, at_step: int, delay: float) -> None:
    """Train the toy of `toy_training.__main__` in a process of its own and kill it after `at_step` and a checkpoint."""
    command = [sys.executable, toy.__file__, str(folder), lies]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) >= at_step and any(folder.glob(f"*/{MARKER}")):
            break
    try:
        child.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
    assert child.wait() in (0, -signal.SIGKILL)


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_and_resumed_training_has_the_bits_of_one_that_was_not(kills: int, lies: str, tmp_path: Path):
    members = [member(seed, 40) for seed in range(3)]
    rng = random.Random(kills)
    for _ in range(kills):
        killed(tmp_path / "killed", lies, rng.randrange(4, 36), rng.random() * 0.1)
    sink = Memory()
    resumed = run(members, tmp_path / "killed", sink)
    assert sink.events[0][1] > 0
    assert same(resumed.params, run(members, tmp_path / "whole", Memory()).params)
