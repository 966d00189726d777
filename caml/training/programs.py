"""Compiled programs, kept for the life of the process and shared by populations of the same shape."""

import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from caml.models.sizes import Model
from caml.training import population
from caml.training.layouts import Layout
from caml.training.mesh import EVERYWHERE, batch_spec, shardings
from caml.training.step import Batch


@dataclass(frozen=True)
class Shape:
    """What a compiled program depends on; everything else is data.

    `members` counts places, padding included; `steps` is the most steps of a dispatch; `preference` tells a loss on
    pairs, for which there is a reference, from one on tokens.
    """

    model: Model
    vocab: int
    batch: int
    length: int
    optimizer: str
    members: int
    steps: int
    layout: Layout
    preference: bool


# Programs, and the seconds of compiling that have not been told to whoever trains.
_PROGRAMS: dict[tuple[Shape, Mesh], tuple[Any, float]] = {}
# Seconds of compiling of each.
_SECONDS: list[float] = []


def compiled() -> tuple[int, float]:
    """How many programs this process has compiled for training, and in how long; those too large to train count too."""
    return len(_SECONDS), sum(_SECONDS)


def program(
    shape: Shape, mesh: Mesh, state: Any, reference: Any, hyper: Any, ahead: bool = False
) -> tuple[Any, float]:
    """The compiled program for `shape` on `mesh`, and the seconds it took to compile (0 if it has been used before).

    `state`, `reference` and `hyper` give structure and types. `ahead`: it is only looked at, so that its seconds are
    told to the first who trains with it.
    """
    if (shape, mesh) in _PROGRAMS:
        found, untold = _PROGRAMS[shape, mesh]
        if not ahead:
            _PROGRAMS[shape, mesh] = found, 0.0
        return found, untold
    start = time.monotonic()
    of_batches = NamedSharding(mesh, batch_spec(mesh))

    def described(tree: Any) -> Any:
        """Shapes, types and shardings of the arrays."""
        return jax.tree.map(
            lambda array, lies: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=lies),
            tree,
            shardings(tree, mesh),
        )

    axes = (shape.members, shape.steps, shape.batch, shape.length)
    whole, real = (jax.ShapeDtypeStruct(axes, kind, sharding=of_batches) for kind in (np.int32, np.float32))
    counter = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, EVERYWHERE))
    built = population.build(shape.model, shape.optimizer, shape.layout, mesh)
    with jax.set_mesh(mesh):
        lowered = built.lower(
            described(state),
            described(reference),
            described(hyper),
            Batch(whole, whole, whole, real),
            counter,
            counter,
        )
    found = lowered.compile()
    seconds = time.monotonic() - start
    _SECONDS.append(seconds)
    _PROGRAMS[shape, mesh] = found, seconds if ahead else 0.0
    return found, seconds
