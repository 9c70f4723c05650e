"""Which full KV pages have a copy in host memory, and in which slot?

The accounting of offloaded pages (`--host-kv-gib`): slots hold page contents, names are those of
core/prefix. Least recently used names give way. Holds no arrays, does no I/O, knows neither tasks
nor the pool; the caller copies.

A slot is valid from the moment it is handed out, because copies of one worker run in the order they
were dispatched (ARCHITECTURE.md): a fetch that is dispatched after the offer reads what it brought,
and one dispatched before a later offer reads what was there before. So a run that was found must be
fetched before the next page is offered. A copy that failed is dropped.
"""

from collections import OrderedDict
from collections.abc import Container, Sequence


class HostStore:
    """The only writer of one worker's host slots."""

    def __init__(self, *, capacity: int) -> None:
        """Make a store of `capacity` pages. Raises ValueError if that is negative."""
        if capacity < 0:
            raise ValueError(f"a host store holds no fewer than 0 pages, not {capacity}")
        self.capacity = capacity
        self._fresh = 0  # the first slot that was never handed out
        self._free: list[int] = []
        self._slot_of: OrderedDict[bytes, int] = OrderedDict()  # least recently used first

    def __len__(self) -> int:
        """Count the pages stored."""
        return len(self._slot_of)

    def offer(self, name: bytes, keep: Container[int]) -> int | None:
        """Return the slot to copy a page into; None if it has one or there is no room at all.

        The slots `keep` are about to be fetched and do not give way.

        Offer the pages of a prompt last to first: what is offered last stays longest, and a page
        without those before it cannot be used.
        """
        if name in self._slot_of:
            self._slot_of.move_to_end(name)
            return None
        if self._free:
            slot = self._free.pop()
        elif self._fresh < self.capacity:
            slot = self._fresh
            self._fresh += 1
        elif self._slot_of and next(iter(self._slot_of.values())) not in keep:
            _, slot = self._slot_of.popitem(last=False)
        else:
            return None
        self._slot_of[name] = slot
        return slot

    def find(self, names: Sequence[bytes], start: int) -> list[int]:
        """Return the slots of `names[start]` and as many of those that follow as are here in a row.

        They count as used, the first of them last.
        """
        slots: list[int] = []
        for name in names[start:]:
            slot = self._slot_of.get(name)
            if slot is None:
                break
            slots.append(slot)
        for name in reversed(names[start : start + len(slots)]):
            self._slot_of.move_to_end(name)
        return slots

    def drop(self, name: bytes) -> None:
        """Forget a page, if it is here."""
        slot = self._slot_of.pop(name, None)
        if slot is not None:
            self._free.append(slot)

    def check(self) -> None:
        """Raise AssertionError unless every slot is free or holds one page."""
        slots = sorted([*self._free, *self._slot_of.values()])
        assert slots == list(range(self._fresh)), "a slot is lost or holds two pages"
