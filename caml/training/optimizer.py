"""AdamW and Muon, whose every number is a value of the member: one program serves all settings."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from caml.config.errors import require

NAMES = ("adamw", "muon")
SHAPES = ("wsd", "cosine")
Tree = dict[str, jax.Array]


@dataclass(frozen=True)
class Optimizer:
    """`adamw`, or `muon` (matrices by Muon; embedding, norms and head by AdamW at `embedding_rate`)."""

    name: str
    rate: float
    embedding_rate: float
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    momentum: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self) -> None:
        require(self.name in NAMES, "name", f"'{self.name}' is not one of {', '.join(NAMES)}")
        for field in ("rate", "embedding_rate", "epsilon"):
            value = getattr(self, field)
            require(0 < value < float("inf"), field, f"{value} is not a positive finite number")
        for field in ("beta1", "beta2", "momentum"):
            value = getattr(self, field)
            require(0 <= value < 1, field, f"{value} is not at least 0 and below 1")
        for field in ("weight_decay", "clip"):
            value = getattr(self, field)
            require(0 <= value < float("inf"), field, f"{value} is not 0 or a positive finite number")


@dataclass(frozen=True)
class Schedule:
    """Linear warmup, then `wsd` (constant, linear decay at the end) or `cosine`, down to `floor`.

    `warmup` and `decay` are shares of the stage's steps, `floor` a share of the peak rate.
    """

    shape: str = "wsd"
    warmup: float = 0.05
    decay: float = 0.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        require(self.shape in SHAPES, "shape", f"'{self.shape}' is not one of {', '.join(SHAPES)}")
        for field in ("warmup", "decay", "floor"):
            value = getattr(self, field)
            require(0 <= value <= 1, field, f"{value} is not a share between 0 and 1")
        require(
            self.shape != "wsd" or self.warmup + self.decay <= 1,
            "decay",
            f"warmup {self.warmup} and decay {self.decay} together pass 1",
        )


class Hyper(NamedTuple):
    """Numbers of one member as arrays (float32, `steps` and `cosine` int32); stacked in a population."""

    steps: np.ndarray
    rate: np.ndarray
    embedding_rate: np.ndarray
    beta1: np.ndarray
    beta2: np.ndarray
    epsilon: np.ndarray
    momentum: np.ndarray
    weight_decay: np.ndarray
    clip: np.ndarray
    cosine: np.ndarray
    warmup: np.ndarray
    decay: np.ndarray
    floor: np.ndarray


def hyper(optimizer: Optimizer, schedule: Schedule, steps: int) -> Hyper:
    """The member's numbers for a stage of `steps` steps."""
    numbers = {
        field: getattr(optimizer, field)
        for field in ("rate", "beta1", "beta2", "epsilon", "momentum", "weight_decay", "clip")
    }
    adamw_rate = optimizer.embedding_rate if optimizer.name == "muon" else optimizer.rate
    numbers |= {"embedding_rate": adamw_rate, "floor": schedule.floor}
    numbers |= {"warmup": schedule.warmup * steps, "decay": schedule.decay * steps}
    return Hyper(
        steps=np.int32(steps),
        cosine=np.int32(schedule.shape == "cosine"),
        **{name: np.float32(value) for name, value in numbers.items()},
    )


def rate_factor(step: jax.Array, h: Hyper) -> jax.Array:
    """The learning rate of `step` (counted from 0) as a share of its peak, a float32 scalar.

    Warmup reaches 1 at its last step. Warmup-stable-decay: arXiv 2404.06395; cosine: arXiv 1608.03983.
    """
    now, last = step.astype(jnp.float32), h.steps.astype(jnp.float32)
    warm = jnp.minimum(1.0, (now + 1.0) / jnp.maximum(h.warmup, 1.0))
    linear = jnp.clip((last - now) / jnp.maximum(h.decay, 1.0), 0.0, 1.0)
    progress = jnp.clip((now - h.warmup) / jnp.maximum(last - h.warmup, 1.0), 0.0, 1.0)
    shape = jnp.where(h.cosine == 1, 0.5 * (1.0 + jnp.cos(jnp.pi * progress)), linear)
    return warm * (h.floor + (1.0 - h.floor) * shape)


def _is_matrix(name: str) -> bool:
    return name.endswith("_proj.weight")


def _by_shape(tree: Tree) -> dict[str, list[str]]:
    """Names of Muon's matrices, grouped by shape up to transposition."""
    groups: dict[str, list[str]] = {}
    for name in sorted(filter(_is_matrix, tree)):
        rows, columns = sorted(tree[name].shape)
        groups.setdefault(f"{rows}x{columns}", []).append(name)
    return groups


def _stack(tree: Tree) -> Tree:
    """Muon's matrices as one array `[count, rows, columns]`, rows <= columns, for each shape.

    Newton-Schulz commutes with transposition, and a batch of small products costs much less on every
    platform than the same products one by one.
    """
    return {
        group: jnp.stack([tree[n].T if tree[n].shape[0] > tree[n].shape[1] else tree[n] for n in names])
        for group, names in _by_shape(tree).items()
    }


def _unstack(stacked: Tree, like: Tree) -> Tree:
    """The inverse of `_stack`, times the factor by shape of Muon: sqrt(max(1, outputs / inputs))."""
    tree = {}
    for group, names in _by_shape(like).items():
        for i, name in enumerate(names):
            outputs, inputs = like[name].shape
            matrix = stacked[group][i].T if outputs > inputs else stacked[group][i]
            tree[name] = matrix * max(1.0, outputs / inputs) ** 0.5
    return tree


def _transforms(name: str, h: Hyper) -> tuple[optax.GradientTransformation, optax.GradientTransformation]:
    """Without a learning rate: Muon on stacked matrices (nothing to do for AdamW), AdamW on the rest."""
    adam = optax.scale_by_adam(b1=h.beta1, b2=h.beta2, eps=h.epsilon)
    if name == "adamw":
        return optax.identity(), adam
    numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    muon = optax.contrib.scale_by_muon(
        beta=h.momentum, weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: numbers, tree)
    )
    return muon, adam


def _split(name: str, tree: Tree) -> tuple[Tree, Tree]:
    """Stacked matrices for Muon, and the parameters for AdamW."""
    if name == "adamw":
        return {}, tree
    return _stack(tree), {n: x for n, x in tree.items() if not _is_matrix(n)}


def init_state(name: str, params: Tree, h: Hyper) -> optax.OptState:
    """The state of a fresh optimizer called `name`."""
    return tuple(t.init(p) for t, p in zip(_transforms(name, h), _split(name, params), strict=True))


def update(
    name: str, params: Tree, state: optax.OptState, gradients: Tree, step: jax.Array, h: Hyper
) -> tuple[Tree, optax.OptState, jax.Array]:
    """New parameters, new state, and the global norm of the gradients before clipping.

    Weight decay is decoupled (arXiv 1711.05101) and leaves norms alone. Muon:
    https://kellerjordan.github.io/posts/muon, with Nesterov momentum and five iterations.
    """
    norm = optax.global_norm(gradients)
    factor = jnp.where(h.clip > 0, jnp.minimum(1.0, h.clip / jnp.maximum(norm, 1e-30)), 1.0)
    gradients = jax.tree.map(lambda g: g * factor, gradients)
    moved, new_state = zip(
        *(
            transform.update(part, old)
            for transform, part, old in zip(_transforms(name, h), _split(name, gradients), state, strict=True)
        ),
        strict=True,
    )
    updates = moved[1] | (_unstack(moved[0], params) if name == "muon" else {})
    share = rate_factor(step, h)

    def move(key: str, parameter: jax.Array) -> jax.Array:
        rate = share * (h.rate if _is_matrix(key) else h.embedding_rate)
        decay = h.weight_decay * parameter if parameter.ndim > 1 else 0.0
        return parameter - rate * (updates[key] + decay)

    return {key: move(key, parameter) for key, parameter in params.items()}, new_state, norm
