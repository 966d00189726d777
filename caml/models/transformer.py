"""The transformer: exactly Qwen3 dense, defined with NNX and used as a flat dictionary of arrays.

Names and layouts of parameters are those of `transformers.Qwen3ForCausalLM` (weights are `[out, in]`),
so a dictionary of parameters *is* a checkpoint of that class. Sizes in names of arrays: B sequences,
T positions, D width, H heads, K key-value heads, C heads of several kinds, N numbers in a head, M half as
many, E positions that there are tables for, V vocabulary.

Inside, features come first and tokens last (`[D, B * T]`): sums over features then run down columns, which
vectorises on a CPU, and no product of a training step needs a large transposition there. A step of a
toy model takes half the time of the usual order (experiments/LOG.md). Accelerators choose their own layouts.

Source: Qwen3 Technical Report, arXiv 2505.09388.
"""

import functools
import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from caml.config.seeds import generator
from caml.models import sharded
from caml.models.attention import attend
from caml.models.compute import FLOAT32, Compute
from caml.models.products import look_up, multiply
from caml.models.sizes import Model

Parameters = dict[str, jax.Array]
OUTPUT_NORM = "model.norm.weight"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def is_matrix(name: str) -> bool:
    """Whether a parameter is a matrix of a layer: neither norm, nor embedding, nor head."""
    return name.endswith("_proj.weight")


class Linear(nnx.Module):
    """A matrix without bias, stored `[out, in]`."""

    def __init__(self, inputs: int, outputs: int):
        self.weight = nnx.Param(jnp.zeros((outputs, inputs), jnp.float32))


def out_of_stream(x_DxN: jax.Array, compute: Compute, *linears: Linear) -> jax.Array:
    """All linear maps of the stream by one product, one below the other."""
    # For small models the number of products counts for more than their sizes.
    weights = [linear.weight[...] for linear in linears]
    weight_OxD = jnp.concatenate(weights) if len(weights) > 1 else weights[0]
    if compute.sharded:
        return sharded.multiply(weight_OxD, sharded.entering(x_DxN), 1)
    return multiply(weight_OxD, x_DxN, str(x_DxN.dtype))


def into_stream(x_IxN: jax.Array, compute: Compute, linear: Linear) -> jax.Array:
    """The linear map of `x` to what is added to the stream."""
    if compute.sharded:
        return sharded.leaving(sharded.multiply(linear.weight[...], x_IxN, 0))
    return multiply(linear.weight[...], x_IxN, str(x_IxN.dtype))


def fused(name: str, compute: Compute, size: int, positions: int) -> Any:
    """The kernel `name` for a GPU, where it is asked for and `size` and `positions` suit it; else None."""
    if not compute.fused:
        return None
    kernel = importlib.import_module(f"caml.models.kernels.triton_{name}")
    return kernel if kernel.fits(size, positions) else None


def interpreted() -> bool:
    """Whether this process has no GPU to run such a kernel on."""
    return jax.default_backend() != "gpu"


def normalised(x_xWxN: jax.Array, weight_xWx1: jax.Array, epsilon: float) -> jax.Array:
    """`x` over its root mean square along the axis before the last, times a weight; computed in float32."""
    x32 = x_xWxN.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-2, keepdims=True) + epsilon)
    return (x32 * scale * weight_xWx1).astype(x_xWxN.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalisation, in float32."""

    def __init__(self, width: int, epsilon: float):
        self.weight = nnx.Param(jnp.ones((width,), jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x_xWxN: jax.Array) -> jax.Array:
        """Normalise over the axis before the last."""
        return normalised(x_xWxN, self.weight[...][:, None], self.epsilon)


def rotation(positions_BxT: jax.Array, head_dim: int, theta: float, end: int = 0) -> tuple[jax.Array, ...]:
    """Cosines and sines `[head_dim / 2, B * T]` of rotary positions (arXiv 2104.09864), all below `end` (0: T)."""
    half = head_dim // 2
    frequencies = theta ** (-np.arange(half, dtype=np.float64) / half)
    end = end or positions_BxT.shape[1]
    angles_MxE = frequencies[:, None] * np.arange(end)
    # Tables, since XLA on a CPU would compute the functions again wherever they are used: twelve times in
    # two layers, a third of a step.
    # Number by number: of whole columns XLA would lay out what it finds by positions, and all that reads it on a CPU
    # would read across rows.
    places_MxBT = end * np.arange(half)[:, None] + positions_BxT.reshape(-1)
    return tuple(jnp.asarray(f(angles_MxE), jnp.float32).reshape(-1)[places_MxBT] for f in (np.cos, np.sin))


def rotate(x_HxNxBT: jax.Array, turn: tuple[jax.Array, ...]) -> jax.Array:
    """Turn the halves of each head against each other: the convention of Hugging Face."""
    cos, sin = turn
    first, second = jnp.split(x_HxNxBT, 2, axis=1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=1)
    return turned.astype(x_HxNxBT.dtype)


class Attention(nnx.Module):
    """Causal attention with grouped key-value heads, normalised queries and keys, rotary positions."""

    def __init__(self, model: Model):
        self.head_dim = model.head_dim
        self.q_proj = Linear(model.width, model.heads * model.head_dim)
        self.k_proj = Linear(model.width, model.kv_heads * model.head_dim)
        self.v_proj = Linear(model.width, model.kv_heads * model.head_dim)
        self.o_proj = Linear(model.heads * model.head_dim, model.width)
        self.q_norm = RMSNorm(model.head_dim, model.norm_epsilon)
        self.k_norm = RMSNorm(model.head_dim, model.norm_epsilon)

    def heads(self, x_DxBT: jax.Array, turn: tuple, compute: Compute = FLOAT32) -> tuple[jax.Array, ...]:
        """Queries `[H, N, B * T]`, keys and values `[K, N, B * T]`, normalised and turned."""
        linears = self.q_proj, self.k_proj, self.v_proj
        own, shared = (linear.weight[...].shape[0] // self.head_dim for linear in linears[:2])
        norms = self.q_norm.weight[...], self.k_norm.weight[...]
        if compute.sharded:  # other devices have other heads
            norms = sharded.entering(norms[0]), sharded.entering(norms[1])
        if kernel := fused("heads", compute, self.head_dim, x_DxBT.shape[-1]):
            return kernel.prepared(
                out_of_stream(x_DxBT, compute, *linears),
                *norms,
                turn,
                shared,
                self.q_norm.epsilon,
                interpreted(),
            )
        qkv_CxNxBT = out_of_stream(x_DxBT, compute, *linears).reshape(-1, self.head_dim, x_DxBT.shape[-1])
        qk_CxNxBT, v_KxNxBT = jnp.split(qkv_CxNxBT, [own + shared])
        if jax.default_backend() != "cpu":
            q_HxNxBT, k_KxNxBT = (
                rotate(normalised(x, weight[:, None], self.q_norm.epsilon), turn)
                for x, weight in zip(jnp.split(qk_CxNxBT, [own]), norms, strict=True)
            )
            return q_HxNxBT, k_KxNxBT, v_KxNxBT
        # Queries and keys together: small models wait more for the number of operations than for their size. A GPU
        # would pass over them once more.
        weight_CxNx1 = jnp.concatenate(
            [
                jnp.broadcast_to(weight[:, None], (count, self.head_dim, 1))
                for weight, count in zip(norms, (own, shared), strict=True)
            ]
        )
        qk_CxNxBT = rotate(normalised(qk_CxNxBT, weight_CxNx1, self.q_norm.epsilon), turn)
        return *jnp.split(qk_CxNxBT, [own]), v_KxNxBT

    def joined(self, out_HxNxBT: jax.Array, compute: Compute = FLOAT32) -> jax.Array:
        """Output `[D, B * T]` of the heads' own, before it is added to the stream."""
        return into_stream(out_HxNxBT.reshape(-1, out_HxNxBT.shape[-1]), compute, self.o_proj)

    def __call__(
        self, x_DxBT: jax.Array, segments_BxT: jax.Array, turn: tuple, compute: Compute
    ) -> jax.Array:
        """Output `[D, B * T]`, before it is added to the stream."""
        heads = self.heads(x_DxBT, turn, compute)
        q, k, v = (x.reshape(*x.shape[:2], *segments_BxT.shape) for x in heads)
        out = attend(q, k, v, segments_BxT, compute.kernel)
        return self.joined(out.reshape(*out.shape[:2], -1), compute)


class MLP(nnx.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, model: Model):
        self.gate_proj = Linear(model.width, model.mlp_width)
        self.up_proj = Linear(model.width, model.mlp_width)
        self.down_proj = Linear(model.mlp_width, model.width)

    def __call__(self, x_DxBT: jax.Array, compute: Compute = FLOAT32) -> jax.Array:
        """Output `[D, B * T]`, before it is added to the stream."""
        linears = self.gate_proj, self.up_proj
        neurons = self.gate_proj.weight[...].shape[0]
        both = out_of_stream(x_DxBT, compute, *linears)
        if kernel := fused("swiglu", compute, neurons, x_DxBT.shape[-1]):
            through = kernel.swiglu(both, interpreted())
        else:
            gate, up = jnp.split(both, 2)
            through = jax.nn.silu(gate) * up
        return into_stream(through, compute, self.down_proj)


class Layer(nnx.Module):
    """Attention and MLP, each normalised before and added to the stream."""

    def __init__(self, model: Model):
        self.input_layernorm = RMSNorm(model.width, model.norm_epsilon)
        self.self_attn = Attention(model)
        self.post_attention_layernorm = RMSNorm(model.width, model.norm_epsilon)
        self.mlp = MLP(model)

    def __call__(
        self, x_DxBT: jax.Array, segments_BxT: jax.Array, turn: tuple, compute: Compute
    ) -> jax.Array:
        """The stream `[D, B * T]` after this layer."""
        x_DxBT = x_DxBT + self.self_attn(self.input_layernorm(x_DxBT), segments_BxT, turn, compute)
        return x_DxBT + self.mlp(self.post_attention_layernorm(x_DxBT), compute)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _through(
    layer: nnx.GraphDef,
    params: nnx.State,
    x_DxBT: jax.Array,
    segments_BxT: jax.Array,
    turn: tuple,
    compute: Compute,
) -> jax.Array:
    """The stream after a layer, of which the backward pass computes again what `compute.remat` says.

    Compiled into what calls it, but traced once for all layers of a shape.
    """

    def run(params: nnx.State, x_DxBT: jax.Array) -> jax.Array:
        return nnx.merge(layer, params)(x_DxBT, segments_BxT, turn, compute)

    if compute.remat != "none":
        products = compute.remat == "products"
        run = jax.checkpoint(
            run, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable if products else None
        )
    return run(params, x_DxBT)


class Trunk(nnx.Module):
    """Embedding, layers, final normalisation."""

    def __init__(self, model: Model, vocab: int):
        self.shape = model
        self.embed_tokens = Linear(model.width, vocab)
        self.layers = nnx.List([Layer(model) for _ in range(model.layers)])
        self.norm = RMSNorm(model.width, model.norm_epsilon)

    def __call__(
        self, tokens_BxT: jax.Array, segments_BxT: jax.Array, positions_BxT: jax.Array, compute: Compute
    ) -> jax.Array:
        """The normalised stream `[D, B * T]`."""
        turn = rotation(positions_BxT, self.shape.head_dim, self.shape.rope_theta)
        table_VxD, tokens = self.embed_tokens.weight[...], tokens_BxT.reshape(-1)
        if compute.sharded:  # of a table that was put together: it is the head's too, where they are tied
            x_DxBT = sharded.all_tokens(look_up(table_VxD, sharded.own_tokens(tokens), compute.precision))
        else:
            x_DxBT = look_up(table_VxD, tokens, compute.precision)
        for layer in self.layers:
            x_DxBT = _through(*nnx.split(layer), x_DxBT, segments_BxT, turn, compute)
        return self.norm(x_DxBT)


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


def assemble(params: Parameters, model: Model) -> Qwen3:
    """The module with these parameters."""
    graph, paths = _definition(model, params[EMBEDDING].shape[0])
    leaves = [nnx.Param(params[name]) for name in paths]
    return nnx.merge(graph, nnx.from_flat_state(zip(paths.values(), leaves, strict=True)))


def shapes(model: Model, vocab: int) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by its name, sorted by name."""
    _, state = nnx.split(nnx.eval_shape(lambda: Qwen3(model, vocab)))
    found = {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in nnx.to_flat_state(state)}
    return dict(sorted(found.items()))


def init_parameters(model: Model, vocab: int, seed: int) -> dict[str, np.ndarray]:
    """Fresh float32 parameters: matrices and embeddings normal with `init_scale`, norms 1.

    That is the published architecture's own initialisation (no extra factor on the projections into the residual
    stream), but for what a `base_width` changes (see `Model`). Each parameter has its own stream of numpy's Philox, so
    the same seed gives the same numbers on every machine and accelerator.
    """

    def fresh(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) == 1:
            return np.full(shape, model.transfer if name == OUTPUT_NORM else 1.0, np.float32)
        scale = model.init_scale * (model.transfer**0.5 if is_matrix(name) else 1.0)
        return generator(seed, name).standard_normal(shape, np.float32) * np.float32(scale)

    return {name: fresh(name, shape) for name, shape in shapes(model, vocab).items()}


def stream(
    params: Parameters,
    model: Model,
    tokens: jax.Array,
    segments: jax.Array,
    positions: jax.Array,
    compute: Compute = FLOAT32,
) -> jax.Array:
    """Normalised output of the last layer with features in front, `[D, B * T]`: see `hidden_states`."""
    return assemble(params, model).model(tokens, segments, positions, compute)


def hidden_states(
    params: Parameters,
    model: Model,
    tokens: jax.Array,
    segments: jax.Array,
    positions: jax.Array,
    compute: Compute = FLOAT32,
) -> jax.Array:
    """Normalised output of the last layer, `[B, T, D]`, of `tokens`, `segments`, `positions` `[B, T]`.

    A position sees those before it (and itself) in its own segment only. Positions count from 0 in each
    document.
    """
    return stream(params, model, tokens, segments, positions, compute).T.reshape(*tokens.shape, model.width)


def output_matrix(params: Parameters) -> jax.Array:
    """The matrix `[V, D]` from hidden states to logits: the head's, or the embedding where they are tied."""
    return params.get(HEAD, params[EMBEDDING])


def logits(
    params: Parameters, model: Model, tokens: jax.Array, segments: jax.Array, positions: jax.Array
) -> jax.Array:
    """Float32 logits `[B, T, V]` of the token that follows each position."""
    x_BxTxD = hidden_states(params, model, tokens, segments, positions)
    return jnp.einsum("btd,vd->btv", x_BxTxD, output_matrix(params), preferred_element_type=jnp.float32)
