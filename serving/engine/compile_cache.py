"""Where are compiled programs kept, and which devices do they serve? On disk; any that are equal.

The next start only reads them, and so does the second of two workers with equal meshes. JAX's own
cache does the work, but outside of GPUs it keys an entry by its very devices. An entry is loaded
for the devices it is wanted on, so on a CPU they can be left out of the key. Knows nothing of what
is compiled.
"""

import copy
import logging
import os
from contextlib import suppress
from functools import wraps
from math import inf
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

LOG = logging.getLogger(__name__)


def keep_compiled(directory: Path | None, *, least_seconds: float) -> None:
    """Keep programs that took at least `least_seconds` to compile, one entry for equal meshes.

    A setting of the whole process, for what is compiled from now on. A directory that cannot be
    used is told in one line, and no error: one that may only be read still is. On a TPU, reading an
    entry back for devices that do not start at the first one has crashed JAX (jax-ml/jax#38004):
    leave it off there.
    """
    problem = "there is no home directory" if directory is None else _unusable(directory)
    if problem is not None:
        message = "programs are compiled at every start: %s; set JAX_COMPILATION_CACHE_DIR"
        LOG.warning(message, problem)
        directory = None
    elif not os.access(str(directory), os.W_OK):
        LOG.warning("programs that %s lacks are compiled at every start: read-only", directory)
        least_seconds = inf
    jax.config.update("jax_compilation_cache_dir", None if directory is None else str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # else it stays off if anything was compiled before
    _leave_devices_out_of_keys()
    _remove_what_cannot_be_read()


def cache_directory() -> Path | None:
    """Say where compiled programs are kept: JAX's own variable, else the user's cache.

    None for a user who has none, as some that containers run as.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "foretoken" / "compiled"
    except RuntimeError:
        return None


def _unusable(directory: Path) -> str | None:
    """Make the directory; returns in one line why it cannot be used, if so."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{directory}: {error.strerror}"
    return None if os.access(directory, os.R_OK | os.X_OK) else f"{directory}: may not be read"


def _remove_what_cannot_be_read() -> None:
    """Wrap JAX's private function that reads an entry: a broken one is compiled and kept anew.

    A full disk, a kill and a power cut leave broken ones, and JAX replaces none that is there:
    every later start would compile that program again.
    """
    try:
        from jax._src import compilation_cache as internals

        read = internals.get_executable_and_time
        settings: Any = jax.config
    except (ImportError, AttributeError) as error:
        LOG.info("broken entries of the compile cache stay: %s", error)
        return

    @wraps(read)
    def get(cache_key: str, *rest: Any, **named: Any) -> Any:
        try:
            return read(cache_key, *rest, **named)
        except OSError:
            raise  # the disk's fault, not the entry's
        except Exception:
            with suppress(OSError):
                Path(settings.jax_compilation_cache_dir, f"{cache_key}-cache").unlink()
            raise

    internals.get_executable_and_time = get


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
