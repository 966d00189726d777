"""Who is on the leaderboard: models that differ in nothing but the seed block stand in one row."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from caml.config.fingerprint import fingerprint
from caml.tracking.ledger import Ledger

ELSEWHERE = "from elsewhere"


@dataclasses.dataclass(frozen=True)
class Member:
    """One model: a StageRun by its fingerprint, or a model from elsewhere by the digest of its parameters.

    `seed` is its seed block (-1: it has none), `folder` where its run is kept.
    """

    key: str
    name: str
    seed: int
    folder: Path


@dataclasses.dataclass(frozen=True)
class Entrant:
    """Models of which each is the others in another seed block, and what a reader should know of them.

    `params` are non-embedding parameters, `dose_tokens` the intervention's tokens of the first seed block (0: not
    known, or none), `variant` what else sets it apart from others of the same stage, size, arm and ratio.
    """

    stage: str
    size: str
    params: int
    arm: str
    ratio: float
    dose_tokens: int
    tokens: int
    members: tuple[Member, ...]
    variant: str = ""
    reports: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """In a few words."""
        return ", ".join(part for part in (self.arm, self.size, self.stage, self.variant) if part)


def of_ledger(ledger: Ledger, names: Iterable[str], reports: Mapping[str, Iterable[str]]) -> list[Entrant]:
    """The complete StageRuns `names` of a ledger, those together that are alike in all but their seeds.

    `reports`: the ablations that report a StageRun, by its fingerprint.
    Raises Damaged where a manifest is not what was written.
    """
    alike: dict[str, list[tuple[Member, dict[str, Any]]]] = {}
    for name in names:
        manifest = ledger.manifest(name)
        member = Member(manifest["fingerprint"], name, int(manifest["seed"]), ledger.folder(name))
        alike.setdefault(fingerprint(_seedless(manifest["identity"])), []).append((member, manifest))
    found = []
    for group in alike.values():
        group.sort(key=lambda pair: pair[0].seed)
        first = group[0][1]
        found.append(
            Entrant(
                stage=first["stage"],
                size=first["size"],
                params=int(first["params"]),
                arm="untrained" if _untrained(first) else first["arm"],
                ratio=float(first["ratio"]),
                dose_tokens=int(first["dose_tokens"]),
                tokens=int(first["tokens"]),
                members=tuple(member for member, _ in group),
                reports=tuple(sorted({of for member, _ in group for of in reports.get(member.key, ())})),
            )
        )
    return found


def _untrained(manifest: Mapping[str, Any]) -> bool:
    (identity,) = manifest["identity"].values() if len(manifest["identity"]) == 1 else ({"steps": 1},)
    return "steps" not in identity and "initial" not in identity


def _seedless(value: Any) -> Any:
    """A StageRun's identity without what differs between seed blocks."""
    if isinstance(value, Mapping):
        return {key: _seedless(part) for key, part in value.items() if key != "seed"}
    return [_seedless(part) for part in value] if isinstance(value, list) else value


def told_apart(entrants: Iterable[Entrant], variants: Mapping[str, str]) -> list[Entrant]:
    """The entrants in order of size, stage and arm, with what sets apart those that are otherwise called the same.

    `variants`: what the ablations' tables say of a StageRun by its fingerprint. Where they don't say enough, it is the
    tokens of the stage, and at last the fingerprint.
    """
    entrants = [
        dataclasses.replace(one, variant=one.variant or variants.get(one.members[0].key, ""))
        for one in entrants
    ]
    for say in (lambda one: f"{one.tokens:,} tokens", lambda one: one.members[0].key[:12]):
        called: dict[tuple[str, float], list[Entrant]] = {}
        for one in entrants:
            called.setdefault((one.name, one.ratio), []).append(one)
        entrants = []
        for group in called.values():
            if len({say(one) for one in group}) > 1:
                group = [
                    dataclasses.replace(one, variant=f"{one.variant}, {say(one)}".removeprefix(", "))
                    for one in group
                ]
            entrants += group
    return sorted(entrants, key=lambda one: (one.params, one.size, one.stage, one.arm, one.ratio, one.name))


def from_elsewhere(shelf: Path, key: str, summary: Mapping[str, Any]) -> Entrant:
    """A model without a ledger, by the folder of its benchmarks and what one of them says of it."""
    about = summary["model"]
    member = Member(key, about["name"], -1, shelf)
    return Entrant(
        ELSEWHERE, about["size"], about["parameters"], "", 0.0, 0, 0, (member,), variant=about["name"]
    )
