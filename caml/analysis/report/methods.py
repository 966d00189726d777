"""The methods section, generated from the tables, and what the seeds can and cannot resolve."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from caml.analysis.cells import prepared
from caml.analysis.contrasts import FEWEST_SEEDS
from caml.analysis.figures.captions import unequal
from caml.analysis.figures.style import spaced
from caml.analysis.lock import Look
from caml.analysis.norms import lengths_table
from caml.analysis.power import POWER, power_table
from caml.analysis.results import DRAWS
from caml.analysis.retention import SHARED
from caml.analysis.tables import Tables
from caml.config.text import counted

# Of R: limits that far apart tell nothing left from half, and half from all.
WIDTH = 0.5
FEW_TEMPLATES = 2


def methods(tables: Tables, control: Mapping[str, object], gate: float, facts: Mapping[str, str]) -> str:
    """What was done, in paragraphs drawn from `tables`: design, measurement, and circumstances.

    **Arguments**: `control` axis values of the primary control; `gate` nats of the mechanism; `facts`, what
    no table holds: subject -> text, one sentence each (world, tokenizer, schedules, versions ...).
    """
    told = [f"{subject[:1].upper()}{subject[1:]}: {text.rstrip('.')}." for subject, text in facts.items()]
    paragraphs = (
        map(spaced, [_models(tables), _arms(tables, control), _fine_tuning(tables), _variants(tables)]),
        map(spaced, [_probes(tables), _statistics(gate), _new_items(tables)]),
        [*told, _origin(tables)],
    )
    return "\n\n".join(" ".join(part for part in parts if part) for parts in paragraphs)


def resolution(effects: pd.DataFrame, retention: pd.DataFrame) -> list[str]:
    """What the seeds can and cannot resolve, a sentence each.

    For each named contrast the smallest effect found, or margin shown, with 80% power; for those that claim a
    direction, how wide the limits of their retention are; and how uncertain the spread itself is, on which all
    this rests.
    """
    sentences = []
    for row in power_table(effects).to_dict("records"):
        seeds, smallest, needed = int(row["seeds"]), float(row["smallest"]), float(row["seeds_needed"])
        if not np.isfinite(smallest):
            sentences.append(f"{row['contrast']}: {seeds} seed block resolves nothing.")
            continue
        nothing = row["claim"] == "equivalent"
        found = (
            f"show equivalence within {smallest:.2g} nats"
            if nothing
            else (f"find an effect of {smallest:.2g} nats or more")
        )
        text = (
            f"{row['contrast']}: {seeds} seed blocks with a standard deviation of {row['sd']:.2g} nats {found} "
            f"with {POWER:.0%} power at a level of {float(row['level']):.2g}, and smaller "
            f"{'margins' if nothing else 'ones'} less often"
        )
        if np.isfinite(needed):
            aim = "equivalence within" if nothing else "an effect of"
            text += f"; {aim} {row['wanted']:g} nats needs {needed:.0f} seed blocks"
        if seeds < FEWEST_SEEDS:
            text += f"; with fewer than {FEWEST_SEEDS} seed blocks nothing is claimed"
        sentences.append(text + ".")
    return [*sentences, *_of_retention(effects, retention), *_of_spread(effects)]


def _of_retention(effects: pd.DataFrame, retention: pd.DataFrame) -> list[str]:
    """How far apart the limits of R lie at the largest dose, for each contrast that claims a direction."""
    of = list(SHARED)
    told = []
    for row in effects[effects["primary"].astype(bool) & (effects["claim"] != "equivalent")].to_dict(
        "records"
    ):
        kept = retention[(retention[of] == pd.Series({part: row[part] for part in of})).all(axis=1)]
        kept = kept[(kept["second_ratio"] == 0) & (kept["S"] > row["S"])]
        for _, doses in kept.groupby("finetune"):
            last = doses.sort_values("S").to_dict("records")[-1]
            start = (
                f"{row['contrast']}, retention at S = {last['S']:,} tokens of {spaced(last['finetune'])}: "
            )
            if last["status"] != "ok":
                told.append(f"{start}{last['status']}.")
                continue
            width = float(last["high"] - last["low"])
            limits = f"{last['low']:.2f} to {last['high']:.2f}"
            text = f"{start}{last['estimate']:.2f}, with limits {width:.2g} apart ({limits})"
            if width > 4 * WIDTH:
                text += (
                    f"; limits {WIDTH:g} apart would need an E(0) further from 0, or many more seed blocks"
                )
            elif width > WIDTH:
                needed = int(np.ceil(last["seeds"] * (width / WIDTH) ** 2))
                text += f"; limits {WIDTH:g} apart would need about {needed} seed blocks"
            told.append(text + ".")
    return told


def _of_spread(effects: pd.DataFrame) -> list[str]:
    """How far the true standard deviation may be from what the seeds show."""
    seeds = effects.loc[(effects["contrast"] != "") & (effects["seeds"] > 1), "seeds"]
    if seeds.empty:
        return []
    n = int(seeds.min())
    low, high = (np.sqrt((n - 1) / stats.chi2.ppf(tail, n - 1)) for tail in (0.975, 0.025))
    return [
        f"All this rests on standard deviations from {n} seed blocks or more: with {n}, the true one lies "
        f"between {low:.2f} and {high:.2f} times that (95%), and the seeds needed go with its square."
    ]


def looks_sentence(looks: Sequence[Look], locked: Mapping[str, bool]) -> str:
    """Which contrasts were locked before results existed, and how often results were looked at since."""
    yes = [name for name, state in locked.items() if state]
    no = [name for name, state in locked.items() if not state]
    text = f"Locked before these results existed: {listed(quoted(yes)) if yes else 'no contrast'}."
    if no:
        text += f" Not locked: {listed(quoted(no))}."
    for number, look in enumerate(looks, 1):
        text += f" Look {number}, {look.at}: {counted(len(look.seeds), 'seed block')} ({_seeds(look.seeds)})."
    return text


def tuned_on(seeds: Sequence[int]) -> list[str]:
    """That results on these seed blocks are no test of the claims: they were there when the study was made."""
    if not seeds:
        return []
    return [
        f"{counted(len(seeds), 'seed block').capitalize()} of these ({_seeds(seeds)}) served development: world, "
        "models or analysis were tuned on them, so they do not test the claims; seeds that development never used do."
    ]


def machines_sentence(machines: Sequence[str]) -> list[str]:
    """That members of unlike machines have unlike bits; nothing where all were trained on one kind."""
    if len(machines) < 2:
        return []
    return [
        f"The StageRuns were trained on {len(machines)} kinds of machine ({'; '.join(machines)}): the same seeds have "
        "other bits there, and pairs of unlike machines are marked."
    ]


def quoted(names: Iterable[str]) -> list[str]:
    """Names of contrasts as they stand in a sentence: they may hold commas."""
    return [f"“{name}”" for name in names]


def _models(tables: Tables) -> str:
    cells = tables.cells
    sizes = sorted(set(zip(cells["params"], cells["size"], strict=True)))
    texts = []
    for params, size in sizes:
        seeds = _seeds(set(cells.loc[cells["size"] == size, "seed"]))
        texts.append(f"{size} ({params:,} non-embedding parameters, seed blocks {seeds})")
    tokens = [f"{t:,}" for t in sorted(set(cells["pretrain_tokens"])) if t]
    untrained = ", beside an untrained model" if (cells["pretrain_tokens"] == 0).any() else ""
    return (
        f"Decoder-only transformers of {len(sizes)} size{'s' if len(sizes) > 1 else ''}, {listed(texts)}, "
        f"were trained on {listed(tokens)} tokens{untrained}. {_blocks(cells)}"
    )


def _blocks(cells: pd.DataFrame) -> str:
    """How many seed blocks each arm has at each size and share."""
    told = []
    for (_, size), own in cells[cells["pretrain_tokens"] > 0].groupby(["params", "size"]):
        arms = []
        for arm, rows in own.groupby("arm"):
            seeds = rows.groupby("ratio")["seed"].nunique()
            shares = [
                f"{n} at {listed(_percents(seeds.index[seeds == n]))}" if rows["ratio"].any() else str(n)
                for n in sorted(set(seeds))
            ]
            arms.append(f"{arm} {', '.join(shares)}")
        told.append(f"{size}: {'; '.join(arms)}")
    return f"Seed blocks by arm and share of the slots: {'. '.join(told)}."


def _arms(tables: Tables, control: Mapping[str, object]) -> str:
    dosed = tables.cells[tables.cells["ratio"] > 0]
    doses = sorted(set(dosed["dose_tokens"]))
    if not doses:
        return ""
    texts = [f"{arm} ({listed(_percents(rows['ratio']))})" for arm, rows in dosed.groupby("arm", sort=True)]
    without = sorted(set(tables.cells.loc[tables.cells["ratio"] == 0, "arm"]))
    span = f"{doses[0]:,} tokens" if len(doses) == 1 else f"{doses[0]:,} to {doses[-1]:,} tokens"
    placed = listed(sorted(set(dosed["placement"])))
    named = ", ".join(f"{axis} = {value}" for axis, value in control.items())
    return (
        f"Intervention documents took the place of base text in these shares of the slots: {listed(texts)}; {span} "
        f"without padding, placement {placed}{f'; {listed(without)} had none' if without else ''}. Within a seed "
        f"block all arms share initialisation, base text and fine-tuning rows, and "
        + (
            f"an effect is the difference of margins between an arm and the control ({named}) at equal everything "
            "else, where a contrast does not name other cells."
            if control
            else "no control was named: there are margins, and no effects of arms."
        )
    )


def _fine_tuning(tables: Tables) -> str:
    cells = prepared(tables.cells)
    tuned = cells[cells["S"] > 0]
    texts = []
    for source, second in sorted(set(zip(tuned["finetune"], tuned["second"], strict=True))):
        rows = tuned[(tuned["finetune"] == source) & (tuned["second"] == second)]
        doses = sorted(set(rows["S"]))
        tokens = f"({listed([f'{dose:,}' for dose in doses])} loss-bearing tokens)"
        share = f" with {second} in {listed(_percents(rows['second_ratio']))} of the slots"
        arms = listed([f"{arm} {shares}".strip() for arm, shares in _arms_of(rows)])
        texts.append(f"{source}{share if second != 'none' else ''} {tokens}, the arms {arms}")
    return (
        f"Models were then fine-tuned, each dose a schedule of its own, on {'; and on '.join(texts)}. Such counts are "
        "those of the first seed block at equal slots; others differ by a few rows."
        if texts
        else ""
    )


def _arms_of(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """(arm, its shares in words) of the cells `rows`."""
    return [
        (str(arm), f"({listed(_percents(own['ratio']))})" if own["ratio"].any() else "")
        for arm, own in rows.groupby("arm")
    ]


def _variants(tables: Tables) -> str:
    """What else the grid varies: the axes that the column `variant` tells of."""
    told = [
        f"{axis} ({listed(sorted(map(str, set(tables.cells[axis]))))})"
        for axis in tables.axes
        if tables.cells["variant"].str.contains(rf"(?:^|, ){axis}=").any()
    ]
    return f"Beside that the grid varied {listed(told)}, and nothing is averaged over it." if told else ""


def _probes(tables: Tables) -> str:
    told = []
    for paired, items in tables.items.groupby(tables.items["context_mirror"] != ""):
        kinds = list(zip(items["family"], items["rung"], strict=True))
        texts = [f"{' '.join(kind).strip()} {kinds.count(kind)}" for kind in sorted(set(kinds))]
        what = "mirror pairs, the same two phrases in two opposite contexts" if paired else "single contexts"
        told.append(f"{len(kinds)} {what} ({', '.join(texts)})")
    lengths = unequal(lengths_table(tables))
    return (
        f"Probes are {' and '.join(reversed(told))}; a margin is log P(aligned) - log P(opposed) in nats, "
        "mean over a pair, each log probability the sum over its tokens. Effects were estimated per token, per "
        f"character and with the unconditional taken off too, as exploratory ones. {lengths}".strip()
    )


def _statistics(gate: float) -> str:
    return (
        "The primary interval is Student's t (95%) on paired means of seed blocks; beside it stands a "
        f"bootstrap of {DRAWS:,} draws in which whole seed blocks are drawn anew, crossed with templates, "
        "kinds and items where new items are meant. Claims of the primary family are corrected by Holm's "
        "method, claims of nothing there are two one-sided tests within the stated margin, and retention has "
        f"Fieller's limits. With fewer than {FEWEST_SEEDS} seed blocks nothing is claimed. Members whose "
        f"mechanism ended below {gate:g} nat{'' if gate == 1 else 's'}, that diverged, or that skipped steps at spikes "
        "of the gradient, are flagged and kept."
    )


def _new_items(tables: Tables) -> str:
    """What the bootstrap over new items can speak for: as many templates as each rung has."""
    groups = tables.items.groupby(["family", "rung"])["template"].nunique()
    few = [" ".join(kind).strip() for kind, count in groups.items() if count <= FEW_TEMPLATES]  # type: ignore[arg-type]
    if not few:
        return ""
    few_ones = f"With {FEW_TEMPLATES} templates or fewer, as in {listed(few)}"
    return f"{few_ones}, that bootstrap says little of other templates."


def _origin(tables: Tables) -> str:
    runs = tables.stageruns
    commits = [commit[:12] for commit in sorted(set(runs["commit"]))]
    changed = int(runs["dirty"].sum())
    dirty = f", {changed} of them from a working tree with changes" if changed else ""
    return (
        f"The {counted(len(runs), 'StageRun')} were trained at commit{'s' if len(commits) > 1 else ''} "
        f"{listed(commits)}{dirty}, on {listed(sorted(set(runs['machine'])))}; "
        f"numerics: {listed(sorted(set(map(str, runs['numerics']))))}. On another kind of processor the same seeds "
        "give other bits, and other numbers within such intervals."
    )


def _percents(shares: Iterable[float]) -> list[str]:
    return [f"{100 * share:g}%" for share in sorted(set(shares))]


def _seeds(seeds: Iterable[int]) -> str:
    ordered = sorted(seeds)
    whole = len(ordered) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1))
    return f"{ordered[0]} to {ordered[-1]}" if whole else listed([str(seed) for seed in ordered])


def listed(texts: Sequence[str]) -> str:
    """`a, b and c`."""
    return ", ".join(texts) if len(texts) < 2 else f"{', '.join(texts[:-1])} and {texts[-1]}"
