"""Which full pages can be found at which worker, in its pool or in host memory?

As far as the coordinator has heard: workers tell what comes and what goes, in order, so the mirror
is exact but for what is on its way.
An eviction shows up as a shorter cached prefix, and routing follows by itself.

By name and not by worker: in a large fleet few workers hold anything of a prompt, and the others
need not be asked.
"""

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np

from serving.messages import Tier, WorkerId


class PageMirror:
    """The names of all workers' findable full pages. A set of workers is an integer, a bit each."""

    def __init__(self, page_size: int) -> None:
        """Start without workers."""
        self._page_size = page_size
        self._holders: dict[Tier, dict[bytes, int]] = {tier: {} for tier in Tier}
        self._bits: dict[WorkerId, int] = {}
        self._workers: list[WorkerId] = []  # by the place of their bits; some are gone

    def join(self, worker: WorkerId) -> None:
        """A worker is there, and nothing can be found at it yet."""
        taken = sum(self._bits.values())
        bit = ~taken & (taken + 1)  # the lowest that is free
        place = bit.bit_length() - 1
        self._bits[worker], self._workers[place : place + 1] = bit, [worker]

    def leave(self, worker: WorkerId) -> None:
        """A worker is gone, with all that could be found there; no effect if it was not there."""
        if worker in self._bits:
            for tier in Tier:
                self.change(worker, tier, (), self.names(worker, tier))
            del self._bits[worker]

    def change(
        self, worker: WorkerId, tier: Tier, added: Sequence[bytes], removed: Sequence[bytes]
    ) -> None:
        """Take what a worker told of one of its tiers."""
        holders, bit = self._holders[tier], self._bits[worker]
        for name in removed:
            left = holders.get(name, 0) & ~bit
            if left:
                holders[name] = left
            else:
                holders.pop(name, None)
        for name in added:
            holders[name] = holders.get(name, 0) | bit

    def names(self, worker: WorkerId, tier: Tier) -> list[bytes]:
        """List what can be found in one tier of a worker, which takes a look at all names."""
        bit = self._bits[worker]
        return [name for name, holders in self._holders[tier].items() if holders & bit]

    def cached_lens(self, names: Sequence[bytes]) -> dict[WorkerId, int]:
        """Count the leading tokens of a prompt that workers' full pages hold, if they hold any.

        In either tier.
        `names` are the chained names of the prompt's pages (prefix.chain), the root first.
        """
        lens: dict[WorkerId, int] = {}
        holding, held = -1, 0  # everybody, so far
        pool, host = self._holders[Tier.POOL], self._holders[Tier.HOST]
        for name in islice(names, 1, None):
            on = holding & (pool.get(name, 0) | (host.get(name, 0) if host else 0))
            if on != holding:
                self._note(lens, holding & ~on, held)
                holding = on
                if not on:
                    break
            held += 1
        self._note(lens, holding, held)
        return lens

    def on_host_lens(
        self, names: Sequence[bytes], cached_lens: Mapping[WorkerId, int]
    ) -> dict[WorkerId, int]:
        """Count those of the `cached_lens` of a prompt that workers have in host memory alone.

        Of those that have any. All workers are looked at together, since most have none.
        """
        pool, host = self._holders[Tier.POOL], self._holders[Tier.HOST]
        if not host or not cached_lens:
            return {}
        found = names[1 : max(cached_lens.values()) // self._page_size + 1]
        some = 0
        for name in found:
            if on := host.get(name, 0):
                some |= on & ~pool.get(name, 0)
        lens: dict[WorkerId, int] = {}
        for worker in self._named(some):
            bit, pages = self._bits[worker], cached_lens.get(worker, 0) // self._page_size
            if fetched := sum(not pool.get(name, 0) & bit for name in islice(found, pages)):
                lens[worker] = fetched * self._page_size
        return lens

    def _note(self, lens: dict[WorkerId, int], workers: int, pages: int) -> None:
        """Note what each of a set of workers holds: of a shared beginning these are very many."""
        if pages:
            lens.update(dict.fromkeys(self._named(workers), pages * self._page_size))

    def _named(self, workers: int) -> list[WorkerId]:
        """List a set of workers."""
        if not workers:
            return []
        size = (len(self._workers) + 7) // 8
        bits = np.frombuffer(workers.to_bytes(size, "little"), np.uint8)
        places = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
        return [self._workers[place] for place in places]
