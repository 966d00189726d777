"""What of this machine training uses: devices, and where compiled programs are kept.

Set by environment variables that jax reads when it starts, so that commands that need no jax never load it. What
the user has set stays.
"""

import os
from pathlib import Path

# Members of a population on a CPU, where they run in turn: many enough to share the compilation and to keep
# the devices busy to the end, few enough that a population is finished every minute or so.
MOST_MEMBERS = 12
# Products inside a device then run on its own thread: for small models threads that are handed pieces of a
# product cost more than they bring.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def prepare_devices() -> None:
    """Give each core of a machine without accelerator a virtual device, and keep compiled programs on disk."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "caml" / "programs"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", str(min(len(os.sched_getaffinity(0)), MOST_MEMBERS)))
    flags = os.environ.get("XLA_FLAGS", "")
    if int(os.environ["JAX_NUM_CPU_DEVICES"]) > 1 and ONE_THREAD not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {ONE_THREAD}".strip()
