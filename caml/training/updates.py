"""AdamW and Muon as updates of parameters, every number of them a value of the member.

One compiled program then serves all rates, schedules and lengths of a stage.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from caml.models.transformer import OUTPUT_NORM, is_matrix
from caml.training.optimizer import Hyper

Tree = dict[str, Any]

# Coefficients of an iteration of Muon: https://kellerjordan.github.io/posts/muon
NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)


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


def _by_shape(tree: Tree) -> dict[str, list[str]]:
    """Names of Muon's matrices, grouped by shape up to transposition."""
    groups: dict[str, list[str]] = {}
    for name in sorted(filter(is_matrix, tree)):
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
        NEWTON_SCHULZ,
        beta=h.momentum,
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: numbers, tree),
    )
    return muon, adam


def _split(name: str, tree: Tree) -> tuple[Tree, Tree]:
    """Stacked matrices for Muon, and the parameters for AdamW."""
    if name == "adamw":
        return {}, tree
    return _stack(tree), {n: x for n, x in tree.items() if not is_matrix(n)}


def init_state(name: str, params: Tree, h: Hyper) -> optax.OptState:
    """The state of a fresh optimizer called `name`, in numpy: zeros, and the coefficients of Muon.

    optax would have XLA compile a program for each shape, and a launch would wait for them.
    """

    def init(params: Tree) -> optax.OptState:
        return tuple(t.init(p) for t, p in zip(_transforms(name, h), _split(name, params), strict=True))

    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(init, params))
    if name == "adamw":
        return state
    return state[0]._replace(ns_coeffs=np.array(NEWTON_SCHULZ, np.float32)), state[1]


def update(
    name: str, params: Tree, state: optax.OptState, gradients: Tree, step: jax.Array, h: Hyper
) -> tuple[Tree, optax.OptState, jax.Array]:
    """New parameters, new state, and the global norm of the gradients before clipping.

    Weight decay is decoupled (arXiv 1711.05101), leaves norms alone, and is not carried over to other widths. Muon:
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
        rate = share * (h.rate if is_matrix(key) else h.embedding_rate)
        decay = h.weight_decay * parameter if parameter.ndim > 1 else 0.0
        carried = h.matrix_share if is_matrix(key) else h.output_share if key == OUTPUT_NORM else 1.0
        return parameter - rate * (carried * updates[key] + decay)

    return {key: move(key, parameter) for key, parameter in params.items()}, new_state, norm
