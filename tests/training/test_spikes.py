"""The rule of spikes: against a plain loop, and in members of a population."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from toy_training import MODEL, MUON, VOCAB, Memory, member, run, same

from caml.config.seeds import derive
from caml.models.transformer import init_parameters
from caml.training import spikes, updates
from caml.training.optimizer import hyper
from caml.training.spikes import IN_A_ROW, TAKEN
from caml.training.step import train_step


@jax.jit
def follow(norms: np.ndarray, spike: np.float32) -> tuple:
    """Of each norm whether its step is skipped, and how many were skipped in a row."""

    def step(known: spikes.Norms, norm: jax.Array) -> tuple:
        skipped = norm > spikes.limit(known, spike)
        known = spikes.after(known, norm, skipped)
        return known, (skipped, known.skipped)

    return jax.lax.scan(step, jax.tree.map(jax.numpy.asarray, spikes.nothing()), norms)[1]


def plainly(norms: np.ndarray, spike: float) -> tuple[list[bool], list[int]]:
    """The same by the plainest loop: the mean is written out as the weighted mean that it is."""
    taken: list[float] = []
    skips, in_a_row = [], []
    for norm in norms.tolist():
        skip = False
        if spike and len(taken) >= 100:
            weights = 0.99 ** np.arange(len(taken))[::-1]
            limit = spike * np.average(taken, weights=weights)
            assume(abs(norm / limit - 1) > 1e-3)  # nearer than float32 can tell
            skip = norm > limit
        if not skip:
            taken.append(norm)
        skips.append(skip)
        in_a_row.append(in_a_row[-1] + 1 if skip and in_a_row else int(skip))
    return skips, in_a_row


@example(seed=0, spread=0.1, spike=3.0, spiked=[(99, 10.0), (100, 10.0), (101, 100.0)])
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    spread=st.floats(0.01, 1.5),
    spike=st.sampled_from([0.0, 1.5, 3.0, 10.0]),
    spiked=st.lists(st.tuples(st.integers(0, 249), st.floats(1, 1e4)), max_size=60),
)
def test_the_rule_is_that_of_a_plain_loop(seed: int, spread: float, spike: float, spiked: list):
    norms = np.exp(spread * np.random.default_rng(seed).standard_normal(250)).astype(np.float32)
    for at, factor in spiked:
        norms[at] *= np.float32(factor)
    skips, in_a_row = plainly(norms, spike)
    found = follow(norms, np.float32(spike))
    assert np.asarray(found[0]).tolist() == skips and np.asarray(found[1]).tolist() == in_a_row


STEPS = 150
LATE = 120


@pytest.fixture(scope="module")
def smooth(lies: str, tmp_path_factory: pytest.TempPathFactory):
    """A member without a spike."""
    sink = Memory()
    return run([member(0, STEPS)], tmp_path_factory.mktemp("smooth"), sink), sink


def test_a_spike_is_skipped_and_leaves_nothing_behind(lies: str, tmp_path: Path):
    sink = Memory()
    spiked = member(0, STEPS, spikes=(LATE, LATE + 1, 140))
    found = run([spiked], tmp_path, sink, observe_steps=2)
    skipped, norms = sink.column("skipped")[0], sink.column("gradient_norm")[0]
    assert np.flatnonzero(skipped).tolist() == [LATE, LATE + 1, 140]
    assert found.stopped.tolist() == [-1] and (norms[[LATE, LATE + 1, 140]] > 10 * norms[LATE - 1]).all()
    assert same(sink.observed[LATE], sink.observed[LATE + 2])
    assert not same(sink.observed[LATE + 2], sink.observed[LATE + 4])
    # As where nobody makes these steps: the optimizer knows nothing of them either.
    step_of = jax.jit(train_step, static_argnums=(0, 1))
    h = hyper(spiked.optimizer, spiked.schedule, STEPS)
    params = init_parameters(MODEL, VOCAB, derive(spiked.seed, "init"))
    state = updates.init_state("muon", params, h)
    for step in range(STEPS):
        if not skipped[step]:
            params, state, metrics, _ = step_of(
                MODEL, "muon", params, state, spiked.data.batch(step), np.int32(step), h
            )
            assert float(metrics["loss"]) == pytest.approx(sink.column("loss")[0, step], rel=1e-4, abs=1e-4)


def test_where_nothing_is_skipped_the_rule_changes_no_bit(smooth, tmp_path: Path):
    result, sink = smooth
    assert not sink.column("skipped").any()
    optimizer = dataclasses.replace(MUON, spike=0.0)
    without = Memory()
    found = run([member(0, STEPS, optimizer=optimizer)], tmp_path, without)
    assert same(found.params, result.params)
    assert without.column("loss").tobytes() == sink.column("loss").tobytes()
    # Without the rule the same spike is taken.
    spiked = Memory()
    run([member(0, STEPS, spikes=(LATE,), optimizer=optimizer)], tmp_path / "spiked", spiked)
    assert not spiked.column("skipped").any()


@pytest.mark.parametrize("first", [LATE, LATE + 1])
def test_a_member_that_only_spikes_is_stopped_and_the_others_go_on(first: int, smooth, tmp_path: Path):
    """Whether the step that stops it is the last of its dispatch, after which a checkpoint is due, or the first."""
    result, _ = smooth
    members, last = (
        [member(1, STEPS, spikes=tuple(range(first, STEPS))), member(0, STEPS)],
        first + IN_A_ROW - 1,
    )
    sink = Memory()
    found = run(members, tmp_path, sink, checkpoint_steps=20, observe_steps=LATE)
    assert found.stopped.tolist() == [last, -1] and found.complete and sink.final[0][1] == last
    assert np.nansum(sink.column("skipped"), axis=1).tolist() == [IN_A_ROW, 0]
    assert np.isnan(sink.column("skipped")[0, last + 1 :]).all()
    kept, went_on = ({k: x[m] for k, x in found.params.items()} for m in (0, 1))
    assert same(kept, {k: x[0] for k, x in sink.observed[LATE].items()}) == (first == LATE)
    assert same(went_on, {k: x[0] for k, x in result.params.items()})
    # Handed out before metrics are closed past the step that stopped it.
    closed = [event[1] for event in sink.events[: sink.events.index(("finished", 0))] if event[0] == "close"]
    assert max(closed) <= last


def test_with_a_step_taken_in_between_nobody_is_stopped(tmp_path: Path):
    at = [step for step in range(TAKEN, STEPS) if step % IN_A_ROW]
    sink = Memory()
    found = run([member(0, STEPS, spikes=tuple(at))], tmp_path, sink)
    assert found.stopped.tolist() == [-1] and np.flatnonzero(sink.column("skipped")[0]).tolist() == at


def test_stopped_among_spikes_it_goes_on_with_the_same_bits(lies: str, tmp_path: Path):
    members = [member(1, STEPS, spikes=tuple(range(LATE, STEPS))), member(0, STEPS, spikes=(101, 130, 131))]
    whole_sink, first, second = Memory(), Memory(stop_at=LATE + 8), Memory()
    whole = run(members, tmp_path / "whole", whole_sink)
    broken_off = run(members, tmp_path / "stopped", first)
    assert LATE < broken_off.step < LATE + IN_A_ROW - 1 and not broken_off.complete
    resumed = run(members, tmp_path / "stopped", second)
    assert resumed.complete and resumed.stopped.tolist() == whole.stopped.tolist() == [
        LATE + IN_A_ROW - 1,
        -1,
    ]
    assert same(resumed.params, whole.params)
    for name in ("loss", "gradient_norm", "skipped"):
        joined = np.concatenate([first.column(name), second.column(name)], axis=1)
        assert joined.tobytes() == whole_sink.column(name).tobytes()
