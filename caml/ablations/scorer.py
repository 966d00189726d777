"""Evaluating the complete StageRuns of an ablation that lack the scores of its probes."""

from collections.abc import Sequence

from caml.ablations.runs import Run, StageRun
from caml.ablations.trainer import Launch, parameters
from caml.data.tokenizer_recipes import TokenizerRecipe
from caml.evals.evaluation import Evaluator
from caml.evals.identity import evaluation_fingerprint
from caml.models.sizes import Model
from caml.tracking.ledger import State
from caml.training.devices import MOST_MEMBERS
from caml.training.mesh import member_mesh
from caml.training.population import stack


class Evaluators:
    """One evaluator for each size, tokenizer and length of sequences of an ablation.

    The length in which held-out text is packed is that of a StageRun's own first stage: a score does not
    depend on which ablation asked for it first.
    """

    def __init__(self, launch: Launch, runs: Sequence[Run]):
        self._launch, self._runs = launch, runs
        self._made: dict[tuple[Model, TokenizerRecipe, int], Evaluator] = {}
        self.fingerprint = evaluation_fingerprint(runs[0].probes)

    def of(self, stagerun: StageRun) -> Evaluator:
        """The evaluator of a StageRun, with the held-out text of every seed block of its size."""
        model, tokenizer, length = stagerun.model, stagerun.tokenizer, stagerun.root.stage.length
        if (model, tokenizer, length) not in self._made:
            probes, stores = self._runs[0].probes, self._launch.stores
            held_out = {
                seed: stores.open(probes.held_out(seed), seed, tokenizer, "chatml")
                for seed in sorted({run.seed for run in self._runs if run.model == model})
            }
            self._made[model, tokenizer, length] = Evaluator(
                probes, model, stores.tokenizer(tokenizer), held_out, length, member_mesh()
            )
        return self._made[model, tokenizer, length]


def score_missing(
    launch: Launch, evaluators: Evaluators, stageruns: Sequence[StageRun], together: int
) -> None:
    """Score those of `stageruns` (of one population, complete) that have no whole evaluation of these probes.

    As many at a time as are trained `together`, but at most MOST_MEMBERS.
    """
    together = min(together, MOST_MEMBERS)
    ledger = launch.where.ledger
    due = []
    for stagerun in stageruns:
        state = ledger.evaluation_state(stagerun.name, evaluators.fingerprint)
        if state is State.DAMAGED:
            aside = ledger.repair(stagerun.name, evaluators.fingerprint)
            launch.progress.say(f"scores of {stagerun.name} were damaged; moved to {aside} and made again")
        if state is not State.COMPLETE:
            due.append(stagerun)
    for start in range(0, len(due), together):
        if launch.stop.is_set():
            return
        members = due[start : start + together]
        own = [parameters(launch, s) for s in members]
        before = [parameters(launch, s.parent) if s.parent else own[i] for i, s in enumerate(members)]
        scores = evaluators.of(members[0]).score(
            stack(own), stack(before), [s.seed for s in members], together
        )
        for stagerun, found in zip(members, scores, strict=True):
            ledger.write_evaluation(stagerun.name, evaluators.fingerprint, found.margins, found.outcomes)
            launch.submit(stagerun.name)
