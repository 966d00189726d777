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
    if jax._src.xla_bridge.backends_are_initialized():
        raise Failure("jax has started; the number of CPU devices must be set before")
    flags = f"--xla_force_host_platform_device_count={count}"
    if count > 1:
        flags += " --xla_cpu_multi_thread_eigen=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def member_mesh() -> Mesh:
    """All devices along the `member` axis; the other axes have size 1."""
    devices = np.array(jax.devices())
    return Mesh(devices.reshape(len(devices), 1, 1, 1), AXES)
