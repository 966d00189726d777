"""Pieces of a batch, one after the other."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from caml.models.pieces import scan_pieces


@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_gives_what_scan_gives(count):
    rng = np.random.default_rng(count)
    pieces = {"x": rng.standard_normal((count, 3, 4)), "n": rng.integers(0, 9, (count, 2))}

    def body(carry, piece):
        carry = carry * 0.5 + piece["x"].sum() + piece["n"][0]
        return carry, {"seen": piece["n"] * 2, "carry": carry}

    found = jax.jit(lambda p: scan_pieces(body, jnp.float32(1), p))(pieces)
    expected = jax.jit(lambda p: jax.lax.scan(body, jnp.float32(1), p))(pieces)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA on a CPU")
def test_no_loop_over_numbers_slices_its_piece():
    def body(carry, segments_T):
        mask_TxT = segments_T[:, None] == segments_T
        return jnp.where(mask_TxT, carry, -1e30) @ carry, None

    program = jax.jit(lambda x, pieces: scan_pieces(body, x, pieces)[0])
    compiled = program.lower(jnp.ones((64, 64)), jnp.zeros((8, 64), jnp.int32)).compile().as_text()
    fused = re.findall(r"^%?fused_computation\S* .*?^}", compiled, re.M | re.S)
    masks = [text for text in fused if "pred[64,64]" in text]
    assert masks
    assert not [text for text in masks if "dynamic-slice(" in text]
