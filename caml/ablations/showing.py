"""The grid of an ablation as text: what it consists of, what it costs, and what is there."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from caml.ablations.auditing import audit
from caml.ablations.grid import cells, used_stageruns
from caml.ablations.places import places
from caml.ablations.populations import depth, plan
from caml.ablations.runs import Ablation, StageRun
from caml.config.resolve import Loaded
from caml.config.text import counted
from caml.evals.benchmarks.benchmark import Benchmark
from caml.evals.identity import evaluation_fingerprint
from caml.tracking.ledger import Ledger, State
from caml.training.devices import MOST_MEMBERS


def _trouble(name: str, manifest: Mapping[str, Any]) -> list[str]:
    """Lines on a complete StageRun in whose training something was not as it should be."""
    skipped = manifest.get("skipped", 0)
    told = f"{counted(skipped, 'step')} of {name} skipped at spikes of the gradient norm" if skipped else ""
    if manifest["diverged"]:
        stopped = (
            f"diverged: {name}, stopped after {counted(manifest['steps'], 'step')} with its last good state"
        )
        return [f"{stopped}; {told}" if told else stopped]
    return [told] if told else []


def _sittings(
    benchmarks: Iterable[Benchmark], ledger: Ledger, stageruns: Sequence[StageRun]
) -> Iterator[str]:
    """A line for each benchmark: how many sittings there are to be, and how many are there."""
    from caml.ablations.examining import sat  # what is heavy waits until it is used

    for benchmark in benchmarks:
        there = sum(sat(ledger, s.name, benchmark) is not None for s in stageruns)
        graders = f", graded by {', '.join(benchmark.graders)}" if benchmark.graders else ""
        yield f"benchmark {benchmark.name}: {counted(len(stageruns), 'sitting')}, {there} there{graders}"


def shown(loaded: Loaded) -> list[str]:
    """Lines: the cells with what exists of them, what is damaged, the audit of their mixtures, sizes, tokens and cost.

    Damage is seen here by what files there are and their sizes; whatever reads a file checks its digest.
    """
    ablation: Ablation = loaded.tree
    grid = cells(loaded)
    where = places(ablation)
    evaluation = evaluation_fingerprint(grid[0].run.probes)
    stageruns = used_stageruns(grid)
    states = {s: where.ledger.state(s.name) for s in stageruns}
    evaluated = {
        s: where.ledger.evaluation_state(s.name, evaluation) for s in stageruns if states[s] is State.COMPLETE
    }
    scored = {s for s, state in evaluated.items() if state is State.COMPLETE}
    damage = [
        found
        for s in stageruns
        for of, state in ((None, states[s]), (evaluation, evaluated.get(s)))
        if state is State.DAMAGED and (found := where.ledger.damage(s.name, evaluation=of))
    ]
    width = max(len(cell.id) for cell in grid)
    lines = []
    for cell in grid:
        last = cell.stageruns[-1]
        exists = "scored" if last in scored else str(states[last])
        lines.append(f"{cell.id:<{width}}  {exists:<9} {last.name}")
    lines += [f"damaged: {found}" for found in damage]
    for name in (s.name for s in evaluated):
        lines += _trouble(name, where.ledger.manifest(name))
    lines += ["", *audit(stageruns, where), ""]
    sizes = {(s.model.name, *s.model.parameters(s.tokenizer.vocabulary)): None for s in stageruns}
    for name, body, tables in sizes:
        lines.append(f"size {name}: {body:,} non-embedding parameters and {tables:,} in the embedding")
    flops = 0.0
    for (level, name), count in sorted(Counter((depth(s), s.stage.name) for s in stageruns).items()):
        group = [s for s in stageruns if (depth(s), s.stage.name) == (level, name)]
        tokens = sum(s.slots * s.stage.length for s in group)
        flops += sum(
            s.model.training_flops(s.tokenizer.vocabulary, s.stage.length, s.stage.preference)
            * s.slots
            * s.stage.length
            for s in group
        )
        done = sum(s in scored for s in group)
        lines.append(
            f"stage {name}: {counted(count, 'StageRun')}, {done} there, {tokens:,} tokens to train on in all"
        )
    if not ablation.control and any(s.ratio > 0 for s in stageruns):
        lines.append("control: none; Ablation.control names one, and without it no effect is estimated")
    if ablation.benchmarks:
        lines += _sittings(ablation.benchmarks, where.ledger, stageruns)
    populations = plan(stageruns, ablation.population)
    trained = f"{counted(len(stageruns), 'StageRun')} in {counted(len(populations), 'population')}"
    trained += f" of at most {ablation.population or MOST_MEMBERS}"
    lines.append(f"{ablation.name}: {counted(len(grid), 'cell')}, {trained}")
    lines.append(
        f"training cost: {flops:.3g} floating-point operations, forward and backward with causal attention"
    )
    return lines
