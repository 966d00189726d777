"""What of this machine a launch uses: devices, and where compiled programs are kept. Runs before jax starts."""

import os
from pathlib import Path


def prepare_devices() -> None:
    """Give each core of a machine without accelerator a virtual device, and keep compiled programs on disk."""
    import jax

    from caml.ablations.populations import MEMBERS
    from caml.training.mesh import use_cpu_devices

    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "caml" / "programs"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    use_cpu_devices(min(len(os.sched_getaffinity(0)), MEMBERS))
