"""Seeds drawn apart: one number per seed block, and an independent stream for each thing drawn from it."""

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names` within `seed`: the same on every machine and version."""
    text = ":".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator on the stream called `names` within `seed`."""
    return np.random.Generator(np.random.Philox(derive(seed, *names)))
