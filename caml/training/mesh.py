"""Devices and the mesh over them: axes member, data, fsdp, tensor; and how a model's arrays lie on it.

Small models spread members over devices, with nothing passed between them. A large one lies over several: `fsdp` cuts
every matrix, its gradient and its optimizer state, and the batch too (Zhao et al. 2023, arXiv 2304.11277); `tensor`
cuts the matrices by heads and by neurons (Shoeybi et al. 2019, arXiv 1909.08053); `data` cuts the batch alone.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("member", "data", "fsdp", "tensor")
MEMBERS = PartitionSpec("member")
EVERYWHERE = PartitionSpec()
# The matrices that take heads or neurons back into the stream: `tensor` cuts their columns, and of all others the rows.
_INTO_STREAM = ("o_proj.weight", "down_proj.weight")


def member_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """All devices along the `member` axis, in groups of `data * fsdp * tensor` that share a member."""
    devices = np.array(jax.devices())
    return Mesh(devices.reshape(-1, data, fsdp, tensor), AXES)


def is_sharded(mesh: Mesh) -> bool:
    """Whether a model lies over several devices."""
    return mesh.shape["fsdp"] * mesh.shape["tensor"] > 1


def batch_spec(mesh: Mesh) -> PartitionSpec:
    """How batches `[members, steps, B, T]` lie."""
    return PartitionSpec("member", None, ("data", "fsdp") if is_sharded(mesh) else "data")


def array_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How the parameter `name`, or what an optimizer keeps of it, lies: `shape` has the member axis in front.

    An axis of the mesh that does not divide its side of the array leaves it whole.
    """
    if not is_sharded(mesh) or len(shape) < 3:
        return MEMBERS
    sides = ("fsdp", "tensor") if name.endswith(_INTO_STREAM) else ("tensor", "fsdp")
    cut = [
        axis if size % mesh.shape[axis] == 0 else None for axis, size in zip(sides, shape[-2:], strict=True)
    ]
    return PartitionSpec("member", *[None] * (len(shape) - 3), *cut)


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each array of a tree that has parameters or optimizer state by name, members in front."""

    def one(path: tuple, array: Any) -> NamedSharding:
        named = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        return NamedSharding(mesh, array_spec(named[-1] if named else "", array.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)
