"""What a GPU computes in fewer passes over memory is what all others compute, outputs and gradients.

On a machine without a GPU the kernels are interpreted: the same program, slowly.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from caml.models import transformer
from caml.models.compute import Compute
from caml.models.kernels import triton_heads, triton_swiglu
from caml.models.sizes import Model
from caml.models.transformer import MLP, Attention, fused, init_parameters, interpreted, rotation
from caml.training import cross_entropy, population
from caml.training.layouts import Layout
from caml.training.mesh import member_mesh
from caml.training.optimizer import Optimizer, Schedule, hyper
from caml.training.step import Batch, loss_and_gradients

VOCAB = 40
PLAIN, FUSED = Compute(kernel="plain"), Compute(kernel="plain", fused=True)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Float32 is float32 on a GPU too."""
    with jax.default_matmul_precision("highest"):
        yield


def model(heads: int = 4, kv_heads: int = 2, head_dim: int = 8, mlp_width: int = 48) -> Model:
    return Model("toy", 24, 2, heads, kv_heads, head_dim, mlp_width, norm_epsilon=0.1, init_scale=0.3)


def parameters(shape: Model) -> dict[str, np.ndarray]:
    """Norms are not all 1."""
    drawn = np.random.default_rng(0)
    return {
        name: array if array.ndim > 1 else array * drawn.uniform(0.5, 2, array.shape).astype(np.float32)
        for name, array in init_parameters(shape, VOCAB, seed=0).items()
    }


def packed(rows: int = 4, length: int = 64) -> Batch:
    drawn = np.random.default_rng(1)
    tokens = drawn.integers(0, VOCAB, (rows, length)).astype(np.int32)
    ones = np.ones((rows, 1), np.int32)
    segments = (ones * np.repeat([1, 2, 0], [length // 2, length // 4, length // 4])).astype(np.int32)
    positions = (ones * np.r_[: length // 2, : length // 4, : length // 4]).astype(np.int32)
    return Batch(tokens, segments, positions, (segments > 0).astype(np.float32))


def apart(found, truth) -> float:
    """How far numbers of an array are from the truth at most, in shares of the array's largest; the worst array's."""

    def one(a, b) -> float:
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        return float(np.abs(a - b).max() / np.abs(b).max())

    return max(one(a, b) for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(truth), strict=True))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(4, 2, 8), (3, 3, 16), (2, 1, 64), (2, 2, 4), (2, 1, 128)]
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_heads_are_normalised_and_turned(heads: int, kv_heads: int, head_dim: int, precision: str):
    drawn = np.random.default_rng(0)
    shape = model(heads, kv_heads, head_dim)
    x_DxBT = jnp.asarray(drawn.normal(size=(shape.width, 256)), precision)
    turn = rotation(jnp.asarray(np.stack([np.r_[:77, :51], np.r_[:128]])), head_dim, 1e4)
    sizes = (heads, kv_heads, kv_heads)
    sides = {f"{kind}_proj": (n * head_dim, 24) for kind, n in zip("qkv", sizes, strict=True)}
    sides |= {"q_norm": (head_dim,), "k_norm": (head_dim,)}
    weights = {name: drawn.normal(size=side).astype("f") for name, side in sides.items()}
    aims = [drawn.normal(size=(count, head_dim, 256)).astype(np.float32) for count in sizes]

    def loss(weights, x_DxBT, compute):
        module = nnx.eval_shape(lambda: Attention(shape))
        for name, weight in weights.items():
            getattr(module, name).weight = nnx.Param(weight)
        out = module.heads(x_DxBT, turn, compute)
        return sum(jnp.sum(a * b) for a, b in zip(out, aims, strict=True)), out

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    truth = run(weights, x_DxBT.astype(jnp.float32), PLAIN)
    assert fused("heads", FUSED, head_dim, 256) is triton_heads
    assert apart(run(weights, x_DxBT, FUSED), truth) < (1e-5 if precision == "float32" else 3e-2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_swiglu_and_its_gradient(precision: str):
    drawn = np.random.default_rng(0)
    x_DxN = jnp.asarray(drawn.normal(size=(24, 256)), precision)
    sides = {"gate_proj": (48, 24), "up_proj": (48, 24), "down_proj": (24, 48)}
    weights = {name: drawn.normal(size=side).astype("f") for name, side in sides.items()}
    aim = drawn.normal(size=(24, 256)).astype(np.float32)

    def loss(weights, x_DxN, compute):
        module = nnx.eval_shape(lambda: MLP(model()))
        for name, weight in weights.items():
            getattr(module, name).weight = nnx.Param(weight)
        out = module(x_DxN, compute)
        return jnp.sum(out * aim), out

    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    assert fused("swiglu", FUSED, 48, 256) is triton_swiglu
    truth = run(weights, x_DxN.astype(jnp.float32), PLAIN)
    assert apart(run(weights, x_DxN, FUSED), truth) < (1e-5 if precision == "float32" else 3e-2)


@pytest.mark.parametrize("vocab", [VOCAB, 2 * cross_entropy.WORDS])
@pytest.mark.parametrize("pieces", [1, 4])
def test_the_loss_of_logits_that_are_read_once_less(vocab: int, pieces: int, monkeypatch: pytest.MonkeyPatch):
    """Logits of up to some thousand, of which exp alone would be infinite."""
    monkeypatch.setattr(cross_entropy, "pieces_of", lambda tokens, words: pieces)
    drawn = np.random.default_rng(0)
    x_DxN, head_VxD = drawn.normal(size=(8, 64)) * 100, drawn.normal(size=(vocab, 8))
    # Of some positions all logits are far below 0.
    x_DxN[0, :16], head_VxD[:, 0] = -200, 5
    targets_N, weights_N = drawn.integers(0, vocab, 64), drawn.normal(size=64)

    def loss(x_DxN, head_VxD, once_less):
        return cross_entropy.summed_cross_entropy(
            x_DxN, head_VxD, targets_N, weights_N.astype("f"), once_less
        )

    def plainly(x_DxN, head_VxD):
        nats_N = -jax.nn.log_softmax(head_VxD @ x_DxN, 0)[targets_N, np.arange(64)]
        return jnp.sum(nats_N * weights_N)

    given = x_DxN.astype("f"), head_VxD.astype("f")
    assert np.abs(head_VxD @ x_DxN).max() > 500
    found = jax.jit(jax.value_and_grad(functools.partial(loss, once_less=True), (0, 1)))(*given)
    # A float32 of a thousand is within 6e-5 nats.
    assert apart(found, jax.jit(jax.value_and_grad(plainly, (0, 1)))(*given)) < 1e-4


@pytest.mark.parametrize("pieces", [1, 4])
def test_logits_in_bfloat16_have_loss_and_gradients_in_float32(pieces: int, monkeypatch: pytest.MonkeyPatch):
    """They are those of the rounded logits; the plain loss rounds none."""
    monkeypatch.setattr(cross_entropy, "pieces_of", lambda tokens, words: pieces)
    drawn = np.random.default_rng(0)
    x_DxN, head_VxD = (jnp.asarray(drawn.normal(size=size), jnp.bfloat16) for size in ((8, 64), (VOCAB, 8)))
    targets_N, weights_N = drawn.integers(0, VOCAB, 64), drawn.normal(size=64).astype("f")
    x, head = np.asarray(x_DxN, "f"), np.asarray(head_VxD, "f")

    def of(logits_VxN: np.ndarray) -> tuple:
        p_VxN = np.exp(logits_VxN) / np.exp(logits_VxN).sum(0)
        target_VxN = np.arange(VOCAB)[:, None] == targets_N
        d_logits_VxN = (p_VxN - target_VxN) * weights_N
        nats = -np.log(p_VxN[targets_N, np.arange(64)]) @ weights_N
        return nats, (head.T @ d_logits_VxN, d_logits_VxN @ x.T)

    def found(once_less: bool) -> tuple:
        def loss(x_DxN, head_VxD):
            head_VxD = head_VxD.astype(jnp.float32)
            return cross_entropy.summed_cross_entropy(x_DxN, head_VxD, targets_N, weights_N, once_less)

        # A CPU has no such product: rounding what is read at once as float32 would be left out.
        as_written = {"xla_allow_excess_precision": False}
        return jax.jit(jax.value_and_grad(loss, (0, 1)), compiler_options=as_written)(x_DxN, head_VxD)

    exact, rounded = of(head @ x), of(np.asarray(jnp.asarray(head @ x, jnp.bfloat16), "f"))
    assert apart(exact[0], rounded[0]) > 1e-4
    assert apart(found(True)[0], rounded[0]) < 1e-5 and apart(found(False)[0], exact[0]) < 1e-5
    # What comes back lies in bfloat16: x has 8 bits, and so have the gradients of logits.
    assert apart(found(True)[1], rounded[1]) < 1e-2


@pytest.mark.parametrize("remat", ["none", "products", "layers"])
def test_a_model_has_the_same_loss_and_gradients(remat: str):
    shape, batch = model(), packed()

    def run(compute: Compute):
        layout = Layout(compute=compute)
        return jax.jit(lambda p: loss_and_gradients(p, shape, batch, layout))(parameters(shape))

    truth, found = run(PLAIN), run(Compute(kernel="plain", fused=True, remat=remat))
    assert float(found[0]) == pytest.approx(float(truth[0]), rel=1e-6)
    assert apart(found[2], truth[2]) < 1e-5


@pytest.mark.parametrize("way", [PLAIN, FUSED])
def test_every_pass_that_is_saved_is_saved_in_a_step(way: Compute):
    shape, batch = model(), packed()
    step = jax.make_jaxpr(lambda p: loss_and_gradients(p, shape, batch, Layout(compute=way)))
    text = str(step(parameters(shape)))
    # The loss has the only reduction that is not one of jax's own kinds.
    for part in ("name=heads\n", "name=heads_backward\n", "name=swiglu_backward\n", "= reduce["):
        assert (part in text) == way.fused, part


def test_members_side_by_side_are_what_each_is_alone():
    shape, batch = model(), packed()
    mesh = member_mesh()
    places = 2 * mesh.shape["member"]
    optimizer = Optimizer("adamw", 0.01, 0.01)
    h = hyper(optimizer, Schedule(), 2)
    fresh = [
        population.init_member("adamw", init_parameters(shape, VOCAB, seed), h) for seed in range(places)
    ]
    given = population.stack([Batch(*(np.stack([x, x[::-1]]) for x in batch))] * places)
    numbers = population.stack([h] * places)

    def after(layout: Layout):
        run = population.build(shape, "adamw", layout, mesh)
        counters = np.int32(0), np.int32(2)
        state, metrics = run(population.stack(fresh), None, numbers, given, *counters)
        return state.params, metrics["loss"]

    truth = after(Layout(compute=PLAIN))
    assert apart(after(Layout(beside=2, compute=FUSED)), truth) < 1e-3


def test_what_does_not_fit_is_computed_as_elsewhere():
    """Heads that are no power of 2, neurons and positions that fill no program."""
    assert fused("heads", FUSED, 24, 256) is None and fused("heads", FUSED, 8, 200) is None
    assert fused("swiglu", FUSED, 50, 256) is None and fused("swiglu", FUSED, 48, 200) is None
    assert fused("heads", PLAIN, 8, 256) is None
    shape, batch = model(head_dim=6, mlp_width=50), packed()
    same = [
        jax.jit(transformer.stream, static_argnums=(1, 5))(parameters(shape), shape, *batch[:3], compute)
        for compute in (PLAIN, FUSED)
    ]
    assert np.array_equal(*same)
    assert interpreted() == (jax.default_backend() != "gpu")
