"""Which full KV pages have a copy in host memory, and in which slot?

The accounting of offloaded pages (`--host-kv-gib`): slots hold page contents, names are those of
core/prefix. What is fetched leaves, since it is in the pool again: so both together hold as much as
they can. What has been here longest gives way, but for what is about to be fetched. Holds no
arrays, does no I/O, knows neither tasks nor the pool; the caller copies.

A slot is valid from the moment it is handed out, because copies of one worker run in the order they
were dispatched (ARCHITECTURE.md): a fetch that is dispatched after the offer reads what it brought,
and one dispatched before a later offer reads what was there before. So the slots of what is taken
out are handed out again only once the caller has said that its fetch is dispatched.
"""

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence

from serving.core.cached_pages import Group
from serving.core.name_changes import NameChanges


class HostStore:
    """The only writer of one worker's host slots.

    `changes` of names are for a mirror that is to know all that can be found.
    """

    def __init__(self, *, capacity: int) -> None:
        """Make a store of `capacity` pages. Raises ValueError if that is negative."""
        if capacity < 0:
            raise ValueError(f"a host store holds no fewer than 0 pages, not {capacity}")
        self.capacity = capacity
        self.changes = NameChanges()
        self._fresh = 0  # the first slot that was never handed out
        self._free: list[int] = []
        self._taken: set[int] = set()  # for a fetch that is yet to be dispatched
        self._kept: OrderedDict[bytes, tuple[int, Group | None]] = OrderedDict()  # oldest first
        self._pages_of: Counter[Group] = Counter()

    def __len__(self) -> int:
        """Count the pages stored."""
        return len(self._kept)

    def __contains__(self, name: bytes) -> bool:
        """Tell whether a page is here."""
        return name in self._kept

    @property
    def groups(self) -> Collection[Group]:
        """Those that had left pages which are here."""
        return self._pages_of.keys()

    def offer(self, name: bytes, group: Group | None) -> int | None:
        """Return the slot to copy a page into; None if it has one or there is no room at all.

        `group` had left the page. Offer those of a prompt last to first: what is offered last stays
        longest, and a page without those before it cannot be used.
        """
        if name in self._kept:
            slot = self._take_out(name)
            self._put(name, slot, group)
            return None
        if self._free:
            slot = self._free.pop()
        elif self._fresh < self.capacity:
            slot = self._fresh
            self._fresh += 1
        elif self._kept:
            slot = self._take_out(next(iter(self._kept)))
        else:
            return None
        self._put(name, slot, group)
        return slot

    def find(self, names: Sequence[bytes]) -> int:
        """Count how many of these pages are here in a row, from the first on."""
        return next((i for i, name in enumerate(names) if name not in self._kept), len(names))

    def take(self, names: Sequence[bytes]) -> list[int]:
        """Take pages out that are here; their slots stay as they are.

        Until they are `dispatched`, or the pages are `put_back`.
        """
        slots = [self._take_out(name) for name in names]
        self._taken.update(slots)
        return slots

    def dispatched(self, slots: Collection[int]) -> None:
        """What was taken out of these is on its way: they may be handed out again."""
        self._taken.difference_update(slots)
        self._free += slots

    def put_back(self, name: bytes, slot: int, group: Group | None) -> None:
        """A page that was taken out is not fetched: it is here again, unless another copy is."""
        self._taken.remove(slot)
        if name in self._kept:
            self._free.append(slot)
        else:
            self._put(name, slot, group)

    def clear(self) -> None:
        """Forget all pages."""
        self._free += [self._take_out(name) for name in list(self._kept)]

    def check(self) -> None:
        """Raise AssertionError unless every slot is free, taken, or holds one page."""
        held = [slot for slot, _ in self._kept.values()]
        slots = sorted([*self._free, *self._taken, *held])
        assert slots == list(range(self._fresh)), "a slot is lost or holds two pages"
        groups = Counter(group for _, group in self._kept.values() if group is not None)
        assert groups == self._pages_of, "pages are counted for who did not leave them"
        self.changes.check(self._kept.keys())

    def _put(self, name: bytes, slot: int, group: Group | None) -> None:
        self._kept[name] = slot, group
        if group is not None:
            self._pages_of[group] += 1
        self.changes.added(name)

    def _take_out(self, name: bytes) -> int:
        slot, group = self._kept.pop(name)
        if group is not None:
            self._pages_of[group] -= 1
            if not self._pages_of[group]:
                del self._pages_of[group]
        self.changes.removed(name)
        return slot
