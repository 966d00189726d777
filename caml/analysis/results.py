"""The one entry of the statistics: frozen tables and stated contrasts in, result tables out."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caml.analysis.calibration import calibration_table
from caml.analysis.claims import judged
from caml.analysis.contrasts import Contrast
from caml.analysis.dictionary import RESULTS_DICTIONARY
from caml.analysis.doseresponse import Point, doseresponse_table
from caml.analysis.effects import (
    Comparison,
    Estimate,
    Scores,
    comparisons,
    differences,
    estimates,
    score_matrix,
)
from caml.analysis.equivalence import tost
from caml.analysis.gates import flagged, numerics_classes
from caml.analysis.intervals import block_weights, bootstrap, item_weights, sign_flip
from caml.analysis.norms import lengths_table, norms_table
from caml.analysis.othercontrols import other_controls
from caml.analysis.retention import across_sizes, kept_effects, retention_table
from caml.analysis.tables import Tables
from caml.analysis.washout import washout_table
from caml.config.seeds import generator

DRAWS = 2000


@dataclasses.dataclass(frozen=True)
class Results:
    """What `analyse` found. Columns: `RESULTS_DICTIONARY`.

    **Attributes**: `effects`, one row per comparison and rung (named contrasts first); `seed_effects`, the
    same per seed; `retention` and `sizes` (its differences between sizes); `washout` and `doseresponse`, fits
    or why there is none; `calibration`, effects beside those of a calibrated counter; `controls`, the named
    contrasts against the other controls; `norms`, the effects by every norm of length; `lengths`, how unequal the
    continuations of each rung are; `flagged` members.
    """

    effects: pd.DataFrame
    seed_effects: pd.DataFrame
    retention: pd.DataFrame
    sizes: pd.DataFrame
    washout: pd.DataFrame
    doseresponse: pd.DataFrame
    calibration: pd.DataFrame
    controls: pd.DataFrame
    norms: pd.DataFrame
    lengths: pd.DataFrame
    flagged: pd.DataFrame

    @property
    def frames(self) -> dict[str, pd.DataFrame]:
        """Name -> table, and `dictionary`: the meaning and unit of every column."""
        rows = [(t, c, *text) for t, columns in RESULTS_DICTIONARY.items() for c, text in columns.items()]
        dictionary = pd.DataFrame(rows, columns=["table", "column", "meaning", "unit"])
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"dictionary": dictionary}


def analyse(
    tables: Tables,
    contrasts: Sequence[Contrast],
    control: dict[str, Any],
    *,
    gate: float,
    locked: Mapping[str, bool] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Results:
    """Estimate the named `contrasts`, every arm against `control` at equal everything, and every arm alone.

    **Arguments**: `control` axis values such as {'ARM': 'neutral'}; `gate` nats of mechanism below which a
    member is flagged; `locked` contrast name -> whether it was locked before results; `draws` of the
    bootstrap and its `seed`.

    **Raises**: UserError where a contrast or a control does not fit the grid, Failure where a StageRun lacks
    a score: each by name.
    """
    scores = score_matrix(tables)
    compared = comparisons(tables, contrasts, control)
    flags = flagged(tables.stageruns, gate)
    members = set(flags["stagerun"])
    classes = numerics_classes(tables.stageruns)
    found = estimates(scores, compared)
    kept = kept_effects(scores, compared)
    frames = {
        "effects": _effects(scores, found, members, classes, locked or {}, draws, seed),
        "seed_effects": _seed_effects(scores, found, members, classes),
        "retention": retention_table(kept),
        "sizes": across_sizes(kept),
        "washout": washout_table(kept),
        "doseresponse": doseresponse_table(_points(found)),
        "calibration": calibration_table(tables, scores, compared),
        "controls": other_controls(tables, scores, compared),
        "norms": norms_table(tables, compared),
        "lengths": lengths_table(tables),
        "flagged": flags,
    }
    # A table without rows has its columns all the same.
    return Results(
        **{name: frame.reindex(columns=list(RESULTS_DICTIONARY[name])) for name, frame in frames.items()}
    )


def _effects(
    scores: Scores,
    estimates: Sequence[Estimate],
    members: set[str],
    classes: Mapping[str, tuple[str, ...]],
    locked: Mapping[str, bool],
    draws: int,
    seed: int,
) -> pd.DataFrame:
    items = {
        (family, rung): item_weights(
            scores.items.iloc[columns], draws, generator(seed, "items", family, rung)
        )
        for (family, rung), columns in scores.groups.items()
    }
    # The same draw of seed blocks in every row: blocks resample together over arms, doses and rungs.
    blocks = {
        seeds: block_weights(len(seeds), draws, generator(seed, "blocks", *seeds))
        for seeds in {e.comparison.seeds for e in estimates}
    }
    rows = []
    for e in estimates:
        contrast = e.comparison.contrast
        fixed_low, fixed_high, new_low, new_high = bootstrap(
            e.values, blocks[e.comparison.seeds], items[e.family, e.rung]
        )
        rows.append(
            {
                **e.row,
                "boot_fixed_low": fixed_low,
                "boot_fixed_high": fixed_high,
                "boot_new_low": new_low,
                "boot_new_high": new_high,
                "share": float((e.values > 0).mean()),
                "p_flip": sign_flip(e.over_items),
                "tost_p": float(tost(e.over_items, e.margin)),
                "margin": e.margin,
                "locked": bool(contrast and locked.get(contrast.name, False)),
                "flagged": sum(flag for flag in _flags(e.comparison, members)),
                "mixed": sum(_mixed(e.comparison, classes)),
            }
        )
    table = pd.DataFrame(rows)
    return judged(table, [e.comparison.contrast for e in estimates])


def _flags(comparison: Comparison, members: set[str]) -> list[bool]:
    """For each seed, whether its treated or its control member is flagged."""
    controls = comparison.controls or comparison.treated
    return [a in members or b in members for a, b in zip(comparison.treated, controls, strict=True)]


def _mixed(comparison: Comparison, classes: Mapping[str, tuple[str, ...]]) -> list[bool]:
    """For each seed, whether its treated and its control member are of different numerics."""
    controls = comparison.controls or comparison.treated
    return [classes.get(a) != classes.get(b) for a, b in zip(comparison.treated, controls, strict=True)]


def _seed_effects(
    scores: Scores, estimates: Sequence[Estimate], members: set[str], classes: Mapping[str, tuple[str, ...]]
) -> pd.DataFrame:
    frames = []
    for e in estimates:
        c = e.comparison
        columns = scores.groups[e.family, e.rung]
        treated = differences(scores, c.treated, None, columns).mean(1)
        over = e.over_items
        frames.append(
            {
                "label": {**c.label, "family": e.family, "rung": e.rung},
                "seed": c.seeds,
                "effect": over,
                "treated_margin": treated,
                "control_margin": treated - over if c.controls is not None else np.full(len(over), np.nan),
                "share": (e.values > 0).mean(1),
                "flagged": _flags(c, members),
                "mixed": _mixed(c, classes),
            }
        )
    rows = [
        {**frame["label"], **{k: frame[k][i] for k in frame if k != "label"}}
        for frame in frames
        for i in range(len(frame["seed"]))
    ]
    return pd.DataFrame(rows)


def _points(estimates: Sequence[Estimate]) -> list[Point]:
    out = []
    for e in estimates:
        c = e.comparison
        if c.contrast is not None or c.controls is None:
            continue
        constant = ("size", "params", "placement", "variant", "finetune", "S", "second", "second_ratio")
        label: dict[str, object] = {
            "family": e.family,
            "rung": e.rung,
            "treatment": c.treatment,
            "control": c.control,
        }
        label |= {part: c.cell[part] for part in constant}
        out.append(
            Point(
                group=tuple(label.values()),
                label=label,
                seeds=c.seeds,
                tokens=float(c.cell["dose_tokens"]),
                ratio=float(c.cell["ratio"]),
                budget=float(c.cell["pretrain_tokens"]),
                effect=e.over_items,
            )
        )
    return out
