"""The instruments: operations by hand and by XLA, the clock of dispatches, and what the loop reads."""

import dataclasses
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import jax
import numpy as np
import pytest
import toy_training as toy
from toy_training import Memory, member, run, same

from caml.models.sizes import Model
from caml.models.transformer import init_parameters, logits
from caml.training import instruments
from caml.training.instruments import Meter, Program, peak_flops
from caml.training.profiling import PASSED, Profile

WIDE = Model("wide", width=128, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=384)


def test_operations_are_those_counted_by_hand():
    # Multiplications and additions of one token, forward: each weight of a matrix takes two.
    queries, keys_and_values, output = 128 * 256, 2 * 128 * 128, 256 * 128
    matrices = 2 * (queries + keys_and_values + output + 3 * 128 * 384) + 1000 * 128
    # Scores and weighted values of 4 heads of 64, over half of 32 positions, in two layers.
    attention = 2 * 2 * (4 * 64) * (32 // 2)
    forward = 2 * matrices + 2 * attention
    assert WIDE.training_flops(1000, 32) == 3 * forward
    assert WIDE.training_flops(1000, 32, preference=True) == 4 * forward
    untied = dataclasses.replace(WIDE, tied_embeddings=False)
    assert untied.training_flops(1000, 32) == 3 * forward


@pytest.mark.parametrize("length", [16, 32])
def test_xla_counts_as_many_in_a_forward_pass(length: int):
    """So short a sequence is one block, whose square is computed whole: as much as half of one twice as long."""
    vocab, rows = 1000, 2
    params = init_parameters(WIDE, vocab, seed=0)
    tokens = np.zeros((rows, length), np.int32)
    compiled = jax.jit(lambda p, t: logits(p, WIDE, t, t + 1, t)).lower(params, tokens).compile()
    found = compiled.cost_analysis()["flops"] / tokens.size
    # What XLA has more are norms, rotations and softmax.
    assert 1.0 <= found / (WIDE.training_flops(vocab, 2 * length) / 3) < 1.04


def test_a_peak_that_nobody_told_is_not_made_up():
    assert peak_flops("cpu") is None and peak_flops("NVIDIA H100 PCIe") is None
    assert peak_flops("TPU v5 lite", "bfloat16") == 197e12
    # Float32 is multiplied as such (tests/training/test_precision.py), and not rounded to what tensor cores take.
    assert peak_flops("TPU v5 lite") is None
    assert (peak_flops("NVIDIA H200", "bfloat16"), peak_flops("NVIDIA H200")) == (989e12, 67e12)


class Work:
    """Something that a device is busy with until it is ended."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.seen: Future[float]

    def block_until_ready(self) -> None:
        self.over.wait()


def test_the_clock_counts_the_time_without_work(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(instruments.time, "monotonic", lambda: now[0])
    meter = Meter(10, 3, flops=2.0, peak=250.0, devices=4, program=Program(1, 7.0, None, None, None))

    def send(at: float) -> Work:
        now[0], work = at, Work()
        meter.sending()
        meter.sent(work)
        work.seen = meter._sent[-1][1]
        return work

    def end(work: Work, at: float) -> None:
        now[0] = at
        work.over.set()
        work.seen.result()

    first = send(0)
    end(first, 5)
    second = send(6)  # a second later
    reading = meter.read(14, 100)
    assert reading.tokens_per_second is reading.host_bound is reading.model_flops_utilisation is None
    assert (reading.first_step, reading.step, reading.tokens) == (10, 14, 100)
    third = send(7)  # while the second is under way
    end(second, 9)
    reading = meter.read(18, 500)
    assert reading.seconds == 4 and reading.tokens_per_second == 100 and reading.host_bound == 0.25
    assert reading.model_flops_utilisation == 100 * 2 / 1000
    end(third, 13)
    reading = meter.read(22, 900)
    assert reading.seconds == 8 and reading.tokens_per_second == 100 and reading.host_bound == 0.125
    fourth = send(14)
    end(fourth, 15)
    now[0] = 40  # a trace was written
    meter.begin_anew()
    fifth = send(41)
    assert meter.read(26, 1300).host_bound is None
    end(fifth, 44)
    reading = meter.read(30, 1700)
    assert reading.seconds == 4 and reading.tokens_per_second == 100 and reading.host_bound == 0.25
    sixth = send(51)  # a checkpoint was written, before which all was read
    end(sixth, 56)
    reading = meter.read(34, 2100)
    assert reading.seconds == 16 and reading.tokens_per_second == 50 and reading.host_bound == 0.5
    meter.close()


def test_the_loop_reads_its_instruments(tmp_path: Path):
    sink = Memory()
    result = run([member(0, 20), member(1, 12)], tmp_path, sink)
    assert [reading.step for reading in sink.readings] == [4, 8, 12, 16, 20]
    assert sink.readings[0].tokens_per_second is None
    last = sink.readings[-1]
    per_step = toy.BATCH * toy.LENGTH
    assert last.tokens == 32 * per_step == sink.tokens and last.members == 2 and last.first_step == 0
    assert last.tokens_per_second == pytest.approx((32 - 8) * per_step / last.seconds)
    assert 0 <= last.host_bound <= 1 and last.model_flops_utilisation is None
    assert last.flops == toy.MODEL.training_flops(toy.VOCAB, toy.LENGTH)
    assert last.programs == result.programs and last.compile_seconds == result.seconds
    # Of the arguments the parameters alone, in two moments besides, are as large as this.
    parameters = sum(toy.MODEL.parameters(toy.VOCAB))
    assert last.argument_bytes > 4 * 2 * parameters and last.temporary_bytes > 0
    assert last.peak_of == "process" and last.peak_bytes > 2**27


def test_a_checkpoint_that_takes_long_is_time_without_work(tmp_path: Path):
    class Slow(Memory):
        def close(self, step: int) -> dict[str, np.ndarray]:
            time.sleep(0.5)
            return super().close(step)

    sink = Slow()
    run([member(0, 40)], tmp_path, sink, checkpoint_steps=12)
    assert sink.readings[-1].host_bound * sink.readings[-1].seconds > 1.0


def test_a_resumed_launch_tells_of_itself(tmp_path: Path):
    run([member(0, 40)], tmp_path, Memory(stop_at=12))
    sink = Memory()
    run([member(0, 40)], tmp_path, sink)
    last = sink.readings[-1]
    assert last.first_step > 0 and last.tokens == (40 - last.first_step) * toy.BATCH * toy.LENGTH


def test_a_profile_is_of_the_first_population_that_is_long_enough(tmp_path: Path):
    said: list[str] = []
    profile = Profile(tmp_path / "profile", said.append)
    run([member(0, 4 * PASSED)], tmp_path / "short", Memory(), profile=profile)
    assert not profile.begun and not said
    found = run([member(0, 40)], tmp_path / "long", Memory(), profile=profile)
    (trace,) = (tmp_path / "profile").glob("plugins/profile/*/perfetto_trace.json.gz")
    assert profile.begun and len(said) == 1 and str(trace) in said[0] and "of 2 dispatches" in said[0]
    for again in ("second", "third"):
        run([member(0, 40)], tmp_path / again, Memory(), profile=profile)
    assert len(said) == 1
    assert same(found.params, run([member(0, 40)], tmp_path / "plain", Memory()).params)


def test_a_profile_of_a_population_that_ends_early_is_written(tmp_path: Path):
    said: list[str] = []
    profile = Profile(tmp_path / "profile", said.append)
    run([member(0, 4 * (PASSED + 1))], tmp_path, Memory(), profile=profile)
    assert len(said) == 1 and "of 1 dispatch is" in said[0]
