"""What a GPU moves through memory in a step of training, found without one: programs are compiled for it, not run.

Of the optimized program every kernel's arguments and results are added up, those of a loop as often as it turns: of
what is sliced or updated in place, that part. What a cache keeps counts too: the sums compare ways to compute the same,
and do not say how long they take. Products are all cuBLAS' or all Triton's, as asked, since without a device nothing
chooses among them. `peer` is the same without `Execution.fused`.

`--over FSDPxTENSOR` (or DATAxFSDPxTENSOR) is of the model of 124M over so many GPUs, with its batch for each of data x
fsdp: what a device receives of others in a step. There `peer` is the least: over `fsdp` the parts that others have of
each matrix in bfloat16, forward and backward, and of its gradient in float32 (of words once, over `tensor` too), over
`data` the sum of gradients, and over `tensor` that of what is added to the stream, four times a layer.

It needs jax's plugin for CUDA in jax's own version (`pip install jax-cuda13-plugin jax-cuda13-pjrt`, better in an
environment of its own), and `ptxas`, which comes with `nvcc`; neither a GPU nor its driver.
"""

import argparse
import dataclasses
import importlib.metadata
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.accelerator import CASES, POPULATIONS
from benchmarks.lines import line
from benchmarks.training import Case

# What XLA is told of an NVIDIA H200: an H100 (as in openxla/xla #25919) with the memory of its data sheet.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 141000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H200"
"""
# Not of s8: a product of cuBLAS has a workspace of them, which it may use.
BYTES = {"pred": 1, "u8": 1, "bf16": 2, "f16": 2} | dict.fromkeys(("s32", "u32", "f32"), 4)
NO_KERNEL = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while"}
PARTS = {"slice", "dynamic-slice", "gather"}
INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Kernel:
    """An instruction of a program: its own name, type, operation, arguments by name, the rest of its line.

    `root`: what it gives is the result of its computation.
    """

    name: str
    kind: str
    operation: str
    arguments: list[str]
    rest: str
    root: bool

    def named(self, key: str) -> str:
        """What follows `key=`, or nothing."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


def computations(text: str) -> tuple[dict[str, list[Kernel]], str]:
    """The instructions of each computation of an HLO module by its name, and the name of the one that is run."""
    found: dict[str, list[Kernel]] = {}
    entry = ""
    for row in text.splitlines():
        if begun := re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", row):
            current = found[begun[2]] = []
            entry = begun[2] if begun[1] else entry
        elif parts := INSTRUCTION.match(row):
            root, name, kind, operation, rest = parts.groups()
            current.append(
                Kernel(name, kind, operation, re.findall(r"%([\w.\-]+)", _inside(rest)), rest, bool(root))
            )
    return found, entry


def _inside(rest: str) -> str:
    """What stands before the bracket that closes the arguments."""
    open_ = 1
    for at, sign in enumerate(rest):
        open_ += (sign == "(") - (sign == ")")
        if not open_:
            return rest[:at]
    return rest


def size(kind: str) -> int:
    """Bytes of a type, or of all in a tuple."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", kind)
    return sum(BYTES.get(of, 0) * math.prod(int(n) for n in axes.split(",") if n) for of, axes in arrays)


def read(inside: list[Kernel], name: str) -> int | None:
    """Bytes that a fusion reads of its parameter `name`, where it takes parts of it alone; else None: the whole."""
    total, uses = 0, [(one, i) for one in inside for i, given in enumerate(one.arguments) if given == name]
    for one, i in uses:
        if one.operation == "bitcast":
            parts = read(inside, one.name)
        elif i == 0 and one.operation in PARTS:
            parts = size(one.kind)
        else:
            # What is updated in place is not read.
            parts = 0 if i == 0 and one.operation == "dynamic-update-slice" else None
        if parts is None:
            return None
        total += parts
    return total if uses else None


def written(inside: dict[str, Kernel], one: Kernel) -> int:
    """Bytes that a fusion writes for its result `one`: of what is updated in place, the update."""
    if one.operation == "dynamic-update-slice":
        return size(inside[one.arguments[1]].kind)
    if one.operation == "tuple" or (one.operation == "bitcast" and one.arguments[0] in inside):
        return sum(written(inside, inside[given]) for given in one.arguments)
    return size(one.kind)


def moves(kernel: Kernel, of: dict[str, str], all_: dict[str, list[Kernel]]) -> int:
    """Bytes that a kernel reads and writes; `of` has the types of its arguments."""
    inside = all_.get(kernel.named("calls"), [])
    parameters = {int(one.rest.split(")")[0]): one.name for one in inside if one.operation == "parameter"}
    given = 0
    for i, argument in enumerate(kernel.arguments):
        if argument not in kernel.arguments[:i]:
            whole = size(of.get(argument, ""))
            parts = read(inside, parameters[i]) if i in parameters else None
            given += whole if parts is None else min(parts, whole)
    if inside:
        by_name = {one.name: one for one in inside}
        return given + written(by_name, next(one for one in inside if one.root))
    if kernel.operation == "dynamic-update-slice":
        return 2 * size(of.get(kernel.arguments[1], ""))
    # What is begun and ended apart names its arguments among its results.
    return max(given, size(kernel.kind)) if kernel.operation.endswith("-start") else given + size(kernel.kind)


def together(kernel: Kernel) -> int:
    """How many devices pass something to each other in this. Raises ValueError where that is told in no known way."""
    if several := re.search(r"replica_groups=\[\d+,(\d+)\]", kernel.rest):
        return int(several[1])
    if several := re.search(r"replica_groups=\{\{([\d,]+)\}", kernel.rest):
        return len(several[1].split(","))
    if several := re.search(r"replica_groups=mesh\[(.*?)\] ?\{(.*?)\}", kernel.rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", several[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", several[2]))
    raise ValueError(f"which devices take part in {kernel.name}? {kernel.rest[:200]}")


def receives(kernel: Kernel, of: dict[str, str], all_: dict[str, list[Kernel]]) -> int:
    """Bytes that a device receives of others, if they pass each other as few as can be: sums are of rings."""
    given = sum(size(of.get(argument, "")) for argument in kernel.arguments)
    kind = kernel.operation.removesuffix("-start")
    if kind == "collective-permute":
        return given
    if kind not in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all"):
        return 0
    n = together(kernel)
    return round(given * {"all-gather": n - 1, "all-reduce": 2 * (n - 1) / n}.get(kind, (n - 1) / n))


def moved(
    all_: dict[str, list[Kernel]],
    computation: str,
    times: int = 1,
    bytes_of: Callable[[Kernel, dict[str, str], dict[str, list[Kernel]]], int] = moves,
) -> Iterator[tuple[Kernel, int]]:
    """The kernels of a computation and of the loops in it, and the bytes that each moves in all its turns."""
    of = {one.name: one.kind for one in all_[computation]}
    for one in all_[computation]:
        if one.operation == "while":
            turns = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', one.rest)
            yield from moved(all_, one.named("body"), times * int(turns[1] if turns else 1), bytes_of)
        elif one.operation not in NO_KERNEL and not one.operation.endswith("-done"):
            yield one, times * bytes_of(one, of, all_)


def compiled(name: str, members: int, fused: bool, over: tuple[int, int, int] = (1, 1, 1)) -> str:
    """The optimized program of a population of the case, as text; `over`: devices by data, fsdp and tensor."""
    # jax asks which of its GPU platforms is there, and none is (jax-ml/jax issue 23971).
    from jax._src import xla_bridge

    there = xla_bridge.canonicalize_platform

    def canonicalize(platform: str) -> str:
        return "cuda" if platform in ("gpu", "cuda") else there(platform)

    xla_bridge.canonicalize_platform = canonicalize
    import jax
    from jax.experimental import topologies
    from jax.sharding import Mesh, NamedSharding

    from caml.models.sizes import Model
    from caml.training.capacity import described
    from caml.training.execution import Execution
    from caml.training.layouts import layout_of
    from caml.training.mesh import AXES, EVERYWHERE, batch_spec, shardings
    from caml.training.optimizer import Optimizer
    from caml.training.population import build
    from caml.training.step import Batch

    data, fsdp, tensor = over
    count = math.prod(over)
    devices = topologies.get_topology_desc(
        platform="cuda", target_config=H200, topology=f"1x1x{count}"
    ).devices
    jax.default_backend = lambda: "gpu"
    mesh = Mesh(np.array(devices).reshape(1, *over), AXES)
    case = CASES[name]
    batch = case.batch * data * fsdp
    model = Model(case.name, case.width, case.layers, case.heads, case.heads, case.head, case.mlp)
    shapes = members, batch, case.length, case.width
    execution = Execution(fused=fused, fsdp=fsdp, tensor=tensor)
    layout = layout_of("gpu", count, *shapes, execution, "bfloat16", case.heads)

    def placed(tree: Any) -> Any:
        return jax.tree.map(
            lambda x, lies: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lies), tree, shardings(tree, mesh)
        )

    def of_batches(kind: type) -> jax.ShapeDtypeStruct:
        axes = (members, case.steps, batch, case.length)
        return jax.ShapeDtypeStruct(axes, kind, sharding=NamedSharding(mesh, batch_spec(mesh)))

    state, _, numbers = described(model, case.vocabulary, Optimizer("adamw", 1e-3, 1e-3), False, members)
    whole, real = of_batches(np.int32), of_batches(np.float32)
    counter = jax.ShapeDtypeStruct((), np.int32, sharding=NamedSharding(mesh, EVERYWHERE))
    with jax.set_mesh(mesh):
        lowered = build(model, "adamw", layout, mesh).lower(
            placed(state), None, placed(numbers), Batch(whole, whole, whole, real), counter, counter
        )
    return lowered.compile().as_text()


def least(case: Case, over: tuple[int, int, int]) -> float:
    """Bytes that a device has to receive of others in a step of a model over so many (see above); sums are of rings."""
    data, fsdp, tensor = over
    matrices = case.layers * (4 * case.width * case.heads * case.head + 3 * case.width * case.mlp)
    words = case.vocabulary * case.width
    tokens = case.batch * case.length * case.width
    of_layers, of_words = (fsdp - 1) / fsdp / tensor, 1 - 1 / (fsdp * tensor)
    parts = (2 + 2 + 4) * matrices * of_layers + (2 + 4) * words * of_words
    sums = 2 * 4 * (matrices + words) / (fsdp * tensor) * (data - 1) / data
    return parts + sums + 4 * case.layers * tokens * 2 * 2 * (tensor - 1) / tensor


def parted(text: str) -> tuple[int, int, int]:
    """Devices by data, fsdp and tensor, from such as 8x1 or 2x2x2."""
    sizes = [int(part) for part in text.split("x")]
    data, fsdp, tensor = sizes if len(sizes) == 3 else (1, *sizes)
    return data, fsdp, tensor


def main() -> None:
    """Count, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--products", choices=("cublas", "triton"), default="cublas")
    parser.add_argument("--sizes", nargs="+", choices=CASES)
    parser.add_argument(
        "--list", action="store_true", help="also every kernel of each program, by what it moves"
    )
    parser.add_argument("--over", nargs="+", type=parted, metavar="FSDPxTENSOR", help="what devices pass")
    asked = parser.parse_args()
    if asked.over and asked.sizes:
        parser.error("--over is of 124M: leave out --sizes")
    if not any(
        found.name.startswith("jax-cuda") for found in importlib.metadata.distributions() if found.name
    ):
        sys.exit(
            "this needs jax's plugin for CUDA: pip install jax-cuda13-plugin jax-cuda13-pjrt, in jax's own version"
        )
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = f"--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm={asked.products == 'triton'}".lower()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    if asked.over:
        from caml.training.layouts import Unfit

        for over in asked.over:
            try:
                all_, entry = computations(compiled("124M", 1, False, over))
            except Unfit as unfit:
                parser.error(f"--over {'x'.join(map(str, over))}: {unfit}")
            told(all_, entry, over, asked.list)
        return
    members_of = {"124M": 1} | {name: members for name, members, _ in POPULATIONS}
    for name in asked.sizes or CASES:
        members, found = members_of[name], {}
        for fused in (True, False):
            all_, entry = computations(compiled(name, members, fused))
            kernels = list(moved(all_, entry))
            found[fused] = sum(most for _, most in kernels) / 1e9
            if asked.list:
                listed(f"{name}, {'fused' if fused else 'plain'}", kernels)
        products = {"cublas": "cuBLAS", "triton": "Triton"}[asked.products]
        case = f"{CASES[name].told}, {members} together, bfloat16, products by {products}"
        line("passes", case, found[True], found[False], "GB a step", found[False] / found[True], 0)


def told(all_: dict[str, list[Kernel]], entry: str, over: tuple[int, int, int], each: bool) -> None:
    """Print what a device receives of others in a step of the model of 124M; of `each` kernel, where that is asked."""
    kernels = [(one, most) for one, most in moved(all_, entry, bytes_of=receives) if most]
    ours, peer = sum(most for _, most in kernels) / 1e9, least(CASES["124M"], over) / 1e9
    devices = " x ".join(map(str, over))
    if each:
        listed(f"124M over {devices}", kernels)
    case = f"{CASES['124M'].told} over {devices} devices (data x fsdp x tensor), bfloat16: received of others"
    line("passes", case, ours, peer, "GB a step", peer / ours, 0)


def listed(case: str, kernels: list[tuple[Kernel, int]]) -> None:
    """Show every kernel, the largest first."""
    print(f"{case}: megabytes in a step", file=sys.stderr)
    for one, most in sorted(kernels, key=lambda kernel: -kernel[1]):
        print(f"{most / 1e6:10,.1f}  {one.name}  {one.kind[:60]}", file=sys.stderr)


if __name__ == "__main__":
    main()
