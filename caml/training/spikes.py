"""Spikes: a step whose gradient is far larger than those before is skipped, and a member that only spikes is stopped.

A batch that throws a model off is gone by the next step, and what it did to the parameters is not. PaLM left out the
batches around a spike by hand (arXiv 2204.02311, section 5.1); here it is a rule for each step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# What a new norm leaves of the mean of those before it: it is of about the last 100.
DECAY = 0.99
# Steps that are taken before the rule begins. Norms change much while a model learns its first words.
TAKEN = 100
# Steps skipped in a row after which a member is stopped: then it is no batch that is at fault.
IN_A_ROW = 20


class Norms(NamedTuple):
    """What is known of a member's gradient norms: float32 `mean`, biased towards 0; int32 counts of steps.

    `taken` in all, and `skipped` in a row. Those that were skipped are not in the mean.
    """

    mean: Any
    taken: Any
    skipped: Any


def nothing() -> Norms:
    """Before the first step."""
    return Norms(np.float32(0), np.int32(0), np.int32(0))


def limit(norms: Norms, spike: jax.Array) -> jax.Array:
    """The largest gradient norm with which the next step is taken: `spike` times the mean of those before.

    Infinite where `spike` is 0, and before TAKEN steps were taken. The mean is exponential and debiased, as Adam's
    (arXiv 1412.6980, section 3).
    """
    mean = norms.mean / (1 - DECAY ** jnp.maximum(norms.taken, 1).astype(jnp.float32))
    return jnp.where((spike > 0) & (norms.taken >= TAKEN), spike * mean, jnp.inf)


def after(norms: Norms, norm: jax.Array, skipped: jax.Array) -> Norms:
    """What is known after a step with the gradient norm `norm`, which was taken or skipped."""
    mean = DECAY * norms.mean + (1 - DECAY) * norm
    return Norms(
        jnp.where(skipped, norms.mean, mean),
        jnp.where(skipped, norms.taken, norms.taken + 1),
        jnp.where(skipped, norms.skipped + 1, 0),
    )
