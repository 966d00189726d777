"""Letting StageRuns sit the benchmarks that their ablation names."""

import threading
from collections.abc import Callable, Sequence

from caml.ablations.condition import Study
from caml.ablations.progress import Progress, Stopped
from caml.ablations.runs import StageRun
from caml.config.errors import Failure
from caml.config.text import counted
from caml.evals.benchmarks import inspecting
from caml.evals.benchmarks.benchmark import Benchmark
from caml.evals.benchmarks.readiness import named_in
from caml.evals.benchmarks.scores import Sat
from caml.tracking.lease import acquire_all
from caml.tracking.ledger import Ledger

# Seconds between looks at what another launch is asking.
WAIT = 2.0


def sit_stagerun(ledger: Ledger, name: str, stagerun: StageRun, benchmark: Benchmark) -> Sat:
    """Let a complete StageRun, in the ledger's folder `name`, sit a benchmark; raises as `inspecting.sit`."""
    told = inspecting.told(name, stagerun.model, stagerun.tokenizer.vocabulary)
    return inspecting.sit(
        ledger.folder(name), ledger.params_digest(name), benchmark, ledger.shelf(name), told
    )


def sat(ledger: Ledger, name: str, benchmark: Benchmark) -> str | None:
    """The folder of what a StageRun with its parameters of now scored on a benchmark, the last one; None without.

    Whatever version of Inspect asked: what was graded once is not paid for again because a package is newer.
    """
    found = []
    for folder in ledger.benchmarks(name):
        try:
            summary, written = ledger.read_benchmark(name, folder)
        except Failure:  # altered, or of parameters that are gone
            continue
        if inspecting.is_of(summary, benchmark):
            found.append((written, folder))
    return max(found)[1] if found else None


def unsat(study: Study, stageruns: Sequence[StageRun]) -> list[tuple[StageRun, Benchmark]]:
    """Those of `stageruns`, with each benchmark of their ablation, that have not sat it."""
    ledger = study.where.ledger
    return [
        (stagerun, benchmark)
        for benchmark in study.ablation.benchmarks
        for stagerun in stageruns
        if sat(ledger, stagerun.name, benchmark) is None
    ]


def sit_missing(
    study: Study,
    stageruns: Sequence[StageRun],
    submit: Callable[[str], None],
    progress: Progress,
    stop: threading.Event,
) -> int:
    """Let the complete `stageruns` sit what they have not; returns how many sittings were made.

    Raises Failure where a sitting ends early, UserError where it cannot begin, and `Stopped` at Ctrl-C or SIGTERM: what
    was graded is kept, and the same command goes on.
    """
    ledger = study.where.ledger
    missing = unsat(study, stageruns)
    if not missing:
        return 0
    names = ", ".join(dict.fromkeys(benchmark.name for _, benchmark in missing))
    progress.say(
        f"{study.ablation.name}: {counted(len(missing), 'sitting')} of {names} to be asked and graded"
    )
    made = done = 0
    with progress.task("benchmarks", len(missing)) as advance:
        left = missing
        while left:
            postponed = []
            for stagerun, benchmark in left:
                if stop.is_set():
                    raise Stopped
                advance(done, f"{benchmark.name}, {stagerun.name}")
                with acquire_all([ledger.folder(stagerun.name)]) as leases:
                    if leases.refused:
                        postponed.append((stagerun, benchmark))
                        continue
                    if sat(ledger, stagerun.name, benchmark) is None:  # another launch may have been here
                        try:
                            with named_in(study.loaded.fault):
                                sit_stagerun(ledger, stagerun.name, stagerun, benchmark)
                        except KeyboardInterrupt:
                            raise Stopped from None
                        except Failure as failure:
                            raise Failure(
                                f"{stagerun.name}: {failure}; a report without {benchmark.name} is written when "
                                "Ablation.benchmarks does not name it"
                            ) from None
                        made += 1
                done += 1
                submit(stagerun.name)
            if len(postponed) == len(left):
                stop.wait(WAIT)  # another launch asks all of them
            left = postponed
        advance(len(missing), "asked and graded")
    return made
