"""Tests run on two virtual devices of the CPU, as a launch on a small machine does.

Set by environment variables, which jax reads when it starts: tests of rooms without jax never import it.
"""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
