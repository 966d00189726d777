"""What an evaluation is: the probes, and the version of the code that scores them."""

from caml.config.fingerprint import fingerprint
from caml.worlds.items import Probes

# Raised when a change of code changes a score: evaluations of an older version are then made again.
SCORER_VERSION = 4


def evaluation_fingerprint(probes: Probes) -> str:
    """Digest of what the probes are and how they are scored: evaluations of another one are stale.

    The items of one seed block are digested too, so that a change of code that changes a probe is one of it.
    """
    return fingerprint({"probes": probes.recipe(), "items": probes.items(0), "scorer": SCORER_VERSION})
