"""The training loop: a population from its first step to its last, through checkpoints and signals."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from caml.config.fingerprint import NUMERICS_VERSION, identity
from caml.config.seeds import derive
from caml.models.sizes import Model
from caml.models.transformer import fused, init_parameters
from caml.training import collecting, instruments, population
from caml.training.checkpoints import Checkpoints
from caml.training.instruments import Meter, Reading
from caml.training.layouts import Layout, Unfit, layout_of
from caml.training.mesh import member_mesh
from caml.training.optimizer import Hyper, Optimizer, Schedule, hyper
from caml.training.pacing import Pace, dispatches, steps_at_once
from caml.training.population import State
from caml.training.profiling import Profile
from caml.training.programs import Shape, program
from caml.training.step import Batch

Parameters = dict[str, np.ndarray]
Arrays = dict[str, np.ndarray]

# What a checkpoint keeps beside the state: the row of each member in it.
PLACE = "place"


class Data(Protocol):
    """What a member reads."""

    def batches(self, first_step: int, count: int) -> Any:
        """Tokens, segments, positions and weights (see `step.Batch`), each `[count, B, T]`.

        Called on another thread, in order, and never past the member's last step.
        """
        ...


@dataclass(frozen=True)
class Member:
    """A StageRun in training.

    It starts from `parent`, or without one from fresh parameters of the stream 'init' of `seed`. `name`
    says in checkpoints who it is: the StageRun's fingerprint. With a `beta` its data are preference pairs, and `parent`
    is the reference of its loss too.
    """

    name: str
    seed: int
    steps: int
    optimizer: Optimizer
    schedule: Schedule
    data: Data
    parent: Parameters | None = None
    beta: float | None = None


class Sink(Protocol):
    """Where the loop reports to. Members come in the order in which they were given."""

    def resume(self, step: int, kept: Arrays) -> None:
        """Training goes on from `step` (0: from the start): whatever is recorded past it is void.

        `kept`: what `close` gave there.
        """
        ...

    def record(self, first_step: int, arrays: Arrays) -> None:
        """Metrics by name, float32 `[members, steps]`: `population.METRICS`, of pairs PREFERENCE_METRICS too.

        NaN where a member made no step; a step that stopped it has a finite rate and the rest as it was.
        """
        ...

    def close(self, step: int) -> Arrays:
        """All metrics before `step` are recorded, and are to be on disk on return, but for what it gives.

        A checkpoint follows, which keeps that for `resume`.
        """
        ...

    def observe(self, step: int, params: Parameters) -> None:
        """Parameters after `step` steps, every array `[members, ...]`; finished members have their last."""
        ...

    def measured(self, reading: Reading) -> None:
        """What the instruments show after a dispatch whose metrics come next."""
        ...

    def progress(self, step: int, last_step: int, tokens: int, loss: np.ndarray) -> None:
        """Tokens processed by all members since this call of `train`, last loss of each member or NaN."""
        ...

    def finished(self, member: int, params: Parameters, stopped: int) -> None:
        """A member's final parameters, as soon as there are any; `stopped` as in `Trained`.

        After a resume called again for members that had finished before. A member that was stopped is handed
        out before `close` is called past its last step.
        """
        ...


@dataclass(frozen=True)
class Trained:
    """What `train` returns.

    `params` are stacked, every array `[members, ...]`. `stopped[m]` is the step at which the loss or the
    gradient of member m was not finite, or which was the last of too many skipped in a row (see `spikes`), or -1; its
    parameters are those before that step. `step` was reached; `complete` is False where the stop flag ended it.
    `programs` were compiled, in `seconds`. `passed_over` names damaged checkpoints.
    """

    params: Parameters
    stopped: np.ndarray
    step: int
    complete: bool
    programs: int
    seconds: float
    passed_over: tuple[str, ...]


def deal(steps: Sequence[int], count: int, devices: int) -> np.ndarray:
    """The place of each member among `count` places, of which each device has an equal run.

    Members are dealt to the devices from the longest down, so that all have equal work to the end.
    """
    found = np.empty(len(steps), np.int64)
    for rank, member in enumerate(sorted(range(len(steps)), key=lambda m: (-steps[m], m))):
        found[member] = rank % devices * (count // devices) + rank // devices
    return found


class _Reader:
    """Batches of coming dispatches, read and sent to the devices by a thread of its own."""

    def __init__(self, members: Sequence[Member], place: np.ndarray, shape: Shape, mesh: Mesh):
        self._members, self._place, self._shape, self._mesh = members, place, shape, mesh
        self._ready: queue.Queue = queue.Queue(maxsize=1)
        self._left = threading.Event()

    def read(self, plan: Iterator[tuple[int, int]]) -> Generator[tuple[int, int, tuple]]:
        """First step and number of steps of the plan's dispatches, and on the devices batches and these two numbers.

        What the data raises is raised here.
        """
        thread = threading.Thread(target=self._work, args=(plan,), name="batches", daemon=True)
        thread.start()
        try:
            while (item := self._ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._left.set()
            while thread.is_alive():
                try:
                    self._ready.get(timeout=0.05)
                except queue.Empty:
                    continue

    def _work(self, plan: Iterator[tuple[int, int]]) -> None:
        try:
            for first, count in plan:
                batches = population.place_batches(self._gather(first, count), self._mesh)
                counters = population.place_counters((np.int32(first), np.int32(count)), self._mesh)
                sent = batches, *counters
                if self._left.is_set():
                    break
                self._ready.put((first, count, sent))
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def _gather(self, first: int, count: int) -> Batch:
        s = self._shape
        axes = (s.members, s.steps, s.batch, s.length)
        gathered = Batch(*(np.zeros(axes, kind) for kind in (np.int32, np.int32, np.int32, np.float32)))
        for member, place in zip(self._members, self._place, strict=True):
            taken = min(count, member.steps - first)
            if taken > 0:
                for whole, part in zip(gathered, member.data.batches(first, taken), strict=True):
                    whole[place, :taken] = part
        return gathered


def _initial(
    members: Sequence[Member], model: Model, vocab: int, place: np.ndarray, count: int
) -> tuple[State, Any, Hyper]:
    """State, reference and numbers of a population before its first step, in places. Empty places have 0 steps."""
    name = members[0].optimizer.name
    numbers = [hyper(m.optimizer, m.schedule, m.steps, m.beta or 0.0, model.transfer) for m in members]
    empty = numbers[0]._replace(steps=np.int32(0))
    params = [
        init_parameters(model, vocab, derive(m.seed, "init")) if m.parent is None else m.parent
        for m in members
    ]
    one = population.init_member(name, params[0], numbers[0])
    # A fresh optimizer's state is the same for all.
    state = jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], count, axis=0), one)
    for m, p in enumerate(place):
        for key, array in state.params.items():
            array[p] = params[m][key]
    in_place = [empty] * count
    for m, p in enumerate(place):
        in_place[p] = numbers[m]
    # The state is donated and changes; the reference stays what it is.
    reference = None if members[0].beta is None else jax.tree.map(np.copy, state.params)
    return state, reference, population.stack(in_place)


def laid_out(
    pace: Pace, members: int, model: Model, batch: int, length: int, precision: str = "float32"
) -> Layout:
    """How `train` lays out so many members on this machine. Raises Unfit (see `layout_of`)."""
    places, here = max(pace.places, members), jax.default_backend()
    shapes = places, batch, length, model.width
    layout = layout_of(
        here, len(jax.devices()), *shapes, pace.asked, precision, model.kv_heads, model.mlp_width
    )
    positions = (layout.rows or batch // (layout.data * layout.fsdp)) * length
    sizes = {"heads": model.head_dim, "swiglu": model.mlp_width // layout.tensor}
    if layout.compute.fused and not all(
        fused(name, layout.compute, n, positions) for name, n in sizes.items()
    ):
        raise Unfit(
            "fused",
            f"its kernels take heads of a power of 2, neurons by 16 and positions by 128, not heads of "
            f"{model.head_dim}, {sizes['swiglu']} neurons and {positions:,} positions at a time on a device",
        )
    return layout


def train(
    members: Sequence[Member],
    model: Model,
    vocab: int,
    batch: int,
    length: int,
    folder: Path,
    sink: Sink,
    pace: Pace,
    stop: threading.Event,
    announce: Callable[[str], None] = lambda line: None,
    precision: str = "float32",
    profile: Profile | None = None,
) -> Trained:
    """Train `members` together to their last steps, from the newest valid checkpoint in `folder`.

    All members have the same kind of optimizer and of loss. Where `stop` is set, the dispatch under way is finished, a
    checkpoint is written, and the result is not complete: the same call goes on later with the same bits
    as if it had never stopped. `announce` is given lines for a person: compiling, resuming, damage. `precision` is
    that of products (see caml/models/compute.py). With a `profile` a few dispatches are traced.
    """
    if len({m.optimizer.name for m in members}) != 1:
        raise ValueError("members of a population have one kind of optimizer")
    preference = members[0].beta is not None
    if any((m.beta is not None) != preference for m in members):
        raise ValueError("members of a population have one kind of loss")
    if preference and any(m.parent is None for m in members):
        raise ValueError("a preference loss compares with a parent")
    layout = laid_out(pace, len(members), model, batch, length, precision)
    mesh = member_mesh(layout.data, layout.fsdp, layout.tensor, layout.groups)
    groups = mesh.shape["member"]
    count = -(-max(pace.places, len(members)) // groups) * groups
    place = deal([m.steps for m in members], count, groups)
    last = max(m.steps for m in members)
    optimizer = members[0].optimizer.name
    shape = Shape(model, vocab, batch, length, optimizer, count, pace.steps, layout, preference)
    state, reference, numbers = _initial(members, model, vocab, place, count)

    checkpoints = Checkpoints(
        folder,
        {
            "members": [m.name for m in members],
            "model": identity(model),
            "layout": str(layout),
            "device": jax.devices()[0].device_kind,
            "numerics": NUMERICS_VERSION,
        },
        pace.keep,
    )
    step, found, kept, passed_over = checkpoints.newest(state)
    for line in passed_over:
        announce(line)
    if step:
        announce(f"goes on from step {step}")
        # The same members may have had other places, of a program for more or fewer.
        saved = kept.pop(PLACE)
        for new, old in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
            new[place] = old[saved]
    sink.resume(step, kept)
    run, seconds = program(shape, mesh, state, reference, numbers)
    if seconds:
        announce(f"compiled one program in {seconds:.1f} s")
    state, reference, numbers = population.place((state, reference, numbers), mesh)

    def on_host(tree: Any) -> Any:
        """The members' rows of arrays in places. A copy: the arrays themselves are donated later."""
        return jax.tree.map(lambda array: array[place], jax.device_get(tree))

    handed_out: set[int] = set()

    def hand_out(all_of_them: bool) -> None:
        due = [m for m in range(len(members)) if members[m].steps <= step or gone[m] or all_of_them]
        if any(m not in handed_out for m in due):
            params, stopped = on_host((state.params, state.stopped))
            for m in sorted(set(due) - handed_out):
                sink.finished(m, {k: array[m] for k, array in params.items()}, int(stopped[m]))
                handed_out.add(m)

    unread: tuple[int, int, Any, Any] | None = None
    ends = np.array([m.steps for m in members])
    gone = on_host(state.stopped) >= 0
    losses, tokens = np.full(len(members), np.nan, np.float32), 0

    def read_metrics() -> None:
        """Record the dispatch before the one just sent, so that the devices never wait for the host."""
        nonlocal unread, gone, losses, tokens
        if unread is None:
            return
        (first, made, metrics, stopped), unread = unread, None
        arrays = {name: array[:, :made] for name, array in on_host(metrics).items()}
        taken = np.isfinite(arrays["rate"])
        gone = on_host(stopped) >= 0
        tokens += int(taken.sum()) * batch * length
        sink.measured(meter.read(first + made, tokens))
        sink.record(first, arrays)
        latest = arrays["loss"][np.arange(len(members)), np.maximum(taken.sum(axis=1) - 1, 0)]
        losses = np.where(taken.any(axis=1), latest, losses)
        sink.progress(first + made, last, tokens, losses)

    def save() -> None:
        read_metrics()
        # Before its metrics are closed past the step that stopped it.
        hand_out(all_of_them=False)
        checkpoints.save(step, state, {PLACE: place, **sink.close(step)})

    hand_out(all_of_them=False)
    saved_step, saved_at = step, time.monotonic()
    flops = model.training_flops(vocab, length, preference)
    peak = instruments.peak_flops(jax.devices()[0].device_kind, precision)
    meter = Meter(step, len(members), flops, peak, mesh.size, instruments.of_program(run, seconds))
    reader = _Reader(members, place, shape, mesh)
    on_each = layout.beside or -(-len(members) // groups)
    of_step = flops * batch * length * on_each * groups / mesh.size
    at_once = steps_at_once(pace.steps, of_step, jax.default_backend(), peak)
    dispatched = reader.read(dispatches(step, last, at_once, pace.observe_steps))
    with contextlib.ExitStack() as stack:
        for closing in (profile, meter, dispatched):
            if closing:
                stack.callback(closing.close)
        stack.enter_context(collecting.uncollected())
        for number, (first, made, sent) in enumerate(dispatched):
            if profile:
                profile.before(number, state)
            meter.sending()
            # All that it needs is on the devices: what would be brought there in passing, step for step, is refused.
            with jax.transfer_guard("disallow"):
                state, metrics = run(state, reference, numbers, *sent)
            meter.sent(metrics)
            step = first + made
            collecting.collect_young()
            read_metrics()
            # A copy: the state itself is donated to the next dispatch before this is read.
            unread = (first, made, metrics, jnp.copy(state.stopped))
            if profile and profile.after(state):
                meter.begin_anew()
            if pace.observe_steps and step % pace.observe_steps == 0:
                sink.observe(step, on_host(state.params))
            hand_out(all_of_them=False)
            if stop.is_set() or (gone | (ends <= step)).all():
                break
            due = pace.checkpoint_steps and step - saved_step >= pace.checkpoint_steps
            if step < last and (due or time.monotonic() - saved_at >= pace.checkpoint_seconds):
                save()
                collecting.collect()
                saved_step, saved_at = step, time.monotonic()
    read_metrics()
    complete = bool((gone | (ends <= step)).all())
    if complete:
        hand_out(all_of_them=True)
        sink.close(step)
    else:
        save()
    checkpoints.wait()
    params, stopped = on_host((state.params, state.stopped))
    return Trained(params, stopped, step, complete, int(seconds > 0), seconds, tuple(passed_over))
