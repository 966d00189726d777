"""What the ledger, checkpoints and the mirror cost a step: a whole launch, against its compiled program in a loop.

Both are in this process and run the same program in turn, a stretch of steps each: the program called with batches that
are on the devices and metrics dropped; and `train_population` with leases, ledger, checkpoints as often as by default
and the mirror to MLflow on its thread. A stretch is timed from its first dispatch that was made to its last. Probes in
mid-training are evaluation and left out. Of each round the two are compared; medians of these, by the clock and by the
processor time of all threads. The second is less moved by what else the machine does, and on a CPU an upper limit: the
mirror's work counts, although it stands back behind training.
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lines import line
from benchmarks.one_model import write_ablation
from benchmarks.training import CASES, Case

# The least ratio of the two: the whole launch takes at most 2% longer.
GOAL = 0.98


Moment = tuple[float, float, int]
"""Wall-clock and processor seconds, and the step that was reached."""


def now(step: int) -> Moment:
    """This moment, at which `step` was reached."""
    return time.perf_counter(), time.process_time(), step


class Told:
    """Progress that knows when each dispatch of a population was read."""

    def __init__(self) -> None:
        self.at: list[Moment] = []

    def say(self, text: str) -> None:
        """Show it, since a launch that fails says so here."""
        print(text, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, name: str, total: int | None) -> Iterator[Any]:
        """Note steps and time."""
        self.at = []
        yield lambda done, note: self.at.append(now(done))


def seconds_a_step(at: list[Moment]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a step, from the first to the last of the moments."""
    (wall, used, step), (last_wall, last_used, last) = at[0], at[-1]
    return (last_wall - wall) / (last - step), (last_used - used) / (last - step)


def measure(case: Case, file: Path) -> dict[str, list[tuple[float, float]]]:
    """Of each round, bare and whole, as `seconds_a_step`."""
    from caml.training.devices import prepare_devices

    prepare_devices()
    import jax

    from caml.ablations.catalogue import load_ablation
    from caml.ablations.condition import study_of
    from caml.ablations.grid import stagerun_text, used_stageruns
    from caml.ablations.populations import Population
    from caml.ablations.prepare import Stores, stores_of
    from caml.ablations.trainer import Launch, pace, train_population
    from caml.models.transformer import init_parameters
    from caml.tracking.lease import acquire_all
    from caml.tracking.mirror import Mirror
    from caml.tracking.provenance import provenance
    from caml.training import loop, population, programs
    from caml.training.mesh import member_mesh
    from caml.training.optimizer import hyper
    from caml.training.step import Batch

    study = study_of(load_ablation(file))
    study.claim()
    stageruns = used_stageruns(study.grid)
    told, stop, where = Told(), threading.Event(), study.where
    stores = Stores(where)
    stores.prepare(stores_of(stageruns), told, stop)
    mirror = Mirror(where.ledger, where.tracking, study.ablation.name, told.say)
    launch = Launch(
        where=where,
        stores=stores,
        progress=told,
        stop=stop,
        submit=mirror.submit,
        provenance=provenance(),
        configs={s.fingerprint: stagerun_text(study.ablation, s) for s in stageruns},
        control="",
        rung=None,
        pace=dataclasses.replace(
            pace(study.ablation.checkpoint_seconds, study.ablation.execution), observe_steps=0
        ),
        profile=None,
    )

    def whole(stagerun: Any) -> tuple[float, float]:
        with acquire_all([where.ledger.folder(stagerun.name)]):
            train_population(launch, Population((stagerun,), 1), evaluator=None)  # type: ignore[arg-type]
        return seconds_a_step(told.at)

    def bare(stagerun: Any) -> tuple[float, float]:
        """The same steps, by the program alone."""
        stage, model = stagerun.stage, stagerun.model
        layout = loop.laid_out(launch.pace, 1, model, case.batch, case.length)
        mesh = member_mesh(layout.data)
        params = init_parameters(model, case.vocabulary, 0)
        numbers = hyper(stage.optimizer, stage.schedule, stagerun.steps)
        state = population.stack([population.init_member(stage.optimizer.name, params, numbers)])
        shape = programs.Shape(
            model, case.vocabulary, case.batch, case.length, stage.optimizer.name, 1, launch.pace.steps, layout, False
        )  # fmt: skip
        run, compiling = programs.program(shape, mesh, state, None, population.stack([numbers]))
        assert compiling == 0, "not the program of the launch"
        state, numbers = population.place((state, population.stack([numbers])), mesh)
        data, sent = stores.data(stagerun), []
        for first, count in loop.dispatches(0, stagerun.steps, launch.pace):
            batches = jax.tree.map(lambda x: x[None], Batch(*data.batches(first, count)))
            counters = population.place_counters((np.int32(first), np.int32(count)), mesh)
            sent.append((first + count, population.place_batches(batches, mesh), *counters))
        jax.block_until_ready(sent)
        at, before = [], None
        for reached, *arguments in sent:
            state, metrics = run(state, None, numbers, *arguments)
            if before:
                jax.block_until_ready(before[1])
                at.append(now(before[0]))
            before = reached, metrics
        jax.block_until_ready(state)
        return seconds_a_step([*at, now(stagerun.steps)])

    found: dict[str, list[tuple[float, float]]] = {"bare": [], "whole": []}
    whole(stageruns[0])  # compiles
    for number, stagerun in enumerate(stageruns[1:]):
        # The one that comes first changes from round to round.
        for kind in ("bare", "whole") if number % 2 else ("whole", "bare"):
            found[kind].append({"bare": bare, "whole": whole}[kind](stagerun))
    mirror.stop(60)
    return found


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=CASES, default="1M")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=96, help="of each stretch; a multiple of 16")
    asked = parser.parse_args()
    case = CASES[asked.case]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(case, write_ablation(Path(folder), case, asked.steps, asked.rounds + 1))
    for column, what in enumerate(("wall-clock", "processor time")):
        mine, theirs = ([times[column] for times in found[kind]] for kind in ("whole", "bare"))
        ratios = [their / our for our, their in zip(mine, theirs, strict=True)]
        spread = {"ours": mine, "peer": theirs, "ratio": ratios}
        ours, peer = float(np.median(mine)), float(np.median(theirs))
        line(
            "overhead", f"{case.told}, {what}", ours, peer, "s a step", float(np.median(ratios)), GOAL, spread
        )


if __name__ == "__main__":
    main()
