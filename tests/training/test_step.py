"""One training step: its numbers, its loss weights, its gate, and the logits in pieces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_training import ADAMW, BATCH, LENGTH, MODEL, MUON, VOCAB, Counting, Preferring

from caml.models import pieces, products
from caml.models.compute import REMATERIALISATION, Compute
from caml.models.sizes import Model
from caml.models.transformer import init_parameters, logits, shapes
from caml.training import cross_entropy, updates
from caml.training import step as steps
from caml.training.layouts import PLAIN, Layout
from caml.training.optimizer import Schedule, hyper
from caml.training.step import loss_and_gradients, train_step

PARAMS = init_parameters(MODEL, VOCAB, seed=0)
DATA, PAIRS = Counting(seed=0, steps=10, broken=3), Preferring(seed=0, steps=10)
BETA = np.float32(0.3)
# Numbers are pinned on a CPU; other platforms add up in another order, and the second step rests on the first.
NEAR = 2e-5 if jax.default_backend() == "cpu" else 1e-3
found_of = jax.jit(loss_and_gradients, static_argnums=(1, 3))
PIECES = Layout(rows=2)
one_step = jax.jit(train_step, static_argnums=(0, 1))


def after_two(optimizer) -> tuple[dict, dict]:
    h = hyper(optimizer, Schedule("cosine", warmup=0.1), 10)
    params, state = PARAMS, updates.init_state(optimizer.name, PARAMS, h)
    for step in range(2):
        params, state, metrics, _ = one_step(
            MODEL, optimizer.name, params, state, DATA.batch(step), np.int32(step), h
        )
    return params, metrics


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        (
            ADAMW,
            {
                "gradient_norm": 1.60494,
                "loss": 2.636804,
                "rate": 0.01,
                "embedding": 19.82806,
                "matrix": 31.64931,
            },
        ),
        (
            MUON,
            {
                "gradient_norm": 1.50511,
                "loss": 2.727907,
                "rate": 0.02,
                "embedding": 19.78128,
                "matrix": 30.88409,
            },
        ),
    ],
    ids=["adamw", "muon"],
)
def test_the_numbers_of_training_are_pinned(optimizer, numbers: dict[str, float]):
    params, metrics = after_two(optimizer)
    found = {name: float(value) for name, value in metrics.items()}
    found["embedding"] = float(np.abs(params["model.embed_tokens.weight"]).sum())
    found["matrix"] = float(np.abs(params["model.layers.0.mlp.down_proj.weight"]).sum())
    assert found == pytest.approx(numbers, rel=NEAR), (
        "A training step gives other numbers than before. If that was meant, raise NUMERICS_VERSION in "
        "caml/config/fingerprint.py (finished StageRuns are then trained again) and pin the new numbers."
    )


def test_the_loss_is_the_mean_over_weighted_targets():
    batch = DATA.batch(0)
    weights = np.random.default_rng(0).integers(0, 2, (BATCH, LENGTH)).astype(np.float32)
    weights[:, -1] = 0
    found = found_of(PARAMS, MODEL, batch._replace(weights=weights))[0]
    nats = np.asarray(jax.jit(lambda p: -jax.nn.log_softmax(logits(p, MODEL, *batch[:3])))(PARAMS))
    picked = [nats[b, t, batch.tokens[b, t + 1]] for b, t in zip(*weights.nonzero(), strict=True)]
    assert float(found) == pytest.approx(float(np.mean(picked)), rel=1e-5)
    assert float(found_of(PARAMS, MODEL, batch._replace(weights=0 * weights))[0]) == 0


@pytest.mark.parametrize("paired", [False, True])
def test_a_batch_in_pieces_has_the_same_loss_and_gradients(paired: bool):
    """However unlike the pieces: some bear no loss at all."""
    of_pairs = (init_parameters(MODEL, VOCAB, seed=1), BETA) if paired else ()
    data = PAIRS if paired else DATA
    batch = steps.Batch(*map(np.concatenate, zip(*(data.batch(step) for step in (0, 1, 2)), strict=True)))
    rows = np.arange(3 * BATCH)[:, None]
    assert len(rows) > 2 * PIECES.rows
    for taken in (rows >= 0, rows == 0, rows % 3 == 0):
        some = batch._replace(weights=(batch.weights * taken).astype(np.float32))
        whole = found_of(PARAMS, MODEL, some, PLAIN, *of_pairs)
        pieces = found_of(PARAMS, MODEL, some, PIECES, *of_pairs)
        assert float(whole[0]) > 0 and set(whole[1]) == set(pieces[1])
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(pieces), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("paired", [False, True])
def test_a_batch_in_pieces_is_traced_once(paired: bool, monkeypatch: pytest.MonkeyPatch):
    traced = []
    stream = steps.stream
    monkeypatch.setattr(steps, "stream", lambda *args: traced.append(args) or stream(*args))
    batch = (Preferring(0, 2) if paired else Counting(0, 2)).batch(0)
    params = init_parameters(MODEL, VOCAB, seed=0)
    reference = params if paired else None
    jax.make_jaxpr(lambda p: loss_and_gradients(p, MODEL, batch, Layout(rows=1), reference, 0.5))(params)
    assert len(traced) == 1 + paired  # the reference reads the batch too


@pytest.mark.parametrize("vocab", [VOCAB, 2 * cross_entropy.WORDS])
@pytest.mark.parametrize("paired", [False, True])
def test_logits_in_pieces_give_the_same_loss_and_gradient(
    vocab: int, paired: bool, monkeypatch: pytest.MonkeyPatch
):
    params = init_parameters(MODEL, vocab, seed=0)
    of_pairs = (PLAIN, init_parameters(MODEL, vocab, seed=1), BETA) if paired else ()
    batch = (PAIRS if paired else DATA).batch(0)

    def value_and_gradient():
        return jax.jit(lambda p: loss_and_gradients(p, MODEL, batch, *of_pairs))(params)

    whole = value_and_gradient()
    monkeypatch.setattr(cross_entropy, "LOGITS_BYTES", 7 * vocab * 4)
    monkeypatch.setitem(pieces.PIECE_BYTES, jax.default_backend(), 7 * vocab * 4)
    assert cross_entropy.pieces_of(BATCH * LENGTH, vocab) == 8
    in_pieces = value_and_gradient()
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(in_pieces), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_no_platform_has_all_logits_of_a_large_batch(monkeypatch: pytest.MonkeyPatch):
    large = cross_entropy.LOGITS_BYTES // 4 // 1024
    for platform in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert cross_entropy.pieces_of(1024, large) == 1
        assert cross_entropy.pieces_of(1024, large + 1) == 2
        at_once = 16_384 * 50_257 * 4 / cross_entropy.pieces_of(16_384, 50_257)
        assert at_once <= pieces.PIECE_BYTES.get(platform, pieces.ELSEWHERE_BYTES)


@given(st.integers(1, 100_000), st.integers(1, 200_000))
def test_pieces_are_no_more_than_twice_as_many_as_are_needed(tokens: int, vocab: int):
    found = cross_entropy.pieces_of(tokens, vocab)
    size = tokens * vocab * 4
    assert 1 <= found <= tokens and (found == 1) == (size <= cross_entropy.LOGITS_BYTES or tokens == 1)
    least = -(-size // pieces.piece_bytes())
    assert found <= max(2, 2 * least)
    # One position's logits are the least that can be.
    assert found == 1 or -(-tokens // found) * vocab * 4 <= pieces.piece_bytes() + 4 * vocab


def test_a_prime_number_of_tokens_is_taken_in_few_pieces(monkeypatch: pytest.MonkeyPatch):
    assert cross_entropy.pieces_of(1021, 50_257) == 4
    rng = np.random.default_rng(0)
    x, head = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((8, 13), (20, 8)))
    targets, weights = jnp.asarray(rng.integers(0, 20, 13)), jnp.asarray(rng.random(13), jnp.float32)

    def found():
        def summed(x, head):
            return cross_entropy.summed_cross_entropy(x, head, targets, weights)

        def token_by_token(x, head):
            return cross_entropy.cross_entropy(x, head, targets) @ weights

        return [jax.value_and_grad(of, (0, 1))(x, head) for of in (summed, token_by_token)]

    whole = found()
    monkeypatch.setattr(cross_entropy, "LOGITS_BYTES", 0)
    monkeypatch.setitem(pieces.PIECE_BYTES, jax.default_backend(), 4 * 20 * 4)
    assert cross_entropy.pieces_of(13, 20) == 4
    for a, b in zip(jax.tree.leaves(found()), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("limit", [0, cross_entropy.LOGITS_BYTES])
def test_the_loss_weighs_each_target_whole_and_in_pieces(limit: int, monkeypatch: pytest.MonkeyPatch):
    """What comes back through the sum is times what is asked of it, for output and head alike."""
    rng = np.random.default_rng(0)
    x, head = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((8, 12), (20, 8)))
    targets, weights = rng.integers(0, 20, 12), rng.random(12).astype(np.float32)

    def found():
        return jax.value_and_grad(
            lambda x, head: 3 * cross_entropy.summed_cross_entropy(x, head, targets, weights), (0, 1)
        )(x, head)

    def plain(x, head):
        nats = -jax.nn.log_softmax(head @ x, axis=0)[targets, np.arange(12)]
        return 3 * jnp.sum(nats * weights)

    monkeypatch.setattr(cross_entropy, "LOGITS_BYTES", limit)
    wanted = jax.value_and_grad(plain, (0, 1))(x, head)
    for a, b in zip(jax.tree.leaves(found()), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_packed_documents_train_as_if_apart():
    """The gradient of two packed documents is the mean of theirs: nothing passes between them."""
    tokens = DATA.batch(0).tokens[:1]
    half = LENGTH // 2
    positions = np.tile(np.arange(half, dtype=np.int32), 2)[None]
    segments = np.repeat(np.array([1, 2], np.int32), half)[None]
    ends = positions < half - 1

    def gradient(*of) -> dict:
        return found_of(*of)[2]

    def of(where: np.ndarray) -> dict:
        batch = steps.Batch(tokens, segments, positions, (ends & where).astype(np.float32))
        return gradient(PARAMS, MODEL, batch)

    def alone(tokens: np.ndarray) -> dict:
        return gradient(
            PARAMS,
            MODEL,
            steps.Batch(tokens, np.ones_like(tokens), positions[:, :half], ends[:, :half] * 1.0),
        )

    for found, wanted in (
        (of(segments == 1), alone(tokens[:, :half])),
        (of(segments == 2), alone(tokens[:, half:])),
    ):
        for name in found:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-6, err_msg=name)


@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_a_loss_that_is_not_finite_changes_nothing(optimizer):
    h = hyper(optimizer, Schedule(), 10)
    state = updates.init_state(optimizer.name, PARAMS, h)
    state = jax.tree.map(lambda x: jnp.asarray(x) + 1, state)
    params, kept, metrics, finite = one_step(
        MODEL, optimizer.name, PARAMS, state, DATA.batch(3), np.int32(3), h
    )
    assert not finite and np.isnan(metrics["loss"])
    for new, old in zip(jax.tree.leaves((params, kept)), jax.tree.leaves((PARAMS, state)), strict=True):
        assert np.asarray(new).tobytes() == np.asarray(old).tobytes()


def plain_margins(params, batch, reference) -> np.ndarray:
    """How much more each chosen answer is preferred, by the plainest loop: each half of each pair read alone."""

    def answer(params, row: int, half: int) -> float:
        mine = np.flatnonzero(batch.segments[row] == half)
        alone = steps.Batch(
            *(np.asarray(x)[None] for x in (batch.tokens[row, mine], np.ones(len(mine), np.int32),
                                            np.arange(len(mine), dtype=np.int32))),
            weights=None,
        )  # fmt: skip
        log_p = np.asarray(jax.nn.log_softmax(logits(params, MODEL, *alone[:3])))[0]
        bearing = np.flatnonzero(batch.weights[row, mine])
        return sum(log_p[t, alone.tokens[0, t + 1]] for t in bearing)

    found = []
    for row in range(BATCH):
        bearing = set(batch.segments[row][batch.weights[row] != 0].tolist())
        for chosen in sorted(half for half in bearing if half % 2):
            more = [answer(params, row, half) - answer(reference, row, half) for half in (chosen, chosen + 1)]
            found.append(more[0] - more[1])
    return np.array(found)


def test_the_preference_loss_is_that_of_halves_read_alone():
    reference = init_parameters(MODEL, VOCAB, seed=1)
    shares = set()
    for step in range(3):
        batch = PAIRS.batch(step)
        loss, told, _ = found_of(PARAMS, MODEL, batch, PLAIN, reference, BETA)
        margins = plain_margins(PARAMS, batch, reference)
        assert float(loss) == pytest.approx(np.mean(np.log1p(np.exp(-BETA * margins))), rel=1e-5)
        assert float(loss) != pytest.approx(np.log(2), abs=1e-3)
        assert float(told["preference_margin"]) == pytest.approx(margins.mean(), abs=1e-5)
        assert float(told["preference_accuracy"]) == np.float32(np.mean(margins > 0))
        shares.add(np.mean(margins > 0))
    assert len(shares) > 1


def test_a_model_is_its_own_reference_at_log_2_and_a_batch_without_pairs_costs_nothing():
    batch = PAIRS.batch(0)
    assert float(found_of(PARAMS, MODEL, batch, PLAIN, PARAMS, BETA)[0]) == pytest.approx(np.log(2), rel=1e-6)
    nothing = batch._replace(weights=0 * batch.weights)
    loss, told, _ = found_of(PARAMS, MODEL, nothing, PLAIN, PARAMS, BETA)
    assert float(loss) == 0 and np.isnan(list(told.values())).all()


def test_the_numbers_of_a_preference_step_are_pinned():
    h = hyper(MUON, Schedule("cosine", warmup=0.1), 10, beta=0.3)
    params, state = PARAMS, updates.init_state(MUON.name, PARAMS, h)
    losses = []
    for step in range(3):
        params, state, metrics, _ = one_step(
            MODEL, MUON.name, params, state, PAIRS.batch(step), np.int32(step), h, PARAMS
        )
        losses.append(float(metrics["loss"]))
    assert losses == pytest.approx([0.6931472, 0.7066311, 0.7254268], rel=NEAR), (
        "see the message of the test above"
    )


def test_logits_are_never_all_in_memory():
    """Of a batch whose float32 logits take 785 MiB, a compiled step needs less than a third of that; unbroken, more."""
    model = Model("words", width=32, layers=1, heads=2, kv_heads=1, head_dim=16, mlp_width=64)
    vocab, batch, length = 50_257, 8, 512
    logits_bytes = batch * length * vocab * 4
    params = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes(model, vocab).items()}
    rows = [
        jax.ShapeDtypeStruct((batch, length), kind) for kind in (np.int32, np.int32, np.int32, np.float32)
    ]

    def temporary() -> int:
        step = jax.jit(lambda p, b: loss_and_gradients(p, model, b))
        return step.lower(params, steps.Batch(*rows)).compile().memory_analysis().temp_size_in_bytes

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pieces.PIECE_BYTES, jax.default_backend(), cross_entropy.LOGITS_BYTES)
        assert temporary() < logits_bytes / 3
        patch.setattr(cross_entropy, "LOGITS_BYTES", 2 * logits_bytes)
        assert temporary() > logits_bytes


def test_bfloat16_is_of_products_and_parameters_stay_float32(monkeypatch: pytest.MonkeyPatch):
    layout = Layout(compute=Compute(precision="bfloat16"))
    batch = DATA.batch(0)
    loss, _, gradients = found_of(PARAMS, MODEL, batch, layout)
    whole, _, exact = found_of(PARAMS, MODEL, batch, PLAIN)
    assert 0 < abs(float(loss) - float(whole)) < 0.02
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, exact[name], atol=0.05 * np.abs(exact[name]).max(), err_msg=name)

    def factors(jaxpr) -> set:
        found = set()
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                found |= {str(v.aval.dtype) for v in equation.invars}
            for inner in jax.tree.leaves(
                equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
            ):
                if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                    found |= factors(getattr(inner, "jaxpr", inner))
        return found

    def of(layout: Layout) -> set:
        return factors(jax.make_jaxpr(lambda p: loss_and_gradients(p, MODEL, batch, layout))(PARAMS).jaxpr)

    # The one-hot product of the embedding's gradient, which a CPU has not, is among them.
    monkeypatch.setattr(products, "one_hot", lambda vocab: True)
    assert of(layout) == {"bfloat16"} and of(PLAIN) == {"float32"}


def test_what_is_computed_again_is_not_kept():
    """Same loss and gradients, in less memory."""
    model = Model("deep", width=32, layers=3, heads=2, kv_heads=2, head_dim=16, mlp_width=64, init_scale=0.1)
    params = init_parameters(model, VOCAB, seed=0)
    tokens = np.random.default_rng(0).integers(0, VOCAB, (8, 64)).astype(np.int32)
    positions = np.broadcast_to(np.arange(64, dtype=np.int32), tokens.shape)
    batch = steps.Batch(tokens, np.ones_like(tokens), positions, np.ones(tokens.shape, np.float32))
    found, bytes_of = {}, {}
    for remat in REMATERIALISATION:
        layout = Layout(compute=Compute(remat=remat))
        compiled = found_of.lower(params, model, batch, layout).compile()
        bytes_of[remat] = compiled.memory_analysis().temp_size_in_bytes
        found[remat] = compiled(params, batch)
    assert bytes_of["layers"] <= bytes_of["products"] < bytes_of["none"], bytes_of
    for remat in ("layers", "products"):
        for a, b in zip(jax.tree.leaves(found[remat]), jax.tree.leaves(found["none"]), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
