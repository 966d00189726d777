"""Training one population into the ledger: what each member is, and where its metrics and parameters go."""

import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load as parse_parameters

from caml.ablations.inflight import CHECKPOINTS, discard, recorded_members, started_from
from caml.ablations.places import Places
from caml.ablations.populations import Population
from caml.ablations.prepare import Stores
from caml.ablations.progress import Advance, Progress
from caml.ablations.runs import StageRun
from caml.config.fingerprint import NUMERICS_VERSION
from caml.config.seeds import derive
from caml.config.text import counted
from caml.data.mixture import StageData
from caml.evals.evaluation import Evaluator
from caml.models.transformer import init_parameters
from caml.tracking.ledger import State
from caml.training.capacity import population_size, scored_size
from caml.training.checkpoints import save_parameters
from caml.training.execution import Execution
from caml.training.instruments import Reading
from caml.training.layouts import Layout
from caml.training.loop import Arrays, Member, Parameters, laid_out, train
from caml.training.pacing import Pace
from caml.training.population import METRICS
from caml.training.profiling import Profile

# Steps over which metrics are averaged into one row of the ledger, and between probes in mid-training. Both
# are matters of record keeping: neither changes a bit of what is trained. Probes are made where a row ends.
LOG_STEPS = 8
OBSERVE_STEPS = 10 * LOG_STEPS


@dataclasses.dataclass(frozen=True)
class Launch:
    """What stays the same while one launch works: where things are, whom to tell, when to stop.

    A `profile`, where one was asked for, is of the first population that it finds.
    """

    where: Places
    stores: Stores
    progress: Progress
    stop: threading.Event
    submit: Callable[[str], None]
    provenance: Mapping[str, Any]
    configs: Mapping[str, str]
    control: str
    rung: str | None
    pace: Pace
    profile: Profile | None


def parameters(launch: Launch, stagerun: StageRun) -> Parameters:
    """The final parameters of a complete StageRun, digests checked."""
    return parse_parameters(launch.where.ledger.params(stagerun.name))


def begins_with(launch: Launch, stagerun: StageRun) -> Parameters | None:
    """The parameters that a StageRun begins with: its parent's, or those of an initial model; None: fresh ones."""
    if stagerun.parent:
        return parameters(launch, stagerun.parent)
    return stagerun.initial.parameters() if stagerun.initial else None


def train_population(launch: Launch, population: Population, evaluator: Evaluator) -> bool:
    """Train what is missing of `population`; whether it came to its end (False where it was told to stop).

    The members of the first launch are those of every later one that goes on with it. Members that are
    complete elsewhere already are not trained.
    """
    ledger = launch.where.ledger
    missing = [s for s in population.members if ledger.state(s.name) is not State.COMPLETE]
    untrained = [s for s in missing if not s.steps]
    for stagerun in untrained:
        _write_untrained(launch, stagerun)
    if len(untrained) == len(missing):
        return True
    folder = launch.where.populations / population.name
    members = recorded_members(launch.where, population, missing, launch.progress.say)
    data = {member.name: launch.stores.data(member) for member in members}
    first, lies = members[0], layout(launch.pace, population)
    with launch.progress.task(
        f"{first.stage.name} {first.model.name}", max(m.steps for m in members)
    ) as advance:
        sink = _LedgerSink(launch, members, data, evaluator, advance, lies)
        trained = train(
            [
                Member(
                    name=member.fingerprint,
                    seed=member.seed,
                    steps=member.steps,
                    optimizer=member.stage.optimizer,
                    schedule=member.stage.schedule,
                    data=data[member.name],
                    parent=begins_with(launch, member),
                    beta=member.stage.beta if member.stage.preference else None,
                )
                for member in members
            ],
            first.model,
            first.tokenizer.vocabulary,
            first.stage.batch,
            first.stage.length,
            folder / CHECKPOINTS,
            sink,
            _for(population, launch.pace),
            launch.stop,
            launch.progress.say,
            first.stage.precision,
            launch.profile,
        )
    if trained.complete:
        if sink.reading and sink.reading.tokens_per_second:
            memory = f"at most {sink.reading.peak_bytes / 2**30:.2g} GiB of memory in "
            memory += "this process" if sink.reading.peak_of == "process" else "one device"
            told = ", ".join([*_shown(sink.reading), memory])
            launch.progress.say(
                f"trained {counted(len(members), 'member')} of {first.stage.name} {first.model.name}: {told}"
            )
        discard(launch.where, population)
    return trained.complete


def layout(paced: Pace, population: Population) -> Layout:
    """How the members of `population` lie on this machine. Raises Unfit (see `layout_of`)."""
    first = population.members[0]
    stage = first.stage
    return laid_out(_for(population, paced), 1, first.model, stage.batch, stage.length, stage.precision)


def _for(population: Population, paced: Pace) -> Pace:
    """The pace of this population: members so few that they leave devices free share them instead."""
    few = population.of < len(jax.devices())
    places = min(population.places, population.of) if few else population.places
    return dataclasses.replace(paced, places=places)


def _layout_of_all(paced: Pace, alike: Sequence[StageRun]) -> Layout:
    """How all of `alike` would lie together."""
    return layout(paced, Population((alike[0],), len(alike), len(alike)))


def beside(paced: Pace, alike: Sequence[StageRun]) -> bool:
    """Whether members like these lie side by side on this machine. Raises Unfit (see `layout_of`)."""
    return _layout_of_all(paced, alike).beside > 0


def together(
    paced: Pace, asked: int, due: Set[StageRun], say: Callable[[str], None], alike: Sequence[StageRun]
) -> int:
    """How many of `alike`, which one program trains, this machine trains together; `asked`: at most so many.

    Where none of them is `due` to be trained, how many are scored together. `say` is told before a program is compiled
    to see what it needs.
    """
    first, stage = alike[0], alike[0].stage
    words = first.tokenizer.vocabulary
    if due.isdisjoint(alike):
        return scored_size(len(alike), first.model, words, asked)
    lies = _layout_of_all(paced, alike)
    return population_size(
        len(alike),
        first.model,
        words,
        stage.batch,
        stage.length,
        paced.steps,
        stage.optimizer,
        stage.preference,
        lies,
        asked,
        say,
    )


def pace(checkpoint_seconds: float, asked: Execution) -> Pace:
    """How this machine trains populations, laid out as `asked`."""
    return Pace(
        checkpoint_seconds=checkpoint_seconds,
        observe_steps=OBSERVE_STEPS,
        asked=asked,
    )


def _write_untrained(launch: Launch, stagerun: StageRun) -> None:
    """A first stage without steps: the parameters that it begins with are the final ones."""
    ledger = launch.where.ledger
    ledger.start(
        stagerun.name,
        launch.configs[stagerun.fingerprint],
        _manifest(launch, stagerun, None, None),
        launch.provenance,
    )
    ledger.truncate(stagerun.name, 0)
    params = begins_with(launch, stagerun) or init_parameters(
        stagerun.model, stagerun.tokenizer.vocabulary, derive(stagerun.seed, "init")
    )
    save_parameters(ledger.params_path(stagerun.name), params)
    ledger.complete(stagerun.name, 0, {"final_loss": float("nan"), "diverged": False, "skipped": 0})
    launch.submit(stagerun.name)


def _manifest(
    launch: Launch, stagerun: StageRun, data: StageData | None, layout: Layout | None
) -> dict[str, Any]:
    """What a StageRun is, for its ledger: identity, axes, and what its sources really give it."""
    counts = {role: dataclasses.asdict(count) for role, count in data.counts().items()} if data else {}
    root_dose = counts.get("intervention", {}).get("tokens", 0)
    if stagerun.initial and not root_dose:
        root_dose = stagerun.initial.treatment.dose_tokens
    if stagerun.parent:
        root_dose = launch.where.ledger.manifest(stagerun.root.name)["dose_tokens"]
    return {
        "fingerprint": stagerun.fingerprint,
        "stage": stagerun.stage.name,
        "parent": stagerun.parent.fingerprint if stagerun.parent else None,
        "started_from": started_from(launch.where, stagerun),
        "identity": stagerun.history,
        "numerics": f"{NUMERICS_VERSION} ({layout})" if layout else str(NUMERICS_VERSION),
        "arm": stagerun.arm,
        "control": launch.control,
        "rung": launch.rung,
        "ratio": stagerun.ratio,
        "size": stagerun.model.name,
        "params": stagerun.model.parameters(stagerun.tokenizer.vocabulary)[0],
        "seed": stagerun.seed,
        "tokens": stagerun.slots * stagerun.stage.length,
        "dose_tokens": root_dose,
        "second_tokens": counts.get("second", {}).get("tokens", 0),
        "loss_tokens": sum(count["loss_tokens"] for count in counts.values()),
        "sources": counts,
        "datasets": _datasets(launch, stagerun) if data else [],
    }


def _datasets(launch: Launch, stagerun: StageRun) -> list[dict[str, str]]:
    """The stores that a StageRun reads, as a tracking store records them."""
    mixture = stagerun.stage.mixture
    found = []
    for role, source in mixture.sources().items():
        store = launch.stores.open(source, stagerun.seed, stagerun.tokenizer, mixture.template)
        found.append(
            {
                "name": source.name,
                "digest": store.manifest.content_digest,
                "source": source.origin,
                "context": f"{stagerun.stage.name}/{role}",
            }
        )
    return found


class _LedgerSink:
    """Metrics, probes in mid-training and final parameters of a population, written to its members' ledgers."""

    def __init__(
        self,
        launch: Launch,
        members: Sequence[StageRun],
        data: Mapping[str, StageData],
        evaluator: Evaluator,
        advance: Advance,
        layout: Layout,
    ):
        self._launch, self._members, self._evaluator, self._advance = launch, members, evaluator, advance
        self._ledger = launch.where.ledger
        self._data, self._layout = data, layout
        self._per_step = members[0].stage.batch * members[0].stage.length
        self._closed = self._recorded = 0
        self.reading: Reading | None = None
        self._left: dict[int, tuple[Parameters, int]] = {}
        self._records: list[tuple[int, Arrays]] = []
        self._probes: list[tuple[int, dict[int, dict[str, float]]]] = []
        self._open = {m: s for m, s in enumerate(members) if self._ledger.state(s.name) is not State.COMPLETE}

    def resume(self, step: int, kept: Arrays) -> None:
        """Start the ledgers of all that are not complete, and drop what they have past `step`."""
        self._closed, self._recorded = step - step % LOG_STEPS, step
        self._records = [(self._closed, kept)] if kept else []
        for stagerun in self._open.values():
            config = self._launch.configs[stagerun.fingerprint]
            manifest = _manifest(self._launch, stagerun, self._data[stagerun.name], self._layout)
            self._ledger.start(stagerun.name, config, manifest, self._launch.provenance)
            self._ledger.truncate(stagerun.name, min(self._closed, stagerun.steps))
            self._launch.submit(stagerun.name)

    def record(self, first_step: int, arrays: Arrays) -> None:
        """Keep the metrics of one dispatch until their segment is closed."""
        self._records.append((first_step, arrays))
        self._recorded = first_step + arrays["loss"].shape[1]
        self._complete_due()

    def close(self, step: int) -> Arrays:
        """Write the segments of every member that is not complete, and give the steps of a row that is not full yet.

        So rows are the same whenever a launch was stopped.
        """
        whole = step - step % LOG_STEPS
        for member, stagerun in self._open.items():
            self._write(member, stagerun, min(whole, stagerun.steps))
        kept = _steps_of(self._records, whole, step) if step > whole else {}
        self._closed, self._records, self._probes = whole, [(whole, kept)] if kept else [], []
        return kept

    def observe(self, step: int, params: Parameters) -> None:
        """Score the monitored probes of every member that is still in training."""
        due = list(self._open)
        if due:
            taken = {name: array[due] for name, array in params.items()}
            seeds = [self._members[member].seed for member in due]
            found = self._evaluator.monitor(taken, seeds, len(self._members))
            self._probes.append((step, dict(zip(due, found, strict=True))))

    def measured(self, reading: Reading) -> None:
        """Keep what the instruments show, for members that complete and for whoever watches."""
        self.reading = reading

    def progress(self, step: int, last_step: int, tokens: int, loss: np.ndarray) -> None:
        """Tell where the population is."""
        known = loss[np.isfinite(loss)]
        mean = f"loss {known.mean():.3f}" if len(known) else "no loss yet"
        shown = _shown(self.reading) if self.reading else []
        self._advance(step, ", ".join([counted(len(self._members), "member"), *shown, mean]))

    def finished(self, member: int, params: Parameters, stopped: int) -> None:
        """Complete a member's ledger as soon as its last metrics, which come one dispatch late, are there."""
        if member in self._open:
            self._left[member] = params, stopped
            self._complete_due()

    def _complete_due(self) -> None:
        for member, (params, stopped) in list(self._left.items()):
            stagerun = self._open[member]
            reached = stagerun.steps if stopped < 0 else stopped
            if reached > self._recorded:
                continue
            self._write(member, stagerun, reached)
            save_parameters(self._ledger.params_path(stagerun.name), params)
            facts = {"diverged": stopped >= 0, **self._told_by_metrics(member, reached)}
            facts["instruments"] = dataclasses.asdict(self.reading) if self.reading else None
            self._ledger.complete(stagerun.name, reached, facts)
            self._launch.submit(stagerun.name)
            del self._open[member], self._left[member]

    def _told_by_metrics(self, member: int, steps: int) -> dict[str, Any]:
        """`final_loss`, the mean over the last twentieth of the stage, and `skipped`, steps at spikes."""
        rows = [row for content in self._ledger.read_segments(self._members[member].name, "metrics")
                for row in content.table.to_pylist()]  # fmt: skip
        last = [row["loss"] for row in rows if row["step"] > steps * 0.95]
        return {
            "final_loss": float(np.mean(last)) if last else float("nan"),
            "skipped": int(sum(row.get("skipped", 0) for row in rows)),
        }

    def _write(self, member: int, stagerun: StageRun, end: int) -> None:
        """Close the segment of a member from the last one to step `end`."""
        begin = min(self._closed, end)
        if end <= begin:
            return
        columns = _rows(self._records, member, begin, end)
        columns["tokens"] = [step * self._per_step for step in columns["step"]]
        if not any(columns["skipped"]):
            del columns["skipped"]
        self._ledger.write_segment(stagerun.name, "metrics", begin, end, columns)
        scored = [
            (step, step * self._per_step, outcome, value)
            for step, found in self._probes
            if begin < step <= end
            for outcome, value in found[member].items()
        ]
        if scored:
            names = ("step", "tokens", "outcome", "value")
            columns = dict(zip(names, map(list, zip(*scored, strict=True)), strict=True))
            self._ledger.write_segment(stagerun.name, "trajectory", begin, end, columns)


def _shown(reading: Reading) -> list[str]:
    """What a person is shown of the instruments, as far as it is known."""
    shown = []
    if reading.tokens_per_second is not None:
        shown.append(f"{reading.tokens_per_second:,.0f} tokens/s")
    if reading.model_flops_utilisation is not None:
        shown.append(f"MFU {reading.model_flops_utilisation:.1%}")
    if reading.host_bound is not None:
        shown.append(f"host-bound {reading.host_bound:.0%}")
    return shown


def _steps_of(
    records: Sequence[tuple[int, Arrays]], begin: int, end: int, members: slice = slice(None)
) -> Arrays:
    """Metrics `[members, steps]` from step `begin` to `end` of what was recorded; NaN where nothing was."""
    found = {}
    for name, recorded in records[0][1].items():
        found[name] = np.full((len(recorded[members]), end - begin), np.nan)
        for first, arrays in records:
            values = arrays[name][members]
            low, high = max(first, begin), min(first + values.shape[1], end)
            if low < high:
                found[name][:, low - begin : high - begin] = values[:, low - first : high - first]
    return found


def _rows(records: Sequence[tuple[int, Arrays]], member: int, begin: int, end: int) -> dict[str, list]:
    """Metrics of one member from step `begin` to `end`, averaged over windows that end at whole LOG_STEPS.

    `skipped` is not averaged but counted. The first step stands alone: its loss is that of the parameters before it, on
    rows that they have not seen.
    """
    alone = _steps_of(records, begin, end, slice(member, member + 1))
    per_step = {name: values[0] for name, values in alone.items()}
    steps = np.arange(begin + 1, end + 1)
    ends = np.flatnonzero((steps % LOG_STEPS == 0) | (steps == 1) | (steps == end)) + 1
    windows = list(zip([0, *ends[:-1]], ends, strict=True))
    columns: dict[str, list] = {"step": [int(steps[b - 1]) for _, b in windows]}
    for name, values in per_step.items():
        parts = [values[a:b] for a, b in windows]
        if name == "skipped":
            columns[name] = [int(part.sum()) for part in parts]
            continue
        if name not in METRICS:  # of a batch without pairs there is nothing to tell
            parts = [part[~np.isnan(part)] for part in parts]
        columns[name] = [float(part.mean()) if len(part) else float("nan") for part in parts]
    return columns
