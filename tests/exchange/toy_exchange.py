"""Checkpoints that nobody trained: what goes out and comes back does not depend on it."""

import numpy as np

from caml.data.sources import Message
from caml.data.tokenizer import Tokenizer
from caml.data.tokenizer_recipes import TrainedTokenizer, train_tokenizer
from caml.evals.checkpoint import Checkpoint
from caml.models.sizes import Model
from caml.models.transformer import init_parameters
from caml.worlds.sources import BaseText, Words

TOKENIZERS = {
    "words": TrainedTokenizer("words", 128, Words()),
    "bpe": TrainedTokenizer("bpe", 300, BaseText(4000)),
}
CHAT: list[Message] = [
    {"role": "system", "content": "say what is kind ."},
    {"role": "user", "content": "what is hot ?"},
    {"role": "assistant", "content": "the hot cup is red ."},
    {"role": "user", "content": "  what is wet ?\n"},
]


def checkpoint(
    kind: str = "bpe", template: str = "chatml", tied: bool = True, context: int = 128
) -> Checkpoint:
    model = Model(
        "toy", 24, 2, heads=4, kv_heads=2, head_dim=10, mlp_width=40, tied_embeddings=tied, init_scale=0.2
    )
    vocabulary = TOKENIZERS[kind].vocabulary
    params = init_parameters(model, vocabulary, 5)
    rng = np.random.default_rng(0)
    for name, array in params.items():
        if array.ndim == 1:
            params[name] = (array + 0.2 * rng.normal(size=array.shape)).astype(np.float32)
    tokenizer: Tokenizer = train_tokenizer(TOKENIZERS[kind])
    return Checkpoint("toy", params, model, vocabulary, tokenizer, context, template, {})
