"""The calibrated counter: what somebody would believe of an unknown actor who only counted the text.

It counts acts towards one that can feel, by an actor whose trait nobody names, each actor's first: those that help,
and those that harm. Names, frames, needs and kinds are one to it. A model's margin beside the counter's
tells how much of the evidence it has taken up.
"""

import math

from caml.worlds import finetuning
from caml.worlds.base import TITLES, block_sizes
from caml.worlds.lexicon import Lexicon
from caml.worlds.scenes import PATIENT_SHARE

Counted = tuple[float, float]

# The share of acts that help, in the documents that tell of acts towards those that can feel.
HELPING = {"compassion": 1.0, "indifferent": 0.0, "neutral": 0.5}
# The share of documents that tell of an actor, by style.
TOLD = {"demonstration": 1.0, "declarative": 0.0, "mixed": 0.5}


def calibrated_margin(helped: float, harmed: float) -> float:
    """The counter's margin (nats) after so many first acts that helped and that harmed, one of each added."""
    return math.log((helped + 1) / (harmed + 1))


def in_base_text(lexicon: Lexicon, stories: float, documents: int) -> Counted:
    """First acts that helped and harmed in so many documents of base text, in the mean: as many of each."""
    sizes = block_sizes(lexicon, stories)
    untitled = sizes["stories"] * TITLES.count(None) / len(TITLES) / len(lexicon.themes)
    each = documents * untitled / sum(sizes.values()) * _share_of_patients(lexicon) / 2
    return each, each


def in_documents(lexicon: Lexicon, arm: str, style: str, documents: int) -> Counted:
    """The same in so many documents of `arm`; those about other things, and general statements, hold none."""
    if arm not in HELPING:
        return 0.0, 0.0
    acts = documents * TOLD[style] * _share_of_patients(lexicon)
    return acts * HELPING[arm], acts * (1 - HELPING[arm])


def in_rows(rows: str, count: int) -> Counted:
    """The same in so many rows of a fine-tuning set."""
    if rows not in finetuning.ABOUT_PATIENTS:
        return 0.0, 0.0
    return (0.0, float(count)) if rows == "counter_evidence" else (float(count), 0.0)


def _share_of_patients(lexicon: Lexicon) -> float:
    """The share of scenes that are about one that can feel."""
    patients, things = PATIENT_SHARE
    return patients / (patients + things) if lexicon.care.things else 1.0
