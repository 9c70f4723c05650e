"""Where are compiled programs kept, and which devices do they serve? On disk; any that are equal.

The next start only reads them, and so does the second of two workers with equal meshes. JAX's own
cache does the work, but outside of GPUs it keys an entry by its very devices. An entry is loaded
for the devices it is wanted on, so on a CPU they can be left out of the key. Knows nothing of what
is compiled.
"""

import copy
import logging
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

LOG = logging.getLogger(__name__)


def keep_compiled(directory: Path, *, least_seconds: float) -> None:
    """Keep programs that took at least `least_seconds` to compile, one entry for equal meshes.

    A setting of the whole process, for what is compiled from now on. On a TPU, reading an entry
    back for devices that do not start at the first one has crashed JAX (jax-ml/jax#38004): leave it
    off there.
    """
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # else it stays off if anything was compiled before
    _leave_devices_out_of_keys()


def cache_directory() -> Path:
    """Say where compiled programs are kept: JAX's own variable, else the user's cache."""
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "foretoken" / "compiled"


def _leave_devices_out_of_keys() -> None:
    """Wrap JAX's private function that makes a key; without it, equal meshes compile each."""
    try:
        from jax._src import compilation_cache as internals

        key_of = internals.get_cache_key
    except (ImportError, AttributeError) as error:
        LOG.info("every mesh compiles its own programs: %s", error)
        return

    def key(module: Any, devices: Any, options: Any, backend: Any, *more: Any, **named: Any) -> str:
        if backend.platform == "cpu":
            options = on_first_devices(options)
        return key_of(module, devices, options, backend, *more, **named)

    internals.get_cache_key = key


def on_first_devices(options: Any) -> Any:
    """Return XLA's compile options as they are for a mesh that begins at the first device.

    Options that do not say where they are, or not as they do today, come back as they are.
    """
    try:
        from jaxlib import xla_client

        here = options.device_assignment
        shape = here.replica_count(), here.computation_count()
        ids = np.arange(shape[0] * shape[1]).reshape(shape)
        there = copy.deepcopy(options)
        there.device_assignment = xla_client.DeviceAssignment.create(ids)
    except (ImportError, AttributeError, TypeError):
        return options
    return there
