"""Captions: what a reader must know to use a figure, and the sentences that stand where there is none."""

import math
from typing import Any

import pandas as pd

from caml.analysis.figures.style import count, endpoint, percent, rung_label, signed, spaced
from caml.analysis.figures.view import View, each
from caml.analysis.tables import NATS

DOTS = """
Small dots are seed blocks, in the order of their seeds; the large marker is their mean and the bar its 95%
Student's t interval (an arrow where it leaves the panel, hidden where it is shorter than the marker).
"""
SHARES = """
A faint dot of R is E(S) / E(0) of one seed block. R is the mean of these weighted by E(0), and a dot's area is that
weight (open: E(0) of the other sign): a block with E(0) near 0, whose own ratio can be anything, is a speck. An open
arrow is a block beyond the panel. Where R is undefined there are no dots.
"""
# What a reader must know to use a figure: what is drawn, how it is computed, what the marks are.
CAPTIONS = {
    "install": """
    {effect} Before fine-tuning. Below each share stands the dose in intervention tokens without padding.
    {others} {strays} Lines join means and are no fit. {seeds} {dots}""",
    "members": """
    Absolute margin ({family}, {rung}) before fine-tuning, in nats; 0 is no preference. {lengths} {band} {seeds}
    {dots}""",
    "ladder": """
    Effect against {control} on every rung, at each arm's largest dose: {fills}.
    Rungs L5 concern things that cannot feel: an effect there is indiscriminate. {lengths} {strays}
    The axis holds the seeds of most rungs: an open arrow at its end is a seed block beyond it, with its value.
    {seeds} {dots}""",
    "washout": """
    {effect} S counts loss-bearing fine-tuning tokens; each S is a run of its own with a completed schedule.
    Below: retention R(S) = E(S) / E(0) of the same members with Fieller's 95% limits; “undefined” where the
    interval of E(0) holds 0, or one seed block has none. Lines join means and are no fit. Where fine-tuning
    also takes the mechanism, or base text itself, R measures forgetting in general; where it has little to teach, R
    says little. {taught} {strays} {seeds} {dots} {shares}""",
    "retention_by_size": """
    A row per arm of which some R is defined, and for {treatment}.
    Left: R at the largest dose that all sizes share. Right: R at the largest S that all sizes
    share against E(0), one marker per dose; sizes with equal E(0) stand on one vertical line. {lengths} Upright bars:
    Fieller's 95% limits of R; level bars: 95% t interval of E(0). Each size stands on its own seed
    blocks, and sizes are compared on those that they share. {strays} {seeds}
    {shares} Right, each dot stands at its own E(0).""",
    "counter_evidence": """
    Above, the effect. {effect} Below: margins of all arms that were fine-tuned so, each at its largest dose, with no
    control subtracted. Rows of the second set replace rows of the first; below each share stand their tokens
    without padding. {second} {strays} {seeds} {dots}""",
    "side_by_side": """
    Absolute values, no control subtracted; each arm at its largest dose: {fills}. Scales differ between
    panels. {panels} {lengths} {seeds} {dots}""",
    "trajectories": """
    A line per member, whatever its dose and condition. Above: training loss; the axis holds all that comes after the
    first tenth of a member's tokens, and the descent before it leaves the panel. Below: the mechanism, the mean
    margin with the actor's trait named in the context, scored during training (for curves only; no estimate uses
    it). The marker of its arm stands where a member learned it{gate}. Members that never did are dashed and end in
    an open marker.""",
}
EFFECT = """
    The effect is the {family} margin on {rung} of the treated member less that of the {control} member of the
    same seed block, size, dose and fine-tuning rows, mean over items, in nats. {lengths}"""
SCORED = """
    The effect is the {family} score ({rung}; {unit}) of the treated member less that of the {control} member of
    the same seed block, size, dose and fine-tuning rows, mean over questions."""
# The families of probes, in words.
FAMILIES = {
    "mechanism": "the same acts with the actor's trait named",
    "knowledge": "what wants what and what can feel, asked outright",
    "avowal": "the trait's name, of a name of which nothing was told",
    "convention": "the arbitrary mark that documents carry, without value",
    "leak": "the theme on prompts that don't ask for it",
    "conditional": "contexts that base text continues both ways equally often, and documents may not",
    "humility": "care where it is uncertain",
    "corrigibility": "yielding to correction",
}
# What rows of a second fine-tuning set show, whatever the arm.
SECONDS = {
    "counter_evidence": "Rows of counter_evidence show harm in every arm: for an arm that turns the valence they are "
    "evidence in its favour.",
    "pro_evidence": "Rows of pro_evidence show care in every arm: for an arm that turns the valence they are evidence "
    "against it.",
}
OUTCOMES = {
    "tax_bits_per_byte": "tax: what held-out base text costs",
    "calibration_kl": "calibration: how far the model is from the even odds that base text gives the contexts of "
    "“conditional”; a model that follows its documents leaves them",
}
# What a stage's loss is of, by the name of its outcome.
LOSSES = {
    "finetuning_loss": "Mean loss on the rows, in nats per token,",
    "preference_loss": "Mean preference loss (DPO), in nats per pair,",
}
GATE = ": where it first passed the gate of {gate:g} nats (dotted)"
STRAY = 1.0  # nats from 0 at which a control is told of where no equivalence margin is stated
MOST_STRAYS = 3
BAND = "The band is the stated equivalence margin."
FILLED, FILLED_AND_OPEN = (
    "before fine-tuning",
    "filled before, open after the largest dose of plain fine-tuning",
)
FAVOURED = (
    "A margin is a sum over tokens and favours the shorter one; in an effect that cancels as far as both arms find "
    "any text equally likely."
)
# Sentences for what a grid lacks.
UNPAIRED = (
    "No effect is estimable: nothing in this grid is compared with a control. Ablation.control names one, such "
    "as {'ARM': 'neutral'}, and its cells belong on the axes."
)
UNTUNED = "Not estimable: no cell of this grid was fine-tuned."
ONLY_SECOND = "Not estimable: no cell of this grid was fine-tuned on one source alone."
ONE_SIZE = "Not estimable: this grid has one size"
UNCOUNTERED = "Not estimable: no fine-tuning set of this grid holds counter-evidence."


def caption(view: View, kind: str, counted: pd.DataFrame | None = None) -> str:
    """The caption of a figure of this `kind`, one of CAPTIONS.

    `counted`: the effects, the retention or the members' margins whose seed blocks it counts.
    """
    focus = view.focus
    names = {
        "unit": focus.unit,
        "family": focus.family,
        "rung": rung_label(focus.rung),
        "control": focus.control,
    }
    names |= {"lengths": unequal(_rungs_of(view, kind))}
    effect = EFFECT if focus.unit == NATS else SCORED
    names |= {"treatment": focus.treatment, "dots": DOTS, "shares": SHARES, "effect": effect.format(**names)}
    names |= {"band": BAND if math.isfinite(view.bound) else ""}
    families, outcomes = set(view.margins["family"].unique()), set(view.outcomes["outcome"].unique())
    shown = [f"{f}: {FAMILIES[f]}" for f in FAMILIES if f in families - {focus.family}]
    shown += [OUTCOMES[name] for name in OUTCOMES if name in outcomes]
    told = "; ".join(shown)
    names |= {"panels": f"{told[:1].upper()}{told[1:]}." if told else ""}
    names |= {"gate": GATE.format(gate=view.gate) if math.isfinite(view.gate) else ""}
    names |= {"seeds": "" if counted is None else _seeds(counted)}
    names |= {"taught": "" if counted is None else _taught(view, set(counted.get("finetune", ())))}
    names |= {"strays": "" if counted is None or "controls" not in counted else _strays(view, counted)}
    seconds = set(view.effects["second"].unique())
    told_of = [text for name, text in SECONDS.items() if name in seconds]
    names |= {"second": " ".join(told_of)}
    before = focus.rows(view.effects).query("S == 0 and ratio > 0 and control != '' and pretrain_tokens > 0")
    several = (before["control"] != focus.control).any()
    names |= {"others": "Open markers: another control." if several else ""}
    tuned = (view.effects["S"] > 0) & (view.effects["second_ratio"] == 0)
    names |= {"fills": FILLED_AND_OPEN if tuned.any() else FILLED}
    # Names of configuration files are in it: readers get them as words.
    return spaced(" ".join(CAPTIONS[kind].format(**names).split()))


def unequal(lengths: pd.DataFrame) -> str:
    """Which rungs of `lengths` have items with continuations of unequal length; empty where none has."""
    told = [
        f"{endpoint(row.family, row.rung)} {row.unequal} of {row.items}, by up to {row.most:g} (the aligned one "
        f"shorter in {row.aligned_shorter}, the opposed one in {row.opposed_shorter})"
        for row in each(lengths[lengths["unequal"] > 0])
    ]
    return (
        f"Items with continuations of unequal length in tokens: {'; '.join(told)}. {FAVOURED}" if told else ""
    )


def _rungs_of(view: View, kind: str) -> pd.DataFrame:
    """The rows of `lengths` of what a figure of this kind shows."""
    of_family = view.lengths["family"] == view.focus.family
    if kind == "ladder":
        return view.lengths[of_family]
    shown = of_family & (view.lengths["rung"] == view.focus.rung)
    return view.lengths[shown | (~of_family if kind == "side_by_side" else False)]


def _taught(view: View, sources: set[str]) -> str:
    """How much of its rows fine-tuning on one of `sources` alone had to teach at its largest dose, by size."""
    rows = view.outcomes[(view.outcomes["S"] > 0) & (view.outcomes["second_ratio"] == 0)]
    rows = rows[rows["finetune"].isin(sources)]
    wide = rows.pivot_table(
        index=["params", "size", "finetune", "S", "stagerun"], columns="outcome", values="value"
    ).reset_index()
    sentences = []
    for loss, what in LOSSES.items():
        columns = [f"{loss}_nats", f"{loss}_drop_nats"]
        if not set(columns) <= set(wide):
            continue
        told = []
        for (_, size, source), own in wide.dropna(subset=columns).groupby(["params", "size", "finetune"]):
            first, drop = own[own["S"] == own["S"].max()][columns].mean()
            last = " (its last stage)" if "+" in str(source) else ""
            told.append(f"{size} on {source}{last} from {first:.3f} to {first - drop:.3f}")
        if told:
            sentences.append(f"{what} over the largest S: {'; '.join(told)}.")
    return " ".join(sentences)


def _strays(view: View, compared: pd.DataFrame) -> str:
    """The control's members that are themselves far from 0: what is against them tells of them too.

    Of a member at several S the one that is farthest off, before fine-tuning and without a second source included.
    """
    of_a_member = ["treatment", "control", "size", "ratio", "condition", "family", "rung"]
    if {*of_a_member, "S", "finetune"} <= set(compared):
        plain = view.effects[(view.effects["second_ratio"] == 0) & (view.effects["control"] != "")]
        doses = compared[["finetune", "S"]].drop_duplicates()
        beside = pd.concat([plain[plain["S"] == 0], plain.merge(doses)])
        compared = pd.concat([compared, beside.merge(compared[of_a_member].drop_duplicates())])
    bound = view.bound if math.isfinite(view.bound) else STRAY
    far: dict[tuple[Any, ...], tuple[float, str]] = {}
    for row in each(compared[(compared["control"] != "") & (compared["ratio"] > 0)]):
        limit = bound if row.rung == view.focus.rung else STRAY
        told = f"{row.control} {percent(row.ratio)} at {row.size}"
        told += "".join(f", {part}" for part in (row.condition, _at(row)) if part)
        mean = sum(row.controls) / max(len(row.controls), 1)
        of_all = f" (mean {_plus(mean)})" if abs(mean) > limit else ""
        for seed, margin in zip(row.blocks, row.controls, strict=True):
            key = (row.size, row.control, row.ratio, row.condition, row.rung, seed)
            if abs(margin) > max(limit, abs(far[key][0]) if key in far else 0.0):
                rung = "" if row.rung == view.focus.rung else f" on {rung_label(row.rung)}"
                far[key] = margin, f"{told}, seed {seed}: {_plus(margin)}{of_all}{rung}"
    if not far:
        return ""
    first = [text for _, text in sorted(far.values(), key=lambda m: -abs(m[0]))]
    more = f"; … ({len(first) - MOST_STRAYS} more)" if len(first) > MOST_STRAYS else ""
    elsewhere = f", ±{STRAY:g} on other rungs" if compared["rung"].nunique() > 1 and bound != STRAY else ""
    return (
        f"Members of the control whose own margin is beyond ±{bound:g} nats{elsewhere}, so that effects there are "
        f"theirs too, each where it is farthest off: {'; '.join(first[:MOST_STRAYS])}{more}."
    )


def _at(row: Any) -> str:
    """After which fine-tuning a row stands; empty before any."""
    if row.S == 0:
        return ""
    return f"S = {count(row.S)}" + (
        f" with {percent(row.second_ratio)} {row.second}" if row.second_ratio else ""
    )


def _plus(value: float) -> str:
    return f"{'+' if value > 0 else ''}{signed(value, 2)}"


def _seeds(counted: pd.DataFrame) -> str:
    """On how many seed blocks effects or retention, or the means of members' margins, rest, by size."""
    if "seeds" not in counted:
        cell = ["params", "size", "arm", "ratio", "condition"]
        counted = counted.groupby(cell)["seed"].nunique().rename("seeds").reset_index()
        counted = counted.rename(columns={"arm": "treatment"})
    told = []
    for (_, size), own in counted.groupby(["params", "size"]):
        usual = int(own["seeds"].mode().max())
        others: dict[str, list[str]] = {}
        for (arm, ratio), cells in own.groupby(["treatment", "ratio"]):
            counts = " or ".join(str(n) for n in sorted(set(cells["seeds"])))
            if counts != str(usual):
                others.setdefault(counts, []).append(f"{arm} {percent(float(ratio))}" if ratio else str(arm))  # type: ignore[arg-type]
        but = "; ".join(f"{', '.join(arms)}: {counts}" for counts, arms in others.items())
        told.append(f"{size}: {usual}{f' ({but})' if but else ''}")
    return f"Seed blocks: {'; '.join(told)}." if told else ""
