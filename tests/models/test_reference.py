"""Our transformer against the published architecture's own code, in float32."""

import jax
import numpy as np
import pytest

from caml.models.sizes import Model
from caml.models.transformer import init_parameters, logits
from caml.training.step import Batch, loss_and_gradients


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_logits_and_gradient_are_those_of_transformers(tied: bool):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = Model(
        "tiny", 32, 3, heads=4, kv_heads=2, head_dim=16, mlp_width=48, tied_embeddings=tied, init_scale=0.1
    )
    vocab, (B, T) = 50, (2, 40)
    params = init_parameters(model, vocab, seed=0)
    rng = np.random.default_rng(0)
    for name, array in params.items():
        if array.ndim == 1:
            params[name] = (array + 0.2 * rng.normal(size=array.shape)).astype(np.float32)
    config = transformers.Qwen3Config(
        vocab_size=vocab,
        hidden_size=model.width,
        intermediate_size=model.mlp_width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        rms_norm_eps=model.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": model.rope_theta},
        tie_word_embeddings=tied,
        attn_implementation="eager",
    )
    theirs = transformers.Qwen3ForCausalLM(config).float().eval()
    missing, unexpected = theirs.load_state_dict(
        {name: torch.from_numpy(array) for name, array in params.items()}, strict=False
    )
    assert (missing, unexpected) == (["lm_head.weight"] if tied else [], [])
    if tied:
        theirs.tie_weights()

    tokens = rng.integers(0, vocab, (B, T)).astype(np.int32)
    ones = np.ones_like(tokens)
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), (B, T))
    weights = np.broadcast_to(np.arange(T) < T - 1, (B, T)).astype(np.float32)

    result = theirs(input_ids=torch.from_numpy(tokens).long(), labels=torch.from_numpy(tokens).long())
    ours = jax.jit(logits, static_argnums=1)(params, model, tokens, ones, positions)
    np.testing.assert_allclose(ours, result.logits.detach().numpy(), atol=2e-5)

    result.loss.backward()
    batch = Batch(tokens, ones, positions, weights)
    loss, _, gradients = jax.jit(loss_and_gradients, static_argnums=1)(params, model, batch)
    np.testing.assert_allclose(loss, result.loss.item(), rtol=1e-6)
    by_name = dict(theirs.named_parameters())
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, by_name[name].grad.numpy(), atol=2e-6, err_msg=name)
