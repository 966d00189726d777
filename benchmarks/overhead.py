"""What the ledger, checkpoints and the mirror cost a step: a whole launch, against its compiled program in a loop.

Both are in this process and run the same program in turn, a stretch of steps each: the program called with batches that
are on the devices and metrics dropped, as many steps at a time as it takes at most; and `train_population` with leases,
ledger, the mirror to MLflow on its thread and checkpoints as often as by default, at least one in each stretch. A
stretch is timed from its first dispatch that was made to its last. Probes in mid-training are evaluation and left out.
Of each round the two are compared; medians of these.

Two cases: by the clock, which moves by more than the goal with whatever else a machine does; and the processor time of
all threads but XLA's, which does not. The second is what a step would take if all that a launch does beside the program
stood in the program's way; most of it does not. Linux alone tells it.
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


def beside_the_program() -> float:
    """Processor seconds of this process without those of XLA's threads, which stay as long as it does."""
    inside = 0.0
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # ended
            if (thread / "comm").read_text().startswith("tf_XLA"):
                inside += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return time.process_time() - inside


def now(step: int) -> Moment:
    """This moment, at which `step` was reached."""
    return time.perf_counter(), beside_the_program(), step


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
    """Wall-clock of a step and processor seconds beside the program, from the first to the last of the moments."""
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
    from caml.training.pacing import dispatches
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

    class Counted(loop.Checkpoints):
        """Checkpoints that are counted."""

        def save(self, step: int, *arrays: Any) -> None:
            saved.append(step)
            super().save(step, *arrays)

    saved: list[int] = []
    loop.Checkpoints = Counted  # type: ignore[misc]

    def whole(stagerun: Any) -> tuple[float, float]:
        saved.clear()
        with acquire_all([where.ledger.folder(stagerun.name)]):
            train_population(launch, Population((stagerun,), 1), evaluator=None)  # type: ignore[arg-type]
        if not saved:
            sys.exit(f"no checkpoint fell into {stagerun.steps} steps; --steps asks for more")
        return seconds_a_step(told.at)

    def bare(stagerun: Any) -> tuple[float, float]:
        """The same steps, by the program alone."""
        stage, model = stagerun.stage, stagerun.model
        layout = loop.laid_out(launch.pace, 1, model, case.batch, case.length)
        mesh = member_mesh(layout.data, groups=layout.groups)
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
        for first, count in dispatches(0, stagerun.steps, launch.pace.steps):
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
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps",
        type=int,
        default=512,
        help="of each stretch, long enough for a checkpoint; a multiple of 16",
    )
    asked = parser.parse_args()
    case = CASES[asked.case]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(case, write_ablation(Path(folder), case, asked.steps, asked.rounds + 1))
    bare, whole = (np.array(found[kind]).T for kind in ("bare", "whole"))
    costing = bare[0] + np.maximum(whole[1] - bare[1], 0)
    for what, ours in (
        ("wall-clock", whole[0]),
        ("with the processor time of all but XLA's threads", costing),
    ):
        ratios = bare[0] / ours
        spread = {"ours": list(ours), "peer": list(bare[0]), "ratio": list(ratios)}
        middle = [float(np.median(values)) for values in (ours, bare[0], ratios)]
        line("overhead", f"{case.told}, {what}", middle[0], middle[1], "s a step", middle[2], GOAL, spread)


if __name__ == "__main__":
    main()
