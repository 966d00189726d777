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
) -> list[Population]:
    """Populations of all `stageruns` of an ablation, finished or not, parents before children.

    Each has as many as `together` says of all that are alike; without it at most `members` (0: MOST_MEMBERS). Planned
    from all of them, so that a launch that goes on finds the populations of the one before. Those of the same program
    are ordered by their steps, because a population lasts as long as its longest member.
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
        most = together(group) if together else members or MOST_MEMBERS
        planned += [
            Population(tuple(group[k : k + most]), len(group), most) for k in range(0, len(group), most)
        ]
    return planned
