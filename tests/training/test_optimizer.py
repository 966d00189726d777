"""Schedules at known points; AdamW and Muon through the same tests, and against optax's own."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from caml.config.errors import Invalid
from caml.models.sizes import Model
from caml.models.transformer import init_parameters, is_matrix
from caml.training import updates
from caml.training.optimizer import Hyper, Optimizer, Schedule, hyper

OPTIMIZERS = {
    name: Optimizer(name, rate=0.1, embedding_rate=0.03, weight_decay=0.1, clip=0.0)
    for name in ("adamw", "muon")
}
FLAT = Schedule("wsd", warmup=0.0, decay=0.0)
rng = np.random.default_rng(0)
PARAMS = {
    "model.embed_tokens.weight": rng.normal(size=(5, 4)),
    "model.norm.weight": rng.normal(size=(4,)),
    "up_proj.weight": rng.normal(size=(6, 4)),
    "down_proj.weight": rng.normal(size=(4, 6)),
    "q_proj.weight": rng.normal(size=(4, 4)),
}
PARAMS = {name: array.astype(np.float32) for name, array in PARAMS.items()}
GRADIENTS = {name: rng.normal(size=array.shape).astype(np.float32) for name, array in PARAMS.items()}

update = jax.jit(updates.update, static_argnums=0)


def steps(name: str, h: Hyper, gradients: list[dict]) -> tuple[dict, float]:
    params, state = PARAMS, updates.init_state(name, PARAMS, h)
    for step, gradient in enumerate(gradients):
        params, state, norm = update(name, params, state, gradient, np.int32(step), h)
    return params, float(norm)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fresh_state_is_that_of_optax(name: str):
    h = hyper(OPTIMIZERS[name], FLAT, 10)
    parts = updates._split(name, PARAMS)
    wanted = [t.init(part) for t, part in zip(updates._transforms(name, h), parts, strict=True)]
    found = updates.init_state(name, PARAMS, h)
    assert jax.tree.structure(tuple(found)) == jax.tree.structure(tuple(wanted))
    for own, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert isinstance(own, np.ndarray) and own.dtype == theirs.dtype and own.shape == theirs.shape
        assert own.tobytes() == np.asarray(theirs).tobytes()


def optax_own(optimizer: Optimizer, params: dict, gradients: list[dict]) -> dict:
    """The same steps by optax's own optimizers, each on the parameters that are its."""
    o = optimizer
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=0)
    muon = optax.contrib.muon(
        o.rate,
        beta=o.momentum,
        weight_decay=o.weight_decay,
        muon_weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: matrix, tree),
    )
    adamw = optax.adamw(
        o.rate if o.name == "adamw" else o.embedding_rate,
        o.beta1,
        o.beta2,
        o.epsilon,
        weight_decay=o.weight_decay,
        mask=lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
    )
    matrices = [name for name in params if o.name == "muon" and "proj" in name]
    found = {}
    for own, names in ((muon, matrices), (adamw, [name for name in params if name not in matrices])):
        part = {name: params[name] for name in names}
        state = own.init(part)
        for gradient in gradients:
            moved, state = own.update({name: gradient[name] for name in names}, state, part)
            part = optax.apply_updates(part, moved)
        found |= part
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_steps_are_those_of_optax(name: str):
    gradients = [{k: g * factor for k, g in GRADIENTS.items()} for factor in (1.0, -0.5, 2.0)]
    ours, _ = steps(name, hyper(OPTIMIZERS[name], FLAT, 100), gradients)
    theirs = jax.jit(optax_own, static_argnums=0)(OPTIMIZERS[name], PARAMS, gradients)
    for key, array in theirs.items():
        np.testing.assert_allclose(ours[key], array, rtol=1e-4, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_clipping_is_by_the_norm_of_all_gradients_and_zero_means_off(name: str):
    # The second step tells clipped gradients apart: an update on its own forgets the scale.
    small = GRADIENTS
    large = {k: 100 * g for k, g in GRADIENTS.items()}
    clipped = hyper(dataclasses.replace(OPTIMIZERS[name], clip=1.0), FLAT, 100)
    free = hyper(OPTIMIZERS[name], FLAT, 100)
    turned = {k: g[::-1] for k, g in GRADIENTS.items()}
    (a, norm), (b, _) = steps(name, clipped, [turned, large]), steps(name, clipped, [turned, small])
    (c, _), (d, _) = steps(name, free, [turned, large]), steps(name, free, [turned, small])
    assert norm == pytest.approx(100 * np.sqrt(sum((g**2).sum() for g in GRADIENTS.values())), rel=1e-5)
    assert max(np.abs(a[k] - b[k]).max() for k in a) < 1e-5
    assert max(np.abs(c[k] - d[k]).max() for k in c) > 1e-2


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_decay_is_decoupled_and_leaves_norms_alone(name: str):
    after, _ = steps(name, hyper(OPTIMIZERS[name], FLAT, 100), [{k: 0 * g for k, g in GRADIENTS.items()}])
    for key, array in PARAMS.items():
        rate = 0.03 if name == "muon" and "proj" not in key else 0.1
        kept = 1.0 if array.ndim == 1 else 1 - rate * 0.1
        np.testing.assert_allclose(after[key], kept * array, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (
            Schedule("wsd", 0.1, 0.2, 0.0),
            {0: 0.1, 4: 0.5, 9: 1.0, 50: 1.0, 79: 1.0, 80: 1.0, 90: 0.5, 99: 0.05},
        ),
        (Schedule("wsd", 0.0, 0.5, 0.2), {0: 1.0, 50: 1.0, 75: 0.6, 99: 0.216}),
        (Schedule("cosine", 0.0, 0.0, 0.0), {0: 1.0, 50: 0.5, 99: 0.000247}),
        (Schedule("cosine", 0.2, 0.0, 0.1), {0: 0.05, 19: 1.0, 20: 1.0, 60: 0.55}),
    ],
)
def test_schedules_at_known_points(schedule: Schedule, points: dict[int, float]):
    h = hyper(OPTIMIZERS["adamw"], schedule, 100)
    found = jax.vmap(updates.rate_factor, (0, None))(np.array(list(points), np.int32), h)
    np.testing.assert_allclose(found, list(points.values()), rtol=2e-3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Optimizer("sgd", 0.1, 0.1), "'sgd' is not one of adamw, muon"),
        (lambda: Optimizer("muon", float("nan"), 0.1), "rate: nan"),
        (lambda: Optimizer("muon", 0.1, 0.1, beta2=1.0), "beta2: 1.0"),
        (lambda: Optimizer("muon", 0.1, 0.1, clip=-1.0), "clip: -1.0"),
        (lambda: Optimizer("muon", 0.1, 0.1, spike=1.0), "spike: 1.0"),
        (lambda: Optimizer("muon", 0.1, 0.1, spike=float("nan")), "spike: nan"),
        (lambda: Schedule("linear"), "'linear' is not one of wsd, cosine"),
        (lambda: Schedule("wsd", warmup=0.5, decay=0.6), "together pass 1"),
        (lambda: Schedule("cosine", warmup=1.5), "warmup: 1.5"),
    ],
)
def test_impossible_settings_are_named(make, words: str):
    with pytest.raises(Invalid, match=words):
        make()


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_base_width_carries_steps_over(name: str):
    """Matrices by AdamW and the output's norm move by its share, everything else and all decay as without."""
    model = Model("wide", width=32, layers=1, heads=2, kv_heads=2, head_dim=16, mlp_width=64, init_scale=0.1)
    carried = dataclasses.replace(model, base_width=8)
    params = init_parameters(model, 16, seed=0)
    begun = init_parameters(carried, 16, seed=0)
    for key, array in params.items():
        smaller = 0.5 if is_matrix(key) else 0.25 if key == "model.norm.weight" else 1.0
        np.testing.assert_allclose(begun[key], smaller * array, rtol=1e-6, err_msg=key)

    gradients = {key: np.full(array.shape, 0.01, np.float32) for key, array in params.items()}
    optimizer = dataclasses.replace(OPTIMIZERS[name], clip=0.0, weight_decay=0.0)

    def moved(transfer: float, decay: float) -> dict[str, np.ndarray]:
        h = hyper(dataclasses.replace(optimizer, weight_decay=decay), FLAT, 100, transfer=transfer)
        new, _, _ = update(name, params, updates.init_state(name, params, h), gradients, np.int32(50), h)
        return {key: np.asarray(new[key]) - params[key] for key in params}

    whole, share = moved(1.0, 0.0), moved(carried.transfer, 0.0)
    decayed = moved(1.0, 0.5), moved(carried.transfer, 0.5)
    for key in params:
        wanted = 0.25 if key == "model.norm.weight" or (is_matrix(key) and name == "adamw") else 1.0
        assert np.abs(whole[key]).max() > 0
        np.testing.assert_allclose(share[key], wanted * whole[key], atol=2e-7, err_msg=key)
        np.testing.assert_allclose(
            decayed[1][key] - share[key], decayed[0][key] - whole[key], atol=5e-7, err_msg=key
        )
