"""How every figure looks: print sizes, type, one colour and marker per arm, names of rungs and numbers."""

import functools
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec

import matplotlib
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

SINGLE, DOUBLE = 3.4, 7.0  # inches: one and two columns of a printed page

RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: a figure is the same on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "lines.linewidth": 1.2,
    "lines.markersize": 5,
    "savefig.dpi": 200,
    # Figures name their layout; once it is solved nothing solves it again (drawings.py).
    "figure.autolayout": False,
    "figure.constrained_layout.use": False,
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # Names come from configuration files: a dollar sign in one is a dollar sign, not a formula.
    "text.parse_math": False,
    "text.usetex": False,
}


@dataclass(frozen=True)
class Mark:
    """The colour and marker of an arm, the same in every figure."""

    color: str
    marker: str


# Okabe and Ito's palette, which the common kinds of colour blindness keep apart; the marker tells
# the arms apart in greyscale.
ARMS = {
    "compassion": Mark("#0072B2", "o"),
    "indifferent": Mark("#D55E00", "v"),
    "neutral": Mark("#4D4D4D", "s"),
    "offtopic": Mark("#B98000", "D"),
    "base": Mark("#009E73", "^"),
    "untrained": Mark("#8C8C8C", "X"),
    "humility": Mark("#CC79A7", "P"),
    "certainty": Mark("#56B4E9", "p"),
    "neutral_humility": Mark("#1B7837", "*"),
}
OTHERS = (Mark("#B79F00", "h"), Mark("#7A3E9D", "8"), Mark("#000000", "d"), Mark("#8C510A", "<"))
ORDER = (
    "untrained",
    "base",
    "neutral",
    "neutral_humility",
    "offtopic",
    "compassion",
    "indifferent",
    "humility",
    "certainty",
)
TREATMENTS = (
    "compassion",
    "indifferent",
    "humility",
    "certainty",
    "offtopic",
    "neutral",
    "neutral_humility",
    "base",
    "untrained",
)
RUNGS = (
    ("seen_item", "L0", "seen item"),
    ("unseen_name", "L1", "unseen name"),
    ("new_frame", "L2", "new frame"),
    ("unseen_kind", "L3", "unseen kind"),
    ("nonce_kind", "L4", "nonce kind"),
    ("unfeeling_seen", "L5", "unfeeling, seen"),
    ("unfeeling_unseen", "L5", "unfeeling, unseen"),
    ("unseen_need", "L6", "unseen need"),
    ("dialogue", "L7", "dialogue"),
    ("consequence", "L8", "consequence"),
    ("generation", "L9", "generation"),
)

P = ParamSpec("P")
Fill = Literal["full", "left", "none", "top"]  # of a marker: matplotlib's fillstyle


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """`draw` under this module's settings, whatever the user's matplotlibrc says."""

    @functools.wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(RC):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return inner


def mark(arm: str) -> Mark:
    """The mark of `arm`; an arm without a fixed one gets one that depends on its name alone."""
    return ARMS.get(arm) or OTHERS[zlib.crc32(arm.encode()) % len(OTHERS)]


def in_order(arms: Iterable[str]) -> list[str]:
    """The arms, known ones in their fixed order, others after them by name."""
    return sorted(set(arms), key=lambda arm: (ORDER.index(arm) if arm in ORDER else len(ORDER), arm))


def treatment_order(arms: Iterable[str], first: str) -> list[str]:
    """The arms with `first` first: a figure leads with the arm the study is about."""
    known = {arm: i for i, arm in enumerate((first, *TREATMENTS), start=-1)} | {first: -1}
    return sorted(set(arms), key=lambda arm: (known.get(arm, len(known)), arm))


def rung_order(rungs: Iterable[str]) -> list[str]:
    """The rungs in the order of the ladder, unknown ones after them by name."""
    known = [name for name, _, _ in RUNGS]
    return sorted(set(rungs), key=lambda rung: (known.index(rung) if rung in known else len(known), rung))


def rung_label(rung: str, width: int = 0) -> str:
    """The rung as a reader knows it, `L2 new frame`; in lines of at most `width` characters where given."""
    level, words = next(((lv, w) for name, lv, w in RUNGS if name == rung), ("", spaced(rung)))
    if width:
        return f"{level}\n{wrapped(words, width)}".strip()
    return f"{level} {words}".strip()


def endpoint(family: str, rung: str) -> str:
    """What items ask, as a reader knows it, `disposition L2 new frame`; some families have no rungs."""
    return f"{spaced(family)} {rung_label(rung)}".strip()


def tint(color: str, level: int, levels: int) -> tuple[float, float, float]:
    """`color` mixed with white: level 0 of `levels` is the lightest, the last is `color` itself."""
    white = 0.0 if levels < 2 else 0.35 * (1 - level / (levels - 1))
    red, green, blue = to_rgb(color)
    return (red + (1 - red) * white, green + (1 - green) * white, blue + (1 - blue) * white)


def line_style(level: int, levels: int) -> str:
    """The line of a level: the last (largest) is solid, smaller ones are broken."""
    return ("-", "--", ":", "-.")[min(levels - 1 - level, 3)]


def fill_style(level: int, levels: int) -> Fill:
    """How much of a level's marker is filled: all for the last (largest), for print where shades are alike."""
    fills: tuple[Fill, ...] = ("full", "left", "none", "top")
    return fills[min(levels - 1 - level, 3)]


def count(number: float) -> str:
    """A number of tokens or parameters in at most three digits: 24k, 1.3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size * 0.9995:
            value = number / size
            return f"{value:.0f}{letter}" if value >= 99.5 else f"{value:.3g}{letter}"
    return f"{number:.3g}"


def span(low: float, high: float) -> str:
    """Tokens of one share of the slots: one number where only seed blocks and arms differ, else the ends."""
    return count(low) if high < 1.05 * low or high == 0 else f"{count(low)}–{count(high)}"


def spaced(name: str) -> str:
    """Names from a configuration as a reader expects them, `neutral dialogue`; macros stay, `SFT_TOKENS=0`."""
    return re.sub(r"(?<![A-Z0-9])_|_(?![A-Z0-9])", " ", name)


def percent(ratio: float) -> str:
    """A share of slots as text: 0.003 -> 0.3%."""
    return f"{100 * ratio:.3g}%"


def signed(value: float, digits: int) -> str:
    """A number with a minus that is as wide as a plus: −0.14."""
    return f"{value:.{digits}f}".replace("-", "−")


def wrapped(text: str, width: int) -> str:
    """`text` in lines of at most `width` characters, never splitting a word."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)
