"""How much of a GPU may this process use? JAX takes a part at its start, and gives out no more.

Left alone it takes three quarters, whatever it is used for (its documentation, "GPU memory
allocation"). A server has the device for itself: it asks for nearly all, unless the environment
says how much. Of the host's memory it takes up to a limit as page-locked memory, once for all GPUs
of the process. `claim` and `claim_host` must run before JAX starts its backend. Knows nothing of
weights.
"""

from collections.abc import Mapping, MutableMapping
from math import ceil
from typing import Any

from serving.config import require
from serving.engine.buckets import GPU_PLATFORMS

VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""The second is the older name. JAX refuses both at once."""
JAX_SHARE = 0.75
OWN_SHARE = 0.95
"""The rest is for the CUDA context, its graphs and libraries' workspaces (ours; not measured)."""

HOST_VARIABLE = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"
XLA_HOST_GIB = 64
"""What XLA takes of the host at most, unless the variable says how much (its source)."""
HOST_SPARE_SHARE = 1 / 8
HOST_SPARE_GIB = 4
"""Beside the pages: gaps between them, and what else passes through (ours; not measured)."""


def claim(env: MutableMapping[str, str]) -> None:
    """Let JAX take nearly all of a GPU, unless the environment says how much. Others ignore it."""
    if not any(env.get(name) for name in VARIABLES):
        env[VARIABLES[0]] = str(OWN_SHARE)


def claim_host(env: MutableMapping[str, str], host_kv_gib: float, workers: int) -> None:
    """Let JAX page-lock as much host memory as the pages of all workers of a process take.

    Raises ConfigError if the environment says how much, and that is too little.
    """
    if host_kv_gib <= 0:
        return
    wanted = ceil(host_kv_gib * workers * (1 + HOST_SPARE_SHARE) + HOST_SPARE_GIB)
    said = env.get(HOST_VARIABLE)
    if said:
        require(
            said.isdecimal() and int(said) >= wanted,
            f"--host-kv-gib {host_kv_gib:g} for {workers} worker(s) wants {HOST_VARIABLE}={wanted}"
            f" at least, and it is {said}: raise it, unset it or lower --host-kv-gib",
        )
    elif wanted > XLA_HOST_GIB:
        env[HOST_VARIABLE] = str(wanted)


def share_of(env: Mapping[str, str]) -> float:
    """Return the share of a GPU that JAX takes in this environment, as JAX understands it."""
    return next((float(env[name]) for name in VARIABLES if env.get(name)), JAX_SHARE)


def memory_of(device: Any, fraction: float, env: Mapping[str, str]) -> float | None:
    """Return the memory of which `fraction` is to be used, in bytes; None on a host's processor.

    On a GPU `fraction` means the whole device, as far as that lies within what JAX gives out. Where
    it does not, a fraction of what JAX gives out is meant, as on all other devices.
    """
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return None
    share = share_of(env)
    if device.platform in GPU_PLATFORMS and fraction < share <= 1:
        return limit / share
    return float(limit)
