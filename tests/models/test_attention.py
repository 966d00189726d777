"""Every kernel of attention against the textbook's: outputs, gradients, and that nothing leaks between documents.

Kernels of other platforms than this machine's are interpreted: the same program, slowly.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caml.models.attention import KERNELS, attend, kernel_of
from caml.models.kernels import branches, plain

PLATFORM = jax.default_backend()


def kernel(platform: str):
    if platform == "plain":
        return plain.attend
    module = importlib.import_module(f"caml.models.kernels.{KERNELS[platform]}")
    return functools.partial(module.attend, **({} if platform in ("cpu", PLATFORM) else {"interpret": True}))


@functools.cache
def compiled(platform: str):
    """Outputs, and the gradients of their product with `aim`."""

    def loss(q, k, v, segments, aim):
        out = kernel(platform)(q, k, v, segments)
        return jnp.sum(out.astype(jnp.float32) * aim), out

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))


def inputs(length: int, heads: int, kv_heads: int, numbers: int, dtype, packed: bool) -> tuple:
    rng = np.random.default_rng((length, heads, kv_heads))
    q = rng.normal(size=(heads, numbers, 2, length))
    k, v = rng.normal(size=(2, kv_heads, numbers, 2, length))
    # Documents of unequal length, one of a single token, and padding (0) at the end.
    documents = np.minimum(np.arange(length) * 4 // length + 1, 4)
    documents[length // 2] = 9
    documents[length // 2 + 1 :] += 10
    documents[-2:] = 0
    segments = np.stack([documents, np.sort(rng.integers(1, 4, length))]) if packed else np.ones((2, length))
    return (*(jnp.asarray(x, dtype) for x in (q, k, v)), jnp.asarray(segments, jnp.int32))


def outputs_and_gradients(platform: str, q, k, v, segments) -> list[np.ndarray]:
    aim = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)
    (_, out), gradients = compiled(platform)(q, k, v, segments, aim)
    return [np.asarray(x, np.float32) for x in (out, *gradients)]


@pytest.mark.parametrize("platform", KERNELS)
@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "numbers", "dtype", "packed"),
    [
        (5, 2, 2, 8, "float32", True),
        (67, 4, 2, 16, "float32", True),
        (149, 2, 1, 24, "float32", False),
        (256, 2, 1, 32, "float32", True),
        (67, 4, 2, 16, "bfloat16", True),
        (160, 2, 2, 64, "bfloat16", False),
    ],
)  # fmt: skip
def test_a_kernel_is_plain_attention(
    platform: str, length: int, heads: int, kv_heads: int, numbers: int, dtype: str, packed: bool
):
    drawn = inputs(length, heads, kv_heads, numbers, dtype, packed)
    # The truth is computed in float32 from the same numbers, whatever the kernel computes in.
    exact = (*(x.astype(jnp.float32) for x in drawn[:3]), drawn[3])
    found = outputs_and_gradients(platform, *drawn)
    truth = outputs_and_gradients("plain", *exact)
    near = 2e-5 if dtype == "float32" else 2e-2
    for a, b in zip(found, truth, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=near * np.abs(b).max())


@pytest.mark.parametrize("platform", [*KERNELS, "plain"])
def test_a_changed_token_moves_nothing_of_another_document(platform: str):
    q, k, v, segments = inputs(67, 4, 2, 16, "float32", packed=True)
    at = 20
    assert (segments[0] == segments[0, at]).sum() > 2
    changed = tuple(x.at[:, :, 0, at].add(1.0) for x in (q, k, v))
    before, after = (outputs_and_gradients(platform, *x, segments) for x in ((q, k, v), changed))
    own = np.asarray(segments[0] == segments[0, at])
    # Its own output, and every gradient of its own document; of what another document gives and gets, not one bit.
    for number, (a, b) in enumerate(zip(before, after, strict=True)):
        moved = np.abs(a - b).max(axis=(0, 1)) > 0
        assert not moved[1].any()
        assert not moved[0, ~own].any()
        later = np.arange(67) >= at
        assert moved[0, own & later].any() and (number > 0 or not moved[0, ~later].any())


@pytest.mark.parametrize("platform", KERNELS)
@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(1, 199), max_size=9))
def test_documents_begin_and_end_anywhere(platform: str, cuts: list[int]):
    """Inside blocks, at their edges, and over several of them."""
    q, k, v, _ = inputs(200, 4, 2, 16, "float32", packed=False)
    rows = [
        np.searchsorted(sorted(some), np.arange(200), "right") for some in (cuts, [200 - c for c in cuts])
    ]
    drawn = q, k, v, jnp.asarray(np.stack(rows) + 1, jnp.int32)
    for a, b in zip(
        outputs_and_gradients(platform, *drawn), outputs_and_gradients("plain", *drawn), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
def test_branches_are_texts_of_their_own_that_begin_alike(heads: int, kv_heads: int):
    trunk, first, second = 5, 4, 3
    rng = np.random.default_rng(heads)
    length = trunk + first + second + 2
    q = rng.normal(size=(heads, 8, 2, length))
    k, v = rng.normal(size=(2, kv_heads, 8, 2, length))
    q, k, v = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
    own = [0] * trunk + [1] * first + [2] * second
    segments = np.zeros((2, length), np.int32)
    segments[:, : len(own)] = branches.MOST + np.array(own)
    found = np.asarray(branches.attend(q, k, v, jnp.asarray(segments)))
    for branch in (1, 2):
        kept = [i for i, of in enumerate(own) if of in (0, branch)]
        alone = plain.attend(
            *(x[..., jnp.array(kept)] for x in (q, k, v)), jnp.ones((2, len(kept)), jnp.int32)
        )
        np.testing.assert_allclose(found[..., kept], np.asarray(alone), atol=1e-6)
    assert np.isfinite(found).all()


def test_the_kernel_of_a_platform_is_used():
    assert kernel_of("metal") == "plain"
    q, k, v, segments = inputs(32, 2, 2, 8, "float32", packed=True)
    own = attend(q, k, v, segments)
    assert (own == attend(q, k, v, segments, kernel_of(PLATFORM))).all()
    np.testing.assert_allclose(own, attend(q, k, v, segments, "plain"), atol=2e-5)


@pytest.mark.parametrize("platform", KERNELS)
def test_members_side_by_side_are_each_alone(platform: str):
    several = [inputs(40, 2, 1, 16, "float32", packed=True), inputs(40, 2, 1, 16, "float32", packed=False)]
    aim = np.random.default_rng(1).normal(size=several[0][0].shape).astype(np.float32)
    together = jax.tree.map(lambda *x: jnp.stack(x), *several)
    (_, out), gradients = jax.jit(jax.vmap(compiled(platform), (0, 0, 0, 0, None)))(*together, aim)
    for member, drawn in enumerate(several):
        alone = outputs_and_gradients(platform, *drawn)
        for a, b in zip((out, *gradients), alone, strict=True):
            np.testing.assert_allclose(a[member], b, atol=2e-5)
