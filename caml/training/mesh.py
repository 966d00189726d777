"""Devices and the mesh over them: axes member, data, fsdp, tensor."""

import os

import jax
import numpy as np
from jax.sharding import Mesh

from caml.config.errors import Failure

AXES = ("member", "data", "fsdp", "tensor")


def use_cpu_devices(count: int) -> None:
    """Split the CPU into `count` virtual devices of one thread each. Call before jax touches a device.

    Raises Failure where jax has started already. Products inside a device then run on its own thread:
    for small models threads that are handed pieces of a product cost more than they bring.
    """
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise Failure("the number of CPU devices must be set before jax starts") from error
    if count > 1:
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
        )


def member_mesh() -> Mesh:
    """All devices along the `member` axis; the other axes have size 1."""
    devices = np.array(jax.devices())
    return Mesh(devices.reshape(len(devices), 1, 1, 1), AXES)
