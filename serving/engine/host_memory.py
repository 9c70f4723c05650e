"""Where do KV pages lie that have left a worker's device? One array for each, by slot.

In page-locked memory, to and from which a device copies by itself, beside the steps. An array a
page, so that its memory is free as soon as its slot is overwritten or taken. Where JAX has no such
memory for a platform, pages lie in NumPy arrays. One thread uses it. Knows no pool.
"""

import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

LOG = logging.getLogger(__name__)

PAGE_LOCKED = "pinned_host"
"""JAX's name of the kind of memory."""
MAX_MOVING = 256
"""Pages that may be on their way before the oldest is waited for: each holds device memory."""


class HostMemory:
    """Pages [L, ...] in host slots; a slot keeps what was put there last, until it is taken."""

    def __init__(self, sharding: NamedSharding) -> None:
        """Start empty; memory is taken as slots are used. `sharding`: of one page on its devices.

        Says in the log if they have no page-locked memory.
        """
        self._there = sharding
        self._kept = _kept_sharding(sharding)
        self._locked = self._kept.memory_kind == PAGE_LOCKED
        if not self._locked:
            platform = next(iter(sharding.device_set)).platform
            LOG.warning("JAX has no page-locked memory for %s: slower ways to the host", platform)
        self._arriving: dict[int, jax.Array] = {}  # slots whose copies may be on their way
        self._pages: dict[int, Any] = {}  # JAX's arrays, page-locked, or NumPy's

    def __len__(self) -> int:
        """Count the slots that keep a page."""
        return len(self._arriving) + len(self._pages)

    def keep(self, pages: Sequence[jax.Array], slots: Sequence[int]) -> None:
        """Copy one page into every slot, without waiting until it is there."""
        moving = list(pages)
        if self._locked:
            moving = jax.device_put(moving, [self._kept] * len(moving))
        else:
            for page in moving:
                page.copy_to_host_async()
        for slot, page in zip(slots, moving, strict=True):
            self._pages.pop(slot, None)
            self._arriving.pop(slot, None)  # so that it counts as the newest
            self._arriving[slot] = page
        while len(self._arriving) > MAX_MOVING:
            self._settle_oldest()

    def take(self, slots: Sequence[int]) -> list[jax.Array]:
        """Start to copy the pages of slots to the devices, and keep them no longer.

        Raises KeyError for a slot without a page.
        """
        pages = [
            self._arriving.pop(slot) if slot in self._arriving else self._pages.pop(slot)
            for slot in slots
        ]
        return jax.device_put(pages, [self._there] * len(pages))

    def _settle_oldest(self) -> None:
        slot, page = next(iter(self._arriving.items()))
        self._pages[slot] = page.block_until_ready() if self._locked else np.asarray(page)
        del self._arriving[slot]


def _kept_sharding(sharding: NamedSharding) -> NamedSharding:
    """Return how a page that lies so on its devices is kept: page-locked, where it can be."""
    everywhere = all(
        PAGE_LOCKED in {memory.kind for memory in device.addressable_memories()}
        for device in sharding.device_set
    )
    return sharding.with_memory_kind(PAGE_LOCKED) if everywhere else sharding
