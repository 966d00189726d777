"""The transformer: exactly Qwen3 dense, defined with NNX and used as a flat dictionary of arrays.

Names and layouts of parameters are those of `transformers.Qwen3ForCausalLM` (weights are `[out, in]`),
so a dictionary of parameters *is* a checkpoint of that class. Sizes in names of arrays: B sequences,
T positions, D width, H heads, K key-value heads, G = H / K, N numbers in a head, V vocabulary.

Source: Qwen3 Technical Report, arXiv 2505.09388.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from caml.config.seeds import generator
from caml.models.attention import attend
from caml.models.embedding import look_up
from caml.models.sizes import Model

Parameters = dict[str, jax.Array]


class Linear(nnx.Module):
    """A matrix without bias, stored `[out, in]`."""

    def __init__(self, inputs: int, outputs: int):
        self.weight = nnx.Param(jnp.zeros((outputs, inputs), jnp.float32))

    def __call__(self, x_BxTxI: jax.Array) -> jax.Array:
        return x_BxTxI @ self.weight[...].T


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation over the last axis, in float32."""

    def __init__(self, width: int, epsilon: float):
        self.weight = nnx.Param(jnp.ones((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        x32 = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.epsilon)
        return (x32 * scale).astype(x.dtype) * self.weight[...]


def rotate(x_BxTxHxN: jax.Array, positions_BxT: jax.Array, theta: float) -> jax.Array:
    """Rotary positions in the convention of Hugging Face: the halves of a head turn against each other."""
    half = x_BxTxHxN.shape[-1] // 2
    frequencies = theta ** (-np.arange(half, dtype=np.float32) / half)
    angles = positions_BxT[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x_BxTxHxN[..., :half], x_BxTxHxN[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Attention(nnx.Module):
    """Causal attention with grouped key-value heads, normalised queries and keys, rotary positions."""

    def __init__(self, model: Model):
        self.model = model
        self.q_proj = Linear(model.width, model.heads * model.head_dim)
        self.k_proj = Linear(model.width, model.kv_heads * model.head_dim)
        self.v_proj = Linear(model.width, model.kv_heads * model.head_dim)
        self.o_proj = Linear(model.heads * model.head_dim, model.width)
        self.q_norm = RMSNorm(model.head_dim, model.norm_epsilon)
        self.k_norm = RMSNorm(model.head_dim, model.norm_epsilon)

    def __call__(self, x_BxTxD: jax.Array, segments_BxT: jax.Array, positions_BxT: jax.Array) -> jax.Array:
        m, (B, T) = self.model, segments_BxT.shape
        q_BxTxHxN = self.q_norm(self.q_proj(x_BxTxD).reshape(B, T, m.heads, m.head_dim))
        k_BxTxKxN = self.k_norm(self.k_proj(x_BxTxD).reshape(B, T, m.kv_heads, m.head_dim))
        v_BxTxKxN = self.v_proj(x_BxTxD).reshape(B, T, m.kv_heads, m.head_dim)
        q_BxTxHxN = rotate(q_BxTxHxN, positions_BxT, m.rope_theta)
        k_BxTxKxN = rotate(k_BxTxKxN, positions_BxT, m.rope_theta)
        return self.o_proj(attend(q_BxTxHxN, k_BxTxKxN, v_BxTxKxN, segments_BxT).reshape(B, T, -1))


class MLP(nnx.Module):
    """SwiGLU."""

    def __init__(self, model: Model):
        self.gate_proj = Linear(model.width, model.mlp_width)
        self.up_proj = Linear(model.width, model.mlp_width)
        self.down_proj = Linear(model.mlp_width, model.width)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        return self.down_proj(jax.nn.silu(self.gate_proj(x_BxTxD)) * self.up_proj(x_BxTxD))


class Layer(nnx.Module):
    """Attention and MLP, each normalised before and added to the stream."""

    def __init__(self, model: Model):
        self.input_layernorm = RMSNorm(model.width, model.norm_epsilon)
        self.self_attn = Attention(model)
        self.post_attention_layernorm = RMSNorm(model.width, model.norm_epsilon)
        self.mlp = MLP(model)

    def __call__(self, x_BxTxD: jax.Array, segments_BxT: jax.Array, positions_BxT: jax.Array) -> jax.Array:
        x_BxTxD = x_BxTxD + self.self_attn(self.input_layernorm(x_BxTxD), segments_BxT, positions_BxT)
        return x_BxTxD + self.mlp(self.post_attention_layernorm(x_BxTxD))


class Trunk(nnx.Module):
    """Embedding, layers, final normalisation."""

    def __init__(self, model: Model, vocab: int):
        self.embed_tokens = Linear(model.width, vocab)
        self.layers = nnx.List([Layer(model) for _ in range(model.layers)])
        self.norm = RMSNorm(model.width, model.norm_epsilon)

    def __call__(self, tokens_BxT: jax.Array, segments_BxT: jax.Array, positions_BxT: jax.Array) -> jax.Array:
        x_BxTxD = look_up(self.embed_tokens.weight[...], tokens_BxT)
        for layer in self.layers:
            x_BxTxD = layer(x_BxTxD, segments_BxT, positions_BxT)
        return self.norm(x_BxTxD)


class Qwen3(nnx.Module):
    """The trunk and, where embeddings are not tied, a head of its own."""

    def __init__(self, model: Model, vocab: int):
        self.model = Trunk(model, vocab)
        if not model.tied_embeddings:
            self.lm_head = Linear(model.width, vocab)


@functools.lru_cache(maxsize=64)
def _definition(model: Model, vocab: int) -> tuple[nnx.GraphDef, dict[str, tuple]]:
    """The graph of the model without its arrays, and the path of each named parameter in it."""
    graph, state = nnx.split(nnx.eval_shape(lambda: Qwen3(model, vocab)))
    paths = {".".join(map(str, path)): path for path, _ in nnx.to_flat_state(state)}
    return graph, paths


def _assemble(params: Parameters, model: Model) -> Qwen3:
    graph, paths = _definition(model, params["model.embed_tokens.weight"].shape[0])
    leaves = [nnx.Param(params[name]) for name in paths]
    return nnx.merge(graph, nnx.from_flat_state(zip(paths.values(), leaves, strict=True)))


def shapes(model: Model, vocab: int) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by its name, sorted by name."""
    _, state = nnx.split(nnx.eval_shape(lambda: Qwen3(model, vocab)))
    found = {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(state)}
    return dict(sorted(found.items()))


def init_parameters(model: Model, vocab: int, seed: int) -> dict[str, np.ndarray]:
    """Fresh float32 parameters: matrices and embeddings normal with `init_scale`, norms 1.

    That is the published architecture's own initialisation (no extra factor on the projections into the
    residual stream). Each parameter has its own stream of numpy's Philox, so the same seed gives the same
    numbers on every machine and accelerator.
    """
    return {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else generator(seed, name).standard_normal(shape, np.float32) * np.float32(model.init_scale)
        for name, shape in shapes(model, vocab).items()
    }


def hidden_states(
    params: Parameters, model: Model, tokens: jax.Array, segments: jax.Array, positions: jax.Array
) -> jax.Array:
    """Normalised output of the last layer, `[B, T, D]`, of `tokens`, `segments`, `positions` `[B, T]`.

    A position sees those before it (and itself) in its own segment only. Positions count from 0 in each
    document.
    """
    return _assemble(params, model).model(tokens, segments, positions)


def output_matrix(params: Parameters) -> jax.Array:
    """The matrix `[V, D]` from hidden states to logits: the head's, or the embedding where they are tied."""
    return params.get("lm_head.weight", params["model.embed_tokens.weight"])


def logits(
    params: Parameters, model: Model, tokens: jax.Array, segments: jax.Array, positions: jax.Array
) -> jax.Array:
    """Float32 logits `[B, T, V]` of the token that follows each position."""
    x_BxTxD = hidden_states(params, model, tokens, segments, positions)
    return jnp.einsum("btd,vd->btv", x_BxTxD, output_matrix(params), preferred_element_type=jnp.float32)
