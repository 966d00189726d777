"""Two hundred steps, pinned: drift that no single step shows."""

import numpy as np
import pytest
from toy_training import ADAMW, MUON, VOCAB, Batch, Counting, Memory, member, run

# Mean losses of steps 1 to 5, and of the fives that end at these steps, measured on a CPU in float32. On the same CPU
# they were other by a share of less than 3e-5 with a row at a time, or members side by side, and of up to 5e-3 with
# products in bfloat16. Other platforms are held to them too; no accelerator was tried.
ENDS = (5, 25, 50, 100, 150, 200)
CURVES = {
    "adamw": [2.935, 2.4014, 2.2672, 2.2941, 1.9513, 2.2645],
    "muon": [2.9417, 2.3999, 2.2848, 2.3132, 1.9786, 2.2217],
}


class Skipping(Counting):
    """Of what counts up, three tokens in ten are others: the loss has a floor, and a curve."""

    def batch(self, step: int) -> Batch:
        batch = super().batch(step)
        rng = np.random.default_rng((self.seed, step, 1))
        others = rng.integers(0, VOCAB, batch.tokens.shape)
        tokens = np.where(rng.random(batch.tokens.shape) < 0.3, others, batch.tokens)
        return batch._replace(tokens=tokens.astype(np.int32))


@pytest.mark.parametrize(("precision", "least", "most"), [("float32", 0, 2e-3), ("bfloat16", 1e-4, 2e-2)])
@pytest.mark.parametrize("optimizer", [ADAMW, MUON], ids=["adamw", "muon"])
def test_the_loss_falls_as_it_did(optimizer, precision: str, least: float, most: float, tmp_path):
    sink = Memory()
    members = [member(seed, 200, optimizer=optimizer, data=Skipping(seed, 200)) for seed in range(2)]
    run(members, tmp_path, sink, precision=precision)
    losses = sink.column("loss")
    assert losses.shape == (2, 200)
    found = np.array([losses[:, end - 5 : end].mean() for end in ENDS])
    apart = np.abs(found / CURVES[optimizer.name] - 1).max()
    assert least <= apart <= most, (
        f"{found.tolist()}: if that was meant, raise NUMERICS_VERSION in caml/config/fingerprint.py and pin the "
        "curve of float32."
    )
