"""Populations: StageRuns of one shape that are trained together in one compiled program."""

import dataclasses
from collections.abc import Callable, Sequence

from caml.ablations.runs import StageRun
from caml.config.fingerprint import fingerprint
from caml.training.devices import MOST_MEMBERS


@dataclasses.dataclass(frozen=True)
class Population:
    """Members that train together, in the order in which they are laid over devices.

    `of`: how many StageRuns of the whole ablation the same program trains, in this population and others. `places`: for
    how many it is compiled.
    """

    members: tuple[StageRun, ...]
    of: int
    places: int = MOST_MEMBERS

    @property
    def name(self) -> str:
        """Stage, size and a digest of the members: the same launch after launch."""
        first = self.members[0]
        digest = fingerprint([member.fingerprint for member in self.members])[:12]
        return f"{first.stage.name}-{first.model.name}-{digest}"


def depth(stagerun: StageRun) -> int:
    """How many stages come before this one."""
    return 0 if stagerun.parent is None else 1 + depth(stagerun.parent)


def plan(
    stageruns: Sequence[StageRun],
    members: int = 0,
    together: Callable[[Sequence[StageRun]], int] | None = None,
    beside: Callable[[Sequence[StageRun]], bool] | None = None,
) -> list[Population]:
    """Populations of all `stageruns` of an ablation, finished or not, parents before children.

    Each has as many as `together` says of all that are alike; without it at most `members` (0: MOST_MEMBERS). Planned
    from all of them, so that a launch that goes on finds the populations of the one before. Those of the same program
    are ordered by their steps, because a population lasts as long as its longest member; where `beside` says that they
    lie side by side, all are computed until that has ended, so none has fewer than half of its steps.
    """
    groups: dict[tuple, list[StageRun]] = {}
    for stagerun in dict.fromkeys(stageruns):
        stage = stagerun.stage
        # Without steps there is nothing to compile: untrained models of a size form a group of their own.
        program = (
            (stage.optimizer.name, stage.batch, stage.length, stage.preference, stage.precision)
            if stagerun.steps
            else ()
        )
        # Those that are scored together are one group too: the same words, in sequences of one length.
        scored = (stagerun.tokenizer, stagerun.root.stage.length)
        key = (depth(stagerun), stagerun.model, scored, program)
        groups.setdefault(key, []).append(stagerun)
    planned = []
    for _, group in sorted(groups.items(), key=lambda entry: entry[0][0]):
        group.sort(key=lambda s: -s.steps)
        apart = beside is not None and group[0].steps > 0 and beside(group)
        for alike in _of_like_steps(group) if apart else [group]:
            most = together(alike) if together else members or MOST_MEMBERS
            planned += [
                Population(tuple(alike[k : k + most]), len(alike), most) for k in range(0, len(alike), most)
            ]
    return planned


def _of_like_steps(group: Sequence[StageRun]) -> list[list[StageRun]]:
    """The group, longest first, in parts of which no member has fewer than half of the steps of the first."""
    parts = [[group[0]]]
    for stagerun in group[1:]:
        if 2 * stagerun.steps < parts[-1][0].steps:
            parts.append([])
        parts[-1].append(stagerun)
    return parts
