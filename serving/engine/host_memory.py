"""Where do KV pages lie that have left a worker's device? In host arrays, by slot.

Copies start when they are asked for and are read later: `keep` returns at once, and the device
array behind it lives until its content has arrived. One thread uses it.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

MAX_PENDING = 4
"""Copies that may be on their way before the oldest is waited for: each holds device memory."""


class HostMemory:
    """Pages [L, 2, K, page_size, H] in host slots; a slot keeps what was put there last."""

    def __init__(self) -> None:
        """Start empty; memory is taken as slots are used."""
        self._pages: dict[int, NDArray[Any]] = {}
        self._pending: list[tuple[jax.Array, tuple[int, ...]]] = []

    def keep(self, payload: jax.Array, slots: Sequence[int]) -> None:
        """Copy the first pages of a payload [L, n, 2, K, page_size, H] into slots."""
        payload.copy_to_host_async()
        self._pending.append((payload, tuple(slots)))
        if len(self._pending) > MAX_PENDING:
            self._settle(1)

    def stack(self, slots: Sequence[int]) -> NDArray[Any]:
        """Return the pages of slots as one payload. Raises KeyError for a slot never kept."""
        self._settle(len(self._pending))
        return np.stack([self._pages[slot] for slot in slots], axis=1)

    def _settle(self, count: int) -> None:
        """Take the oldest copies in. Each page is copied out, or it would keep all its payload."""
        for payload, slots in self._pending[:count]:
            arrived = np.asarray(payload)
            for i, slot in enumerate(slots):
                self._pages[slot] = arrived[:, i].copy()
        del self._pending[:count]
