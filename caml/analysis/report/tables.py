"""Result tables as a person reads them: contrasts, arms x stages, fits, flagged members."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from caml.analysis.contrasts import FEWEST_SEEDS
from caml.analysis.figures.conditions import Conditions
from caml.analysis.figures.style import (
    count,
    endpoint,
    in_order,
    percent,
    rung_label,
    spaced,
    treatment_order,
)
from caml.analysis.figures.view import View, each
from caml.config.text import counted

MINUS = "−"


@dataclass(frozen=True)
class Cell:
    """What a table cell shows, in lines, and the number it sorts by ('' sorts by the text)."""

    lines: tuple[str, ...]
    order: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the page; `empty` is the sentence shown in its place where it has no rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str = "None."
    caption: str = ""


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign; a dash where there is none."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else f"{MINUS}∞")
    text = f"{value:,.{digits}f}"
    return (text if any(c in "123456789" for c in text) else text.lstrip("-")).replace("-", MINUS)


def interval(low: float, high: float, digits: int = 2) -> str:
    """A 95% interval in brackets; words where it does not exist."""
    if math.isnan(low) or math.isnan(high):
        return "no interval"
    return f"[{number(low, digits)}, {number(high, digits)}]"


def probability(p: float) -> str:
    """A p value; a dash where the row has none."""
    return "–" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def cell(*lines: str, order: float | None = None) -> Cell:
    """A table cell; `order` is the number it sorts by."""
    known = order is not None and not math.isnan(order)
    return Cell(lines, f"{order:.12g}" if known else "")


def compared(row: Any) -> str:
    """`compassion − neutral`, or the treatment alone for an absolute margin."""
    return spaced(f"{row.treatment}\u00a0{MINUS}\u00a0{row.control}" if row.control else str(row.treatment))


def stage(row: Any) -> str:
    """What was done to a member after pretraining, in words."""
    if row.S == 0:
        return "before fine-tuning"
    return f"{spaced(row.finetune)}, S = {count(row.S)}{_beside(row)}"


def _beside(row: Any) -> str:
    return f", {spaced(row.second)} {percent(row.second_ratio)}" if row.second_ratio > 0 else ""


def dose(row: Any) -> str:
    """The dose as share and tokens, and the condition (see `Conditions.told`)."""
    told = f"{percent(row.ratio)}, {count(row.dose_tokens)} tokens" if row.ratio > 0 else "none"
    return ", ".join(part for part in (told, spaced(row.condition)) if part)


def contrasts(effects: pd.DataFrame) -> Table:
    """The contrasts of the gin file, primary ones first, in the file's order."""
    stated = effects[effects["contrast"].fillna("") != ""]
    stated = Conditions(effects).told(stated.assign(control=stated["control"].fillna("")))
    stated = stated.sort_values("primary", ascending=False, kind="stable")
    rows = []
    for row in each(stated):
        claim = {"equivalent": f"within\u00a0±{row.margin:g}", "explore": "none"}.get(
            row.claim, f"{row.claim}\u00a00"
        )
        equivalence = row.claim == "equivalent"
        tested = row.tost_p if equivalence else row.p
        rows.append(
            (
                cell(row.contrast),
                cell(claim),
                cell(compared(row), stage(row)),
                cell(endpoint(row.family, row.rung)),
                cell(row.size, dose(row), order=float(row.params)),
                cell(number(row.estimate), interval(row.t_low, row.t_high), order=row.estimate),
                cell(
                    interval(row.boot_fixed_low, row.boot_fixed_high),
                    interval(row.boot_new_low, row.boot_new_high),
                ),
                cell(str(row.seeds), order=float(row.seeds)),
                cell(
                    probability(tested),
                    f"Holm {probability(row.p_holm)}" if row.primary else "",
                    "" if equivalence else f"flip {probability(row.p_flip)}",
                    order=tested,
                ),
                cell(row.verdict),
                cell("locked" if row.locked else "not locked", "primary" if row.primary else "exploratory"),
            )
        )
    columns = ("contrast", "claim (nats)", "compared", "endpoint", "size, dose", "effect (nats), 95% t")
    judged = ("bootstrap 95%: these items, new items", "seeds", "p", "verdict", "stated")
    return Table(
        (*columns, *judged),
        tuple(rows),
        "The gin file states no contrasts: every effect here is exploratory.",
    )


def other_controls(controls: pd.DataFrame) -> Table:
    """The named contrasts against the grid's other controls: does the conclusion depend on which is used?"""
    rows = tuple(
        (
            cell(row.contrast),
            cell(compared(row), f"stated: {MINUS} {spaced(row.stated)}"),
            cell(number(row.estimate), interval(row.t_low, row.t_high), order=row.estimate),
            cell(number(row.stated_estimate), order=row.stated_estimate),
            cell(str(row.seeds), order=float(row.seeds)),
            cell({True: "agrees", False: "differs"}.get(row.agrees, "too few seeds")),
        )
        for row in each(controls)
    )
    columns = (
        "contrast",
        "compared",
        "effect (nats), 95% t",
        "stated control's (nats)",
        "seeds",
        "conclusion",
    )
    return Table(columns, rows, "The grid holds no other control for the stated contrasts.")


def arms_by_stages(view: View, paired: bool) -> Table:
    """Effects on the primary endpoint: a row per arm, size and dose, a column per stage.

    `paired` gives effects against controls, with retention; otherwise absolute margins.
    """
    rows = view.focus.rows(view.effects)
    rows = rows[(rows["control"] != "") == paired]
    stages: dict[Any, str] = {}
    for row in each(rows.sort_values(["second_ratio", "finetune", "S"])):
        stages.setdefault((row.S > 0, row.second_ratio, row.finetune, row.S, row.second), stage(row))
    ordered = sorted(stages)
    kept = {
        _key(row, (row.finetune, row.S, row.second, row.second_ratio)): row
        for row in each(view.focus.rows(view.retention))
    }
    arms = treatment_order(rows["treatment"], view.focus.treatment)
    groups: dict[Any, dict[Any, Any]] = {}
    for row in each(rows):
        place = (
            arms.index(row.treatment),
            row.params,
            row.ratio,
            row.control,
            view.conditions.place(row.condition),
            row.condition,
        )
        groups.setdefault(place, {})[(row.S > 0, row.second_ratio, row.finetune, row.S, row.second)] = row
    body = []
    absent = cell("not compared" if paired else "not run")
    for place in sorted(groups):
        line = groups[place]
        some = next(iter(line.values()))
        head = [
            cell(compared(some)),
            cell(some.size, order=float(some.params)),
            cell(dose(some), order=some.ratio),
        ]
        body.append((*head, *(_effect(line[key], kept) if key in line else absent for key in ordered)))
    empty = "No arm was compared with a control." if paired else "No member was scored."
    return Table(("arm", "size", "dose", *(stages[key] for key in ordered)), tuple(body), empty)


def _key(row: Any, of: tuple[Any, ...]) -> tuple[Any, ...]:
    return (row.treatment, row.control, row.size, row.ratio, row.condition, *of)


def _effect(row: Any, kept: dict[Any, Any]) -> Cell:
    lines = [number(row.estimate), interval(row.t_low, row.t_high), counted(row.seeds, "seed")]
    remains = kept.get(_key(row, (row.finetune, row.S, row.second, row.second_ratio)))
    if row.S > 0 and row.control and remains is not None:
        known = f"{number(remains.estimate)} {interval(remains.low, remains.high)}"
        lines.append(f"R {known if remains.status == 'ok' else remains.status}")
    if row.flagged:
        lines.append(f"{int(row.flagged)} flagged")
    if row.mixed:
        lines.append(f"{int(row.mixed)} of unlike machines")
    return cell(*lines, order=row.estimate)


def fits(
    frame: pd.DataFrame, view: View, shown: dict[str, tuple[str, int]], rungs: Sequence[str] = ()
) -> Table:
    """Fitted or matched quantities on the primary endpoint, or what would make them estimable.

    `shown`: column -> (heading, digits after the point); COLUMN_low and COLUMN_high are its interval, and
    COLUMN_status says why there is none. `rungs`: others than the primary endpoint's that are shown too.
    """
    if frame.empty:
        return Table((), (), "Not estimable: the grid holds no cell to ask it of.")
    rows = pd.concat(
        [dataclasses.replace(view.focus, rung=rung).rows(frame) for rung in (view.focus.rung, *rungs)]
    )
    rows = view.conditions.told(rows[rows["control"].fillna("") != ""])
    body = []
    rows = rows.assign(place=rows["condition"].map(view.conditions.place))
    order = [c for c in ("params", "treatment", "ratio", "place", "second_ratio", "S") if c in rows]
    for row in each(rows.sort_values(order, kind="stable")):
        about = [
            cell(compared(row), rung_label(row.rung) if rungs else ""),
            cell(str(row.size), order=float(row.params)),
        ]
        about.append(cell(*_of(row)))
        values = []
        for column, (_, digits) in shown.items():
            value = float(getattr(row, column))
            low, high = (float(getattr(row, f"{column}_{end}", math.nan)) for end in ("low", "high"))
            bars = () if math.isnan(low) else (interval(low, high, digits),)
            why = getattr(row, f"{column}_status", "") if math.isnan(value) else ""
            values.append(cell(why or number(value, digits), *bars, order=value))
        claimless = row.status == "ok" and row.seeds < FEWEST_SEEDS
        state = f"ok; {counted(row.seeds, 'seed block')}: no claim" if claimless else row.status
        seeds = cell(str(row.seeds), order=float(row.seeds))
        body.append((*about, seeds, *values, cell(state), cell(row.needs)))
    columns = (
        "compared",
        "size",
        "of",
        "seeds",
        *(heading for heading, _ in shown.values()),
        "status",
        "it would need",
    )
    return Table(columns, tuple(body), "Not estimable: the grid holds no cell to ask it of.")


def _of(row: Any) -> list[str]:
    """What a fitted or matched quantity is one of, in lines: dose, condition, stage, variable, the other size."""
    parts = [percent(row.ratio)] if hasattr(row, "ratio") else []
    parts += [spaced(row.condition)] if row.condition else []
    if hasattr(row, "S"):
        parts.append(stage(row))
    else:
        parts.append(f"{spaced(row.finetune)}{_beside(row)}")
    if hasattr(row, "variable"):
        parts.append(
            f"dose in {row.variable}{f', over {row.budgets} token budgets' if row.budgets > 1 else ''}"
        )
    if hasattr(row, "matching"):
        parts.append(f"with {row.other_size} at matched {row.matching}")
        if row.other_pretrain_tokens != row.pretrain_tokens:
            parts.append(f"after its {row.other_pretrain_tokens:,} pretraining tokens")
    return parts


# outcome of a fine-tuned member -> its heading
TUNED = {
    "finetuning_loss_nats": "loss on its rows at first (nats/token)",
    "finetuning_loss_drop_nats": "drop by the end (nats/token)",
    "preference_loss_nats": "preference loss at first (nats/pair)",
    "preference_loss_drop_nats": "its drop by the end (nats/pair)",
    "kl_from_parent": "KL from before it, on base text (nats/token)",
    "held_out_rise_nats": "rise on held-out base text (nats/token)",
}


def fine_tuning(view: View) -> Table:
    """How far each fine-tuning moved the members: means over seed blocks, with the lowest and the highest."""
    told = view.outcomes[view.outcomes["outcome"].isin(TUNED) & (view.outcomes["S"] > 0)]
    if told.empty:
        return Table((), (), "No cell of this grid was fine-tuned.")
    place = ["params", "size", "arm", "ratio", "condition", "second_ratio", "finetune", "second", "S"]
    wide = told.pivot_table(index=[*place, "stagerun"], columns="outcome", values="value").reset_index()
    columns = [name for name in TUNED if name in wide]
    arms = in_order(wide["arm"])
    body = []
    wide = wide.assign(rank=wide["arm"].map(arms.index))
    for _, members in wide.groupby(["params", "rank", *place[1:]]):
        row = next(each(members))
        about = [cell(str(row.size), order=float(row.params))]
        # What it cost is measured against the model that the last of its stages began from.
        last = ["its last stage alone"] if "+" in row.finetune else []
        about.append(cell(spaced(row.arm), *_of(row), *last))
        about.append(cell(str(len(members)), order=float(len(members))))
        values = []
        for name in columns:
            found = members[name].dropna()
            if found.empty:  # token losses of a preference stage, or the other way round
                values.append(cell(""))
                continue
            ends = f"{number(found.min(), 3)} to {number(found.max(), 3)}"
            values.append(cell(number(found.mean(), 3), ends, order=float(found.mean())))
        body.append((*about, *values))
    return Table(("size", "of", "members", *(TUNED[name] for name in columns)), tuple(body))


def flagged_members(flagged: pd.DataFrame, view: View) -> Table:
    """Members that never learned the mechanism, diverged or skipped steps, with the stages that inherit it."""
    under = view.margins.groupby("stagerun")["condition"].agg(lambda names: "; ".join(dict.fromkeys(names)))
    rows = tuple(
        (
            cell(str(row.name)),
            cell(str(row.size)),
            cell(spaced(row.arm)),
            cell(percent(row.ratio), order=row.ratio),
            cell(spaced(under.get(row.stagerun, ""))),
            cell(str(row.seed), order=float(row.seed)),
            cell(spaced(row.stage)),
            cell(str(row.reason)),
            cell(number(row.mechanism), order=row.mechanism),
        )
        for row in each(flagged)
    )
    columns = ("member", "size", "arm", "ratio", "condition", "seed", "stage", "why", "mechanism (nats)")
    return Table(columns, rows, "No member is flagged.")
