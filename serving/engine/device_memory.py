"""How much of a GPU may this process use? JAX takes a part at its start, and gives out no more.

Left alone it takes three quarters, whatever it is used for (its documentation, "GPU memory
allocation"). A server has the device for itself: it asks for nearly all, unless the environment
says how much. `claim` must run before JAX starts its backend. Knows nothing of weights or pages.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any

from serving.engine.buckets import GPU_PLATFORMS

VARIABLES = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
"""The second is the older name. JAX refuses both at once."""
JAX_SHARE = 0.75
OWN_SHARE = 0.95
"""The rest is for the CUDA context, its graphs and libraries' workspaces (ours; not measured)."""


def claim(env: MutableMapping[str, str]) -> None:
    """Let JAX take nearly all of a GPU, unless the environment says how much. Others ignore it."""
    if not any(env.get(name) for name in VARIABLES):
        env[VARIABLES[0]] = str(OWN_SHARE)


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
