"""The transformer: masks, positions, groups, and the products' gradients."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from caml.models import products
from caml.models.sizes import Model
from caml.models.transformer import Attention, Layer, hidden_states, init_parameters, logits, rotation

MODEL = Model("tiny", width=16, layers=2, heads=4, kv_heads=2, head_dim=4, mlp_width=24, init_scale=0.3)
VOCAB = 12


def packed(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two sequences with three documents each and padding at the end."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (2, length)).astype(np.int32)
    cuts = np.array([0, length // 4, length // 2 + 1, length - 3])
    segments = np.zeros(length, np.int32)
    positions = np.zeros(length, np.int32)
    for number, (begin, end) in enumerate(itertools.pairwise(cuts), start=1):
        segments[begin:end] = number
        positions[begin:end] = np.arange(end - begin)
    return tokens, np.stack([segments] * 2), np.stack([positions] * 2)


PARAMS = init_parameters(MODEL, VOCAB, seed=0)
outputs = jax.jit(logits, static_argnums=1)


def test_a_token_reaches_nothing_before_it_and_no_other_document():
    tokens, segments, positions = packed(24)
    changed = tokens.copy()
    changed[0, 8] = (changed[0, 8] + 1) % VOCAB
    before, after = (np.asarray(outputs(PARAMS, MODEL, t, segments, positions)) for t in (tokens, changed))
    touched = np.abs(before - after).max(axis=-1) > 0
    allowed = (np.arange(24) >= 8) & (segments[0] == segments[0, 8])
    assert touched[0].tolist() == allowed.tolist()
    assert not touched[1].any()


def test_a_loss_in_one_document_sends_no_gradient_to_another_or_forward():
    tokens, segments, positions = packed(24)
    at = 9

    def loss(offset: jax.Array) -> jax.Array:
        # Each position has its own row of the table, so that a gradient says where it went.
        params = PARAMS | {
            "model.embed_tokens.weight": PARAMS["model.embed_tokens.weight"][tokens[0]] + offset
        }
        own_rows = np.arange(24, dtype=np.int32)[None]
        hidden = hidden_states(params, MODEL, own_rows, segments[:1], positions[:1])
        return jnp.sum(hidden[0, at] ** 3)

    reached = np.abs(jax.jit(jax.grad(loss))(jnp.zeros((24, 16)))).max(axis=-1) > 0
    assert reached.tolist() == ((np.arange(24) <= at) & (segments[0] == segments[0, at])).tolist()


def test_a_document_reads_the_same_packed_and_alone():
    tokens, segments, positions = packed(24)
    inside = segments[0] == 2
    alone = tokens[:1, inside]
    whole = outputs(PARAMS, MODEL, tokens, segments, positions)[0, inside]
    lone = outputs(PARAMS, MODEL, alone, np.ones_like(alone), np.arange(alone.size, dtype=np.int32)[None])
    np.testing.assert_allclose(whole, lone[0], atol=2e-5)


@pytest.mark.parametrize("end", [0, 9])
def test_positions_turn_by_their_angles(end: int):
    """Wherever a position stands, and however many there are tables for."""
    positions = np.array([[0, 3, 1, 2], [2, 0, 1, 3]])
    angles = 100.0 ** (-np.arange(4) / 4)[:, None] * positions.reshape(-1)
    cos, sin = rotation(jnp.asarray(positions), head_dim=8, theta=100.0, end=end)
    np.testing.assert_allclose(cos, np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angles), atol=1e-6)


def test_heads_are_prepared_alike_on_every_platform(monkeypatch: pytest.MonkeyPatch):
    """Queries and keys with weights of their own, together on a CPU and each by itself on an accelerator."""
    rng = np.random.default_rng(3)
    module = nnx.split(Attention(MODEL))
    state = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 2, x.shape), jnp.float32), module[1])
    x_DxN, positions = jnp.asarray(rng.normal(size=(16, 10)), jnp.float32), jnp.arange(10).reshape(2, 5)

    def heads() -> tuple[jax.Array, ...]:
        return nnx.merge(module[0], state).heads(x_DxN, rotation(positions, 4, 100.0, end=10))

    found = {}
    for platform in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        found[platform] = heads()
    assert [x.shape for x in found["gpu"]] == [(4, 4, 10), (2, 4, 10), (2, 4, 10)]
    for a, b in zip(*found.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("vocab", "platform"), [(7, "cpu"), (7, "gpu"), (products.ONE_HOT_VOCABULARY + 1, "gpu")]
)
def test_products_have_the_gradients_of_the_plain_expressions(
    vocab: int, platform: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(products.jax, "default_backend", lambda: platform)
    rng = np.random.default_rng(2)
    table, weight = rng.normal(size=(vocab, 4)), rng.normal(size=(3, 4))
    tokens, aim = rng.integers(0, 7, 9), rng.normal(size=(3, 9))

    def ours(table, weight):
        return jnp.sum(products.multiply(weight, products.look_up(table, tokens)) * aim)

    def plain(table, weight):
        return jnp.sum(weight @ table[tokens].T * aim)

    row_by_row = "scatter-add" in str(jax.make_jaxpr(jax.grad(ours))(table, weight))
    assert row_by_row == ((vocab, platform) != (7, "gpu"))
    for a, b in zip(
        jax.grad(ours, (0, 1))(table, weight), jax.grad(plain, (0, 1))(table, weight), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_initial_parameters_follow_seed_and_scale():
    same, other = init_parameters(MODEL, VOCAB, seed=0), init_parameters(MODEL, VOCAB, seed=1)
    matrix = "model.layers.0.mlp.up_proj.weight"
    assert (same[matrix] == PARAMS[matrix]).all()
    assert (other[matrix] != PARAMS[matrix]).all()
    assert abs(PARAMS[matrix].std() - 0.3) < 0.05
    assert (PARAMS["model.norm.weight"] == 1).all()


def test_layers_are_traced_once_for_all(monkeypatch: pytest.MonkeyPatch):
    traced = []
    through = Layer.__call__
    monkeypatch.setattr(Layer, "__call__", lambda *args: traced.append(args) or through(*args))
    # Of a size that no other test has: what was traced is kept.
    model = dataclasses.replace(MODEL, layers=5, mlp_width=20)
    jax.make_jaxpr(lambda p: logits(p, model, *packed(24)))(init_parameters(model, VOCAB, seed=0))
    assert len(traced) == 1


def test_an_untied_head_is_used():
    model = dataclasses.replace(MODEL, tied_embeddings=False)
    params = init_parameters(model, VOCAB, seed=0)
    tokens, segments, positions = packed(24)
    params["lm_head.weight"] = np.zeros_like(params["lm_head.weight"])
    assert not np.asarray(outputs(params, model, tokens, segments, positions)).any()
