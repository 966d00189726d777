"""A contrast: which cells are compared, on which rung, and what is claimed before results exist."""

import dataclasses
import math
from typing import Any

from caml.config.errors import require

CLAIMS = ("above", "below", "equivalent", "explore")
# Seed blocks below which nothing is claimed.
FEWEST_SEEDS = 5


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One comparison of an ablation, stated in its gin file.

    A treatment cell matches `{**at, **treatment}`; its control is the cell that matches `{**at, **control}`
    and equals it in every other axis, the seed block included. With `control` None the absolute margin is
    tested against 0. Keys are axis macros in CAPS. `claim` is 'above' or 'below' 0, 'equivalent' to 0 within
    `margin` nats, or 'explore', which claims nothing. Under 'above' and 'below' a `margin` is the smallest
    effect of interest. The family of `primary` contrasts is corrected together (Holm); every other contrast
    is called exploratory.
    """

    name: str
    treatment: dict[str, Any]
    control: dict[str, Any] | None
    at: dict[str, Any]
    rung: str
    claim: str
    margin: float = 0.0
    primary: bool = False
    family: str = "disposition"

    def __post_init__(self) -> None:
        """Refuse a contrast that cannot be estimated or claimed."""
        require(bool(self.name), "name", "a contrast needs a name")
        require(self.claim in CLAIMS, "claim", f"{self.claim!r} is none of {', '.join(CLAIMS)}")
        require(
            math.isfinite(self.margin) and self.margin >= 0,
            "margin",
            f"{self.margin} is no equivalence margin: a number of nats, 0 or above",
        )
        require(
            self.claim != "equivalent" or self.margin > 0,
            "margin",
            "a claim of equivalence needs a margin above 0 (nats)",
            "claim",
        )
        require(
            not (self.primary and self.claim == "explore"),
            "primary",
            "a primary contrast claims 'above', 'below' or 'equivalent'",
            "claim",
        )
        require(bool(self.treatment), "treatment", "name at least one axis, such as {'ARM': 'compassion'}")
        require(
            self.control is None or self.control != self.treatment,
            "control",
            "the control must differ from the treatment (None tests the absolute margin)",
        )
        named = self.at.keys() & self.treatment.keys() & (self.control or {}).keys()
        require(
            not named, "at", f"treatment and control name {', '.join(sorted(named))} themselves; leave it out"
        )
        for field in ("treatment", "control", "at"):
            require(
                "SEED" not in (getattr(self, field) or {}),
                field,
                "SEED is always paired and cannot be named here",
            )
        require(bool(self.family), "family", "name the probe family, such as 'disposition'")
