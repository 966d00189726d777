"""Devices and the mesh over them: axes member, data, fsdp, tensor."""

import jax
import numpy as np
from jax.sharding import Mesh

AXES = ("member", "data", "fsdp", "tensor")


def member_mesh(data: int = 1) -> Mesh:
    """All devices along the `member` axis, in groups of `data` that share a member; the other axes have size 1."""
    devices = np.array(jax.devices())
    return Mesh(devices.reshape(len(devices) // data, data, 1, 1), AXES)
