"""Devices and the mesh over them: axes member, data, fsdp, tensor; and how a model's arrays lie on it.

Small models spread members over devices, with nothing passed between them. A large one lies over several: `fsdp` cuts
every matrix, its gradient and its optimizer state, and the batch too; `tensor` cuts the matrices by heads and by
neurons; `data` cuts the batch alone. What is passed: caml/models/sharded.py.
"""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from caml.models import sharded
from caml.models.transformer import EMBEDDING, HEAD

AXES = ("member", "data", "fsdp", "tensor")
MEMBERS = PartitionSpec("member")
EVERYWHERE = PartitionSpec()
# Of the layers' matrices `tensor` cuts the rows, but for those that take heads or neurons back into the stream.
_INTO_STREAM = ("o_proj.weight", "down_proj.weight")


def member_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, groups: int = 0) -> Mesh:
    """Devices along the `member` axis, in groups of `data * fsdp * tensor` that share a member.

    So many `groups` of the first devices (0: all there are).
    """
    devices = np.array(jax.devices())
    if groups:
        devices = devices[: groups * data * fsdp * tensor]
    return Mesh(devices.reshape(-1, data, fsdp, tensor), AXES)


def is_sharded(mesh: Mesh | AbstractMesh) -> bool:
    """Whether a model lies over several devices."""
    return mesh.shape["fsdp"] * mesh.shape["tensor"] > 1


def batch_spec(mesh: Mesh) -> PartitionSpec:
    """How batches `[members, steps, B, T]` lie."""
    return PartitionSpec("member", None, sharded.ROWS if is_sharded(mesh) else "data")


def array_spec(name: str, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """How the parameter `name`, or what an optimizer keeps of it, lies: `shape` has the member axis in front.

    Axes of the mesh that do not divide a side of the array leave it whole: of parameters they do (`layout_of`).
    """
    if not is_sharded(mesh) or len(shape) < 3:
        return MEMBERS
    sides: tuple[tuple[str, ...], ...] = ("tensor",), sharded.FSDP
    if name in (EMBEDDING, HEAD):  # every word is looked up and compared
        sides = (), sharded.BOTH
    elif name.endswith(_INTO_STREAM):
        sides = sharded.FSDP, ("tensor",)

    def dividing(size: int, axes: tuple[str, ...]) -> tuple[str, ...] | None:
        return axes if axes and size % math.prod(mesh.shape[axis] for axis in axes) == 0 else None

    return PartitionSpec("member", *[None] * (len(shape) - 3), *map(dividing, shape[-2:], sides))


def shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of each array of a tree that has parameters or optimizer state by name, members in front."""

    def one(path: tuple, array: Any) -> NamedSharding:
        named = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        return NamedSharding(mesh, array_spec(named[-1] if named else "", array.shape, mesh))

    return jax.tree_util.tree_map_with_path(one, tree)
