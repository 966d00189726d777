"""Instruments of training: operations of a token, share of the peak, time without work, compilation, memory."""

import queue
import resource
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import jax

# Floating-point operations a second of one device, as jax names it: in bfloat16, and in float32, whose factors are not
# rounded (caml/models/products.py): on a GPU not by its tensor cores, and of TPUs nobody told. Dense products; data
# sheets of GPUs count twice as much, of sparse ones.
PEAKS: dict[str, tuple[float, float | None]] = {
    # NVIDIA H100 and H200 Tensor Core GPU data sheets, SXM.
    "NVIDIA H100 80GB HBM3": (989e12, 67e12),
    "NVIDIA H200": (989e12, 67e12),
    # NVIDIA A100 Tensor Core GPU data sheet.
    "NVIDIA A100-SXM4-40GB": (312e12, 19.5e12),
    "NVIDIA A100-SXM4-80GB": (312e12, 19.5e12),
    # cloud.google.com/tpu/docs: v4, v5e, v5p, v6e.
    "TPU v4": (275e12, None),
    "TPU v5 lite": (197e12, None),
    "TPU v5e": (197e12, None),
    "TPU v5": (459e12, None),
    "TPU v5p": (459e12, None),
    "TPU v6 lite": (918e12, None),
    "TPU v6e": (918e12, None),
}


def peak_flops(device_kind: str, precision: str = "float32") -> float | None:
    """Floating-point operations a second of one device in products of `precision`; None where nobody told."""
    return PEAKS.get(device_kind, (None, None))[precision == "float32"]


@dataclass(frozen=True)
class Program:
    """What is known of the compiled program before it runs.

    `count` is 1 where it was compiled for this population, in `seconds`, and 0 where it was there. Bytes are those of
    one device, None where the compiler does not tell; state that is given and taken back counts as argument alone.
    """

    count: int
    seconds: float
    argument_bytes: int | None
    output_bytes: int | None
    temporary_bytes: int | None


def of_program(compiled: Any, seconds: float) -> Program:
    """What is known of a compiled program; `seconds` it took to compile, 0 where it was there."""
    memory = compiled.memory_analysis()
    if memory is None:
        return Program(int(seconds > 0), seconds, None, None, None)
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        int(seconds > 0), seconds, memory.argument_size_in_bytes, outputs, memory.temp_size_in_bytes
    )


@dataclass(frozen=True)
class Reading:
    """What the instruments show of a population after some dispatch, all of it of the launch that trains it now.

    It trained from `first_step` to `step`, `tokens` of all `members` together. Rates are over the `seconds` of
    wall-clock from the end of the first dispatch, which is slower than others, to the end of the last: with all that
    came between, probes and checkpoints too. None where there was one dispatch only, or nothing is known.

    `model_flops_utilisation`: `flops` (see `Model.training_flops`) x tokens a second / the devices' peak. `host_bound`:
    the share of the seconds in which no step was on the devices, neither running nor waiting to: the next one was sent
    only after the last was finished, because its batches or the host's own work (records, probes, a checkpoint) had
    kept it. `peak_bytes` is the most memory that one device had in use, where it tells, or else this process
    (`peak_of`), since the process began.
    """

    first_step: int
    step: int
    members: int
    tokens: int
    seconds: float
    tokens_per_second: float | None
    flops: float
    model_flops_utilisation: float | None
    host_bound: float | None
    device: str
    devices: int
    programs: int
    compile_seconds: float
    argument_bytes: int | None
    output_bytes: int | None
    temporary_bytes: int | None
    peak_bytes: int
    peak_of: str


class Meter:
    """Times the dispatches of one population: `sending`, `sent` and, in the same order but later, `read`.

    A thread waits for the end of each dispatch, so that the loop need not: one look at the clock per dispatch. On a
    busy machine it looks late, and `host_bound` is then a little too small.
    """

    def __init__(
        self, first_step: int, members: int, flops: float, peak: float | None, devices: int, program: Program
    ):
        """`flops` of a token, and `peak` of each of the `devices`, None where it is not known."""
        self._first_step, self._members, self._program = first_step, members, program
        self._flops, self._devices = flops, devices
        self._peak = peak and peak * devices
        self._watched: queue.SimpleQueue[tuple[Any, Future[float]] | None] = queue.SimpleQueue()
        # Nobody waits for it: a device that hangs must not keep the process.
        threading.Thread(target=self._watch, name="dispatches", daemon=True).start()
        self._sent: deque[tuple[float, Future[float]]] = deque()
        self._newest: Future[float] | None = None
        self._gap = self._idle = self._from = 0.0
        self._began: tuple[float, int] | None = None

    def sending(self) -> None:
        """A dispatch is about to be sent."""
        self._gap = 0.0
        # Read already, where a checkpoint has come between: that time counts too.
        if self._newest is not None and self._newest.done():
            self._gap = time.monotonic() - max(self._newest.result(), self._from)

    def sent(self, output: Any) -> None:
        """It was sent, and is finished when the array `output` is there."""
        finished: Future[float] = Future()
        self._watched.put((output, finished))
        self._newest = finished
        self._sent.append((self._gap, finished))

    def read(self, step: int, tokens: int) -> Reading:
        """What is known at the end of the oldest dispatch not read yet; it reached `step`, and in all `tokens`."""
        gap, finished = self._sent.popleft()
        now = finished.result()
        if self._began is None:
            now = max(now, self._from)
            self._began = now, tokens
        else:
            self._idle += gap
        seconds = now - self._began[0]
        rate = (tokens - self._began[1]) / seconds if seconds > 0 else None
        device = jax.devices()[0]
        used, used_by = _peak_memory()
        return Reading(
            first_step=self._first_step,
            step=step,
            members=self._members,
            tokens=tokens,
            seconds=seconds,
            tokens_per_second=rate,
            flops=self._flops,
            model_flops_utilisation=self._flops * rate / self._peak
            if rate is not None and self._peak
            else None,
            host_bound=self._idle / seconds if seconds > 0 else None,
            device=device.device_kind,
            devices=self._devices,
            programs=self._program.count,
            compile_seconds=self._program.seconds,
            argument_bytes=self._program.argument_bytes,
            output_bytes=self._program.output_bytes,
            temporary_bytes=self._program.temporary_bytes,
            peak_bytes=used,
            peak_of=used_by,
        )

    def begin_anew(self) -> None:
        """Rates are of what follows, not of what came before. Called where no dispatch is under way."""
        self._from, self._began, self._idle = time.monotonic(), None, 0.0

    def close(self) -> None:
        """Let the thread go, once what was sent is finished."""
        self._watched.put(None)

    def _watch(self) -> None:
        while (item := self._watched.get()) is not None:
            output, finished = item
            try:
                jax.block_until_ready(output)
                finished.set_result(time.monotonic())
            # The loop raises it where it reads.
            except BaseException as error:
                finished.set_exception(error)


def _peak_memory() -> tuple[int, str]:
    """The most bytes in use so far, and of what: 'device' or 'process'."""
    found = [(device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in jax.local_devices()]
    if max(found):
        return max(found), "device"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024, "process"
