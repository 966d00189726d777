"""Does a conclusion depend on the norm of length? Every norm side by side, and the answer in sentences."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from caml.analysis.figures.style import endpoint
from caml.analysis.figures.view import CELL, COMPARED, View, each
from caml.analysis.norms import CLAIMED, NORMS, UNJUDGED
from caml.analysis.report.methods import listed, quoted
from caml.analysis.report.tables import Cell, Table, cell, compared, dose, interval, number, stage
from caml.config.text import counted

DIGITS = 3  # of norms by length, whose numbers are small; sums have 2, as everywhere
PHRASES = {CLAIMED: "by the sum", "unconditional": "with the unconditional taken off"}


def side_by_side(norms: pd.DataFrame, view: View) -> Table:
    """The named contrasts and every comparison with a control on the primary endpoint: a column per norm."""
    body = []
    for rows in _comparisons(_shown(norms, view)):
        some = rows[CLAIMED]
        differ = [NORMS[row.norm].words for row in _differing(rows)]
        own = [row.agrees for norm, row in rows.items() if norm != CLAIMED and _own(row)]
        told = "agrees" if True in own else "not judged" if own else "only rescaled"
        if differ:
            told = f"differs: {', '.join(differ)}"
        body.append(
            (
                cell(some.contrast or "–"),
                cell(compared(some), stage(some)),
                cell(endpoint(some.family, some.rung)),
                cell(some.size, dose(some), order=float(some.params)),
                cell(str(some.seeds), order=float(some.seeds)),
                *(_estimate(rows[norm]) for norm in NORMS),
                cell(told),
            )
        )
    heads = [
        f"{norm.words}{'' if name == CLAIMED else ', exploratory'} ({norm.unit})"
        for name, norm in NORMS.items()
    ]
    columns = ("contrast", "compared", "endpoint", "size, dose", "seeds", *heads, "other norms")
    return Table(columns, tuple(body), "Nothing in this grid is compared with a control.")


def sentences(norms: pd.DataFrame, view: View) -> list[str]:
    """Whether sign and verdict of each primary contrast are those of every norm, alike ones together; then the rest.

    The rest is counted.
    """
    stated = list(_comparisons(norms[norms["primary"].astype(bool)]))
    told = [_sentence(rows) for rows in stated if _differing(rows)]
    alike: dict[tuple[str, str], list[str]] = {}
    for rows in stated:
        if not _differing(rows):
            alike.setdefault(_alike(rows), []).append(rows[CLAIMED].contrast)
    told += [f"{before} {listed(quoted(names))}: {after}." for (before, after), names in alike.items()]
    shown = _shown(norms, view)
    rest = list(_comparisons(shown[~shown["primary"].astype(bool)]))
    differ = sum(bool(_differing(rows)) for rows in rest)
    if rest:
        among = counted(len(rest), "other comparison" if told else "comparison")
        told.append(
            "The norm decides on which side of 0 the t interval lies, or whether it holds 0, in "
            f"{differ or 'none'} of {among} in the table of norms (exploratory)."
        )
    return told


def dependent(norms: pd.DataFrame) -> list[str]:
    """The sentences on the primary contrasts whose sign or verdict another norm does not share."""
    stated = norms[norms["primary"].astype(bool)]
    return [_sentence(rows) for rows in _comparisons(stated) if _differing(rows)]


def _shown(norms: pd.DataFrame, view: View) -> pd.DataFrame:
    """The named contrasts, and what else is compared with a control on the primary endpoint."""
    named = norms[norms["contrast"] != ""]
    others = view.focus.rows(norms[(norms["contrast"] == "") & (norms["control"].fillna("") != "")])
    rows = pd.concat([named, others])
    again = rows.duplicated([*COMPARED, *CELL, "norm"]) & (rows["contrast"] == "")
    return view.conditions.told(rows[~again])


def _comparisons(norms: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Each comparison as norm -> row, in the order of NORMS."""
    keys = ["contrast", *COMPARED, *CELL]
    for _, rows in norms.groupby(keys, sort=False, dropna=False):
        yield {row.norm: row for row in each(rows)}


def _own(row: Any) -> bool:
    """Whether the norm says anything of its own on this rung."""
    return pd.isna(row.scale)


def _estimate(row: Any) -> Cell:
    if row.norm != CLAIMED and not _own(row):
        return cell(_rescaled(row), order=row.estimate)
    digits = 2 if row.unit == NORMS[CLAIMED].unit else DIGITS
    verdict = row.verdict if row.primary else ""
    limits = interval(row.t_low, row.t_high, digits)
    return cell(number(row.estimate, digits), limits, verdict, order=row.estimate)


def _rescaled(row: Any) -> str:
    """`the sum ÷ 5`; `the sum` where the norm is the sum itself."""
    return "the sum" if abs(row.scale - 1) < 1e-4 else f"the sum ÷ {1 / row.scale:.3g}"


def _differing(rows: dict[str, Any]) -> list[Any]:
    return [row for row in rows.values() if row.agrees is False]


def _sentence(rows: dict[str, Any]) -> str:
    """Of a primary contrast that depends on the norm: what the sum says, which norms say the same, and which do not."""
    claimed, same = rows[CLAIMED], _agreeing(rows)
    (name,) = quoted([claimed.contrast])
    told = [f"{name} depends on the norm of length: {_said(claimed)} by the sum ({_limits(claimed)})"]
    told += [f"{_said(row)} {_by(row)} ({_limits(row)}, exploratory)" for row in _differing(rows)]
    told += [f"as the sum has it {listed(same)}"] if same else []
    return f"{'; '.join([*told, *_saying_nothing(rows)])}."


def _alike(rows: dict[str, Any]) -> tuple[str, str]:
    """Of a primary contrast that does not depend on it: what stands before its name in a sentence, and after it."""
    claimed, same = rows[CLAIMED], _agreeing(rows)
    before = "The norm of length decides nothing about" if same else "The sum alone judges"
    return before, "; ".join([f"{_said(claimed)} {listed([_by(claimed), *same])}", *_saying_nothing(rows)])


def _agreeing(rows: dict[str, Any]) -> list[str]:
    return [_by(row) for norm, row in rows.items() if norm != CLAIMED and _own(row) and row.agrees is True]


def _saying_nothing(rows: dict[str, Any]) -> list[str]:
    """Norms that only rescale the sum, and those by which nothing is judged."""
    others = [row for norm, row in rows.items() if norm != CLAIMED]
    rescaled = [f"{_by(row)} it is {_rescaled(row)}" for row in others if not _own(row)]
    unjudged = [_by(row) for row in others if row.verdict == UNJUDGED]
    told = [f"{listed(rescaled)}, which adds nothing"] if rescaled else []
    return told + (
        [f"{listed(unjudged)} nothing is judged, as the margin is in nats of the sum"] if unjudged else []
    )


def _by(row: Any) -> str:
    return PHRASES.get(row.norm, NORMS[row.norm].words)


def _said(row: Any) -> str:
    verdict = {"too few seeds": "of too few seeds for a verdict"}.get(row.verdict, row.verdict)
    if row.claim == "equivalent" or not (row.t_low > 0 or row.t_high < 0):
        return verdict
    return f"{'positive' if row.t_low > 0 else 'negative'} and {verdict}"


def _limits(row: Any) -> str:
    digits = 2 if row.unit == NORMS[CLAIMED].unit else DIGITS
    return f"{number(row.estimate, digits)} {row.unit} {interval(row.t_low, row.t_high, digits)}"
