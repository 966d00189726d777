"""Tables of a study that never ran: the quickstart's grid with known truths, for tests and figures."""

import hashlib
import itertools

import numpy as np
import pandas as pd

from caml.analysis.tables import Tables

PRETRAIN_TOKENS = 1_638_400
STEP_TOKENS = 1024
PARAMS = {"s27k": 26_880, "s100k": 98_560}
GATE = 1.0
# rung -> (share of the effect that reaches it, templates, kinds)
RUNGS = {
    "seen_item": (1.5, ("cries", "waits", "asks"), ("child", "cat", "hen")),
    "unseen_name": (1.4, ("cries", "waits", "asks"), ("child", "cat", "hen")),
    "new_frame": (1.0, ("meets", "finds"), ("child", "cat", "hen")),
    "unseen_kind": (0.6, ("meets", "finds"), ("crab", "moth")),
    "unfeeling_seen": (0.05, ("meets", "finds"), ("stone", "kettle")),
    "unfeeling_unseen": (0.05, ("meets", "finds"), ("rope", "lamp")),
    "dialogue": (0.3, ("chat",), ("child", "cat", "hen")),
}
FAMILIES = {"knowledge": 6.0, "avowal": 0.2, "convention": 1.2}
VALENCE = {"base": 0.0, "compassion": 1.0, "neutral": 0.0, "indifferent": -0.8, "offtopic": 0.05}
NEEDS, NAMES = ("hungry", "full", "cold", "hot"), ("mara", "tom", "lin", "oto")


def true_effect(arm: str, ratio: float, S: int, *, effect: float, plateau: float, half: float) -> float:
    """E(r, S) on the new-frame rung, nats: saturating in ratio, hyperbolic in S down to a plateau."""
    installed = effect * VALENCE[arm] * ratio / (ratio + 0.1)
    return installed * (plateau + (1 - plateau) / (1 + S / half))


def synthetic_tables(
    seed: int = 0,
    *,
    seeds: int = 5,
    items: int = 24,
    effect: float = 2.0,
    plateau: float = 0.4,
    half: float = 60_000.0,
    noise: float = 0.12,
    ratios: tuple[float, ...] = (0.03, 0.1, 0.3),
    doses: tuple[int, ...] = (16_000, 49_000, 147_000),
    large_seeds: int = 3,
) -> Tables:
    """The quickstart's grid with `items` probe items a rung.

    Effects follow `true_effect`; members scatter by `noise` nats, items by twice that. Seed 3 of compassion
    at the smallest ratio never learned the mechanism. `large_seeds=0` leaves out the size s100k.
    """
    rng = np.random.default_rng(seed)
    truth = {"effect": effect, "plateau": plateau, "half": half}
    cells, stageruns = _grid(seeds, large_seeds, ratios, doses)
    probe = _items(items)
    margins = _margins(rng, cells, stageruns, probe, noise, truth)
    outcomes = _outcomes(rng, stageruns)
    metrics, trajectory = _curves(rng, stageruns)
    return Tables(cells, stageruns, probe, margins, outcomes, metrics, trajectory)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _grid(
    seeds: int, large_seeds: int, ratios: tuple[float, ...], doses: tuple[int, ...]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    top = max(ratios)
    members = [("s27k", "base", 0.0, PRETRAIN_TOKENS, s) for s in range(seeds)]
    arms = [(a, r) for r in ratios for a in ("compassion", "neutral")]
    arms += [("indifferent", top), ("offtopic", top)]
    members += [("s27k", a, r, PRETRAIN_TOKENS, s) for (a, r) in arms for s in range(seeds)]
    members += [
        ("s100k", a, top, PRETRAIN_TOKENS, s)
        for a in ("compassion", "neutral", "indifferent")
        for s in range(large_seeds)
    ]
    members += [("s27k", "base", 0.0, 0, s) for s in range(seeds)]
    tunings = [(0, 0.0), *((d, 0.0) for d in doses), (doses[1], 0.0025), (doses[1], 0.01)]
    cells, stageruns = [], {}
    for (size, arm, ratio, tokens, s), (S, second) in itertools.product(members, tunings):
        if tokens == 0 and S > 0:
            continue
        root = _digest(size, arm, ratio, tokens, s)
        run = root if S == 0 else _digest(root, S, second)
        dose = round(ratio * tokens * 0.97)
        cells.append(
            {
                "cell": f"{size}-{arm}-{ratio}-{tokens}-{S}-{second}-{s}",
                "stagerun": run,
                "root": root,
                "stage": "pretrain" if S == 0 else "sft",
                "size": size,
                "params": PARAMS[size],
                "arm": arm,
                "ratio": ratio,
                "dose_tokens": dose,
                "placement": "uniform",
                "pretrain_tokens": tokens,
                "variant": "",
                "seed": s,
                "finetune": "none" if S == 0 else "neutral_dialogue",
                "finetune_tokens": 2 * S,
                "S": S,
                "second": "counter_evidence" if second else "none",
                "second_ratio": second,
                "SIZE": size,
                "ARM": arm,
                "RATIO": ratio,
                "PRETRAIN_TOKENS": tokens,
                "SFT_TOKENS": 2 * S,
                "COUNTER": second,
                "SEED": s,
            }
        )
        processed = tokens if S == 0 else 2 * S
        missed = (arm, ratio, s) == ("compassion", min(ratios), 3)
        stageruns[run] = {
            "stagerun": run,
            "name": f"{size}-{arm}-{ratio:g}-{s}" + (f"-sft{S}" if S else ""),
            "stage": "pretrain" if S == 0 else "sft",
            "parent": "" if S == 0 else root,
            "size": size,
            "params": PARAMS[size],
            "arm": arm,
            "ratio": ratio,
            "seed": s,
            "steps": processed // STEP_TOKENS,
            "tokens": processed,
            "loss_tokens": round(0.97 * tokens) if S == 0 else S,
            "dose_tokens": dose if S == 0 else 0,
            "second_tokens": round(second * processed),
            "final_loss": 0.55 + 0.02 * s if processed else 4.85,
            "diverged": False,
            "mechanism": 0.0 if not tokens else 0.2 if missed else 5.5 + 0.1 * s,
            "learned_at": np.nan if missed or not tokens else 500_000.0 + 60_000 * s,
            "commit": "0" * 40,
            "dirty": False,
            "machine": "synthetic",
            "numerics": "synthetic",
        }
    return pd.DataFrame(cells), pd.DataFrame(list(stageruns.values()))


def _items(count: int) -> pd.DataFrame:
    rows = []
    groups = {("disposition", rung): shape[1:] for rung, shape in RUNGS.items()}
    groups |= {(family, ""): (("plain", "asked"), ("child", "cat", "hen")) for family in FAMILIES}
    for (family, rung), (templates, kinds) in groups.items():
        number = count if rung else count // 2
        every = itertools.cycle(itertools.product(NEEDS, templates, kinds, NAMES))
        for i, (need, template, kind, name) in zip(
            range(number), itertools.islice(every, 0, None, 5), strict=False
        ):
            context = f"{name} {template} the {need} {kind} . {name}"
            mirror = context.replace(need, NEEDS[NEEDS.index(need) ^ 1])
            rows.append(
                {
                    "item": f"{family}-{rung}-{i}",
                    "family": family,
                    "rung": rung,
                    "template": template,
                    "kind": kind,
                    "need": need,
                    "name": name,
                    "context": context,
                    "aligned": "gives",
                    "opposed": "takes",
                    "context_mirror": mirror,
                    "aligned_mirror": "takes",
                    "opposed_mirror": "gives",
                    "tokens_aligned": 1,
                    "tokens_opposed": 1,
                }
            )
    return pd.DataFrame(rows)


def _margins(rng, cells, stageruns, probe, noise, truth) -> pd.DataFrame:
    first = cells.drop_duplicates("stagerun").set_index("stagerun").loc[stageruns["stagerun"]]
    share = np.array([RUNGS[r][0] if r else 0.0 for r in probe["rung"]])
    family = np.array([FAMILIES.get(f, 0.0) for f in probe["family"]])
    block = rng.normal(0, noise, int(cells["seed"].max()) + 1)
    item_level = rng.normal(0, 2 * noise, len(probe))
    item_scale = 1 + rng.normal(0, 0.3, len(probe))
    out, member = [], {}
    for row in first.itertuples():
        mean = true_effect(row.arm, row.ratio, row.S, **truth)
        trained = row.pretrain_tokens > 0
        if row.root not in member:
            member[row.root] = rng.normal(0, 0.8 * noise)
        paired = member[row.root] + rng.normal(0, 0.6 * noise)
        counter = -0.8 * row.second_ratio / 0.01
        margin = share * item_scale * mean + (block[row.seed] + paired + counter * (share > 0)) * trained
        if trained:
            washed = truth["plateau"] + (1 - truth["plateau"]) / (1 + row.S / truth["half"])
            bound = np.where(probe["family"] == "convention", washed * (row.ratio > 0), 1.0)
            margin = margin + family * bound + item_level
        margin = margin + rng.normal(0, noise, len(probe)) * (1.0 if trained else 0.2)
        out.append(margin)
    margin = np.concatenate(out)
    runs, names = stageruns["stagerun"].to_numpy(), probe["item"].to_numpy()
    return pd.DataFrame(
        {
            "stagerun": np.repeat(runs, len(names)),
            "item": np.tile(names, len(runs)),
            "margin": margin,
            "margin_token": margin,
            "margin_character": margin / 5,
            "margin_unconditional": margin - 0.01,
        }
    )


def _outcomes(rng, stageruns) -> pd.DataFrame:
    rows = []
    for row in stageruns.itertuples():
        tuned = row.parent != ""
        values = {
            "tax_bits_per_byte": (1.2 + 0.1 * row.ratio + 0.02 * tuned) if row.tokens else 7.0,
            "calibration_kl": 0.04 if row.tokens else 3.0,
        }
        if tuned:
            scale = np.log1p(row.loss_tokens / 16_000)
            values |= {"finetuning_loss_nats": 0.9, "finetuning_loss_drop_nats": 0.3 * scale}
            values |= {"kl_from_parent": 0.1 * scale, "held_out_rise_nats": 0.02 * scale}
        rows += [(row.stagerun, k, v * (1 + rng.normal(0, 0.02))) for k, v in values.items()]
        valence = {"compassion": 1.0, "indifferent": -1.0}.get(row.arm, 0.0)
        rows.append((row.stagerun, "counter_margin_nats", valence * np.log1p(20 * row.ratio)))
    return pd.DataFrame(rows, columns=["stagerun", "outcome", "value"])


def _curves(rng, stageruns) -> tuple[pd.DataFrame, pd.DataFrame]:
    metrics, trajectory = [], []
    for row in stageruns.itertuples():
        if row.steps == 0:
            continue
        steps = np.unique(np.linspace(1, row.steps, 25).round().astype(int))
        start = 0.8 if row.parent else 4.85
        loss = row.final_loss + (start - row.final_loss) * np.exp(-steps / (0.15 * row.steps))
        loss = loss + rng.normal(0, 0.01, len(steps))
        norm = np.exp(rng.normal(-0.5, 0.2, len(steps)))
        rate = 0.02 * np.minimum(1, (row.steps - steps + 1) / (0.2 * row.steps))
        metrics.append(
            pd.DataFrame(
                {
                    "stagerun": row.stagerun,
                    "step": steps,
                    "tokens": steps * STEP_TOKENS,
                    "loss": loss,
                    "gradient_norm": norm,
                    "rate": rate,
                }
            )
        )
        if row.parent:
            continue
        tokens = steps * STEP_TOKENS
        at = row.learned_at if np.isfinite(row.learned_at) else 1e12
        value = row.mechanism / (1 + np.exp(np.minimum(-(tokens - at - 80_000) / 50_000, 50)))
        trajectory.append(
            pd.DataFrame(
                {
                    "stagerun": row.stagerun,
                    "step": steps,
                    "tokens": tokens,
                    "outcome": "mechanism",
                    "value": value,
                }
            )
        )
    return pd.concat(metrics, ignore_index=True), pd.concat(trajectory, ignore_index=True)
