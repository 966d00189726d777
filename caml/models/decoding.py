"""Decoding with a cache of keys and values: one token of every row at a time.

The cache is a ring. All rows write at one slot, the `cursor`, which goes round; a row that joins gets its keys in the
slots just behind it. So rows of any length come and go, each step writes one slice of each layer, and one compiled
program serves all. What a row sees is a matter of age: a key that was written `a` steps ago is its own while `a` is at
most its length. In names of arrays: B rows, S slots (the longest context), K key-value heads, G query heads to each,
N numbers in a head, V vocabulary.

In the cache rows come first and the numbers of a key last: so a step's products are small matrices that XLA multiplies
at the speed of memory. With rows last, as tokens are in training, its sums take thirty times as long on a CPU.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from caml.models.attention import attend
from caml.models.products import look_up, multiply
from caml.models.sizes import Model
from caml.models.transformer import Layer, Parameters, assemble, output_matrix, rotation


class Cache(NamedTuple):
    """Keys (normalised and turned) and values of each layer, `[B, K, S, N]`; tokens of each row that are in, `[B]`."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    length: jax.Array
    cursor: jax.Array


def empty_cache(model: Model, rows: int, slots: int) -> Cache:
    """A cache with nothing in it."""
    shape = (rows, model.kv_heads, slots, model.head_dim)
    empty = tuple(jnp.zeros(shape, jnp.float32) for _ in range(model.layers))
    other = tuple(jnp.zeros(shape, jnp.float32) for _ in range(model.layers))
    return Cache(empty, other, jnp.zeros((rows,), jnp.int32), jnp.zeros((), jnp.int32))


def step(params: Parameters, model: Model, tokens_B: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
    """Logits `[V, B]` (float32) of what follows `tokens`, which go into the cache.

    Of a row that has as many tokens as there are slots the result means nothing.
    """
    qwen, slots = assemble(params, model), cache.keys[0].shape[2]
    age_S = (cache.cursor - jnp.arange(slots)) % slots
    seen_BxS = age_S <= cache.length[:, None]
    turn = rotation(jnp.minimum(cache.length, slots - 1)[None], model.head_dim, model.rope_theta, slots)
    x_DxB = look_up(qwen.model.embed_tokens.weight[...], tokens_B)
    keys, values = [], []
    layer: Layer
    for layer, k_BxKxSxN, v_BxKxSxN in zip(qwen.model.layers, cache.keys, cache.values, strict=True):
        heads = layer.self_attn.heads(layer.input_layernorm(x_DxB), turn)
        q_BxHxN, k_BxKxN, v_BxKxN = (x.transpose(2, 0, 1) for x in heads)
        keys.append(_put(k_BxKxSxN, k_BxKxN, cache.cursor))
        values.append(_put(v_BxKxSxN, v_BxKxN, cache.cursor))
        out_BxHxN = _attend_one(q_BxHxN, keys[-1], values[-1], seen_BxS)
        x_DxB = x_DxB + layer.self_attn.joined(out_BxHxN.transpose(1, 2, 0))
        x_DxB = x_DxB + layer.mlp(layer.post_attention_layernorm(x_DxB))
    logits_VxB = multiply(output_matrix(params), qwen.model.norm(x_DxB))
    return logits_VxB, Cache(tuple(keys), tuple(values), cache.length + 1, (cache.cursor + 1) % slots)


def _put(all_BxKxSxN: jax.Array, new_BxKxN: jax.Array, slot: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice_in_dim(all_BxKxSxN, new_BxKxN[:, :, None], slot, axis=2)


def _attend_one(
    q_BxHxN: jax.Array, k_BxKxSxN: jax.Array, v_BxKxSxN: jax.Array, seen_BxS: jax.Array
) -> jax.Array:
    """Attention of one query of each row, `[B, H, N]`."""
    rows, _, N = q_BxHxN.shape
    q_BxKxGxN = q_BxHxN.reshape(rows, k_BxKxSxN.shape[1], -1, N)
    scores_BxKxGxS = jnp.einsum("bkgn,bksn->bkgs", q_BxKxGxN, k_BxKxSxN) * N**-0.5
    weights_BxKxGxS = jax.nn.softmax(jnp.where(seen_BxS[:, None, None], scores_BxKxGxS, -jnp.inf))
    return jnp.einsum("bkgs,bksn->bkgn", weights_BxKxGxS, v_BxKxSxN).reshape(q_BxHxN.shape)


class Prompts(NamedTuple):
    """Keys and values `[T, K, N]` of each layer, of R prompts in one sequence; each has `length` from `start` on."""

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    start: jax.Array
    length: jax.Array


def read_prompts(
    params: Parameters,
    model: Model,
    tokens_T: jax.Array,
    segments_T: jax.Array,
    positions_T: jax.Array,
    start_R: jax.Array,
    length_R: jax.Array,
) -> Prompts:
    """The keys and values of prompts that are packed into a sequence, as documents are in training."""
    qwen = assemble(params, model)
    turn = rotation(positions_T[None], model.head_dim, model.rope_theta)
    x_DxT = look_up(qwen.model.embed_tokens.weight[...], tokens_T)
    keys, values = [], []
    layer: Layer
    for layer in qwen.model.layers:
        q, k, v = layer.self_attn.heads(layer.input_layernorm(x_DxT), turn)
        keys.append(k.transpose(2, 0, 1))
        values.append(v.transpose(2, 0, 1))
        out_HxNx1xT = attend(q[:, :, None], k[:, :, None], v[:, :, None], segments_T[None])
        x_DxT = x_DxT + layer.self_attn.joined(out_HxNx1xT[:, :, 0])
        x_DxT = x_DxT + layer.mlp(layer.post_attention_layernorm(x_DxT))
    return Prompts(tuple(keys), tuple(values), start_R, length_R)


def join(cache: Cache, prompts: Prompts, rows_R: jax.Array) -> Cache:
    """The cache with the prompts in these rows, in place of what was there; a row that there is not is left out."""
    slots = cache.keys[0].shape[2]
    # The token before the cursor is the last of a prompt.
    age_S = (cache.cursor - 1 - jnp.arange(slots)) % slots
    place_RxS = prompts.start[:, None] + jnp.maximum(prompts.length[:, None] - 1 - age_S, 0)

    def put(all_BxKxSxN: jax.Array, new_TxKxN: jax.Array) -> jax.Array:
        moved_RxSxKxN = new_TxKxN[place_RxS]
        return all_BxKxSxN.at[rows_R].set(moved_RxSxKxN.swapaxes(1, 2), mode="drop")

    return Cache(
        tuple(map(put, cache.keys, prompts.keys)),
        tuple(map(put, cache.values, prompts.values)),
        cache.length.at[rows_R].set(prompts.length, mode="drop"),
        cache.cursor,
    )
