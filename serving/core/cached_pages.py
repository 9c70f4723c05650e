"""Which cached page is evicted next? The pages that no task holds, in the groups that left them.

A group is whatever released its pages together, a session as a rule. Without a ranking the page
released longest ago goes first, whatever its group. With one:

- pages that were left without a group go before all others, then the groups as ranked;
- within a group the page released longest ago goes first: tails before heads (PagePool.release);
- a page that another cached page continues stays until that one is gone, whatever group either is
  in. A prefix that several sessions share, a system prompt say, thus outlives all of them but the
  last, and no page is kept that can no longer be found by its prefix.

A ranking serves for `every` evictions or until it is used up, so that its cost is spread over them;
between two rankings a group that was left more pages is spared: it has just been of use.
Knows nothing of tasks, tokens or time.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

Group = Hashable
Rank = Callable[[Mapping[Group, int]], Iterable[Group]]
"""Takes the number of cached pages of each group, the longest untouched group first; returns the
groups in the order to evict them. One that it leaves out comes after those that it names."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """How groups are ranked, and for how many evictions a ranking serves."""

    rank: Rank
    every: int

    def __post_init__(self) -> None:
        """Raise ValueError unless a ranking serves for one eviction at least."""
        if self.every < 1:
            raise ValueError(f"a ranking serves for at least one eviction, not {self.every}")


class Left(NamedTuple):
    """How a page was left: by whom, and which names it bears and continues."""

    page: int
    group: Group | None
    name: bytes | None
    parent: bytes | None


LeftPage = tuple[int, bytes | None, bytes | None]
"""A page that is let go of, its name, and the name of the prefix that it continues."""


class CachedPages:
    """The only writer of the order of eviction."""

    def __init__(self, ranking: Ranking | None) -> None:
        """Start empty."""
        self._ranking = ranking
        self._left: OrderedDict[int, Left] = OrderedDict()  # oldest release first
        self._groups: OrderedDict[Group | None, OrderedDict[int, None]] = OrderedDict()
        self._continued: dict[bytes, int] = {}  # name -> cached pages that continue it
        self._touched: set[Group | None] = set()  # groups left more pages since the last ranking
        self._next: Iterator[int] = iter(())
        self._evictions = 0  # since the last ranking

    def __len__(self) -> int:
        """Count the cached pages."""
        return len(self._left)

    def pages(self) -> set[int]:
        """Return all cached pages."""
        return set(self._left)

    @property
    def groups(self) -> Collection[Group | None]:
        """Those that have left pages which are cached."""
        return self._groups.keys()

    def add(self, pages: Sequence[LeftPage], group: Group | None) -> None:
        """Cache pages that `group` has left, one at least; the first is evicted first."""
        own = self._groups.setdefault(group, OrderedDict())
        self._groups.move_to_end(group)
        self._touched.add(group)
        left, continued = self._left, self._continued
        for page, name, parent in pages:
            left[page] = Left(page, group, name, parent)
            own[page] = None
            if parent is not None:
                continued[parent] = continued.get(parent, 0) + 1

    def discard(self, page: int) -> None:
        """Take a page out, if it is here."""
        left = self._left.pop(page, None)
        if left is None:
            return
        group = self._groups[left.group]
        del group[page]
        if not group:
            del self._groups[left.group]
            self._touched.discard(left.group)
        if left.parent is not None:
            self._continued[left.parent] -= 1
            if not self._continued[left.parent]:
                del self._continued[left.parent]

    def evict(self) -> Left:
        """Take out the page that is worth least; returns how it had been left.

        Raises StopIteration if there is none.
        """
        page = next(iter(self._left)) if self._ranking is None else self._least(self._ranking)
        left = self._left[page]
        self.discard(page)
        return left

    def clear(self) -> list[int]:
        """Take out all pages; returns them, oldest release first."""
        pages = list(self._left)
        for page in pages:
            self.discard(page)
        return pages

    def check(self, names: Mapping[int, bytes | None]) -> None:
        """Raise AssertionError unless groups, pages and their `names` agree."""
        assert {page: left.name for page, left in self._left.items()} == names, "a name is stale"
        grouped = {page: group for group, pages in self._groups.items() for page in pages}
        assert grouped == {p: left.group for p, left in self._left.items()}, "groups disagree"
        assert all(self._groups.values()), "an empty group is kept"
        assert self._touched <= self._groups.keys(), "a group that is gone counts as touched"
        counted: dict[bytes, int] = {}
        for left in self._left.values():
            if left.parent is not None:
                counted[left.parent] = counted.get(left.parent, 0) + 1
        assert counted == self._continued, "continuations are miscounted"

    def _least(self, ranking: Ranking) -> int:
        page = next(self._next, None) if self._evictions < ranking.every else None
        if page is None:
            self._next = self._walk(ranking.rank)
            self._evictions = 0
            page = next(self._next)
        self._evictions += 1
        return page

    def _walk(self, rank: Rank) -> Iterator[int]:
        """Rank the groups once and yield what may be evicted, as long as the ranking holds."""
        self._touched.clear()
        counts = {g: len(pages) for g, pages in self._groups.items() if g is not None}
        for group in (None, *rank(counts), *counts):
            for page in tuple(self._groups.get(group, ())):
                if group in self._touched:
                    break
                left = self._left.get(page)
                if left is not None and left.group == group and not self._is_continued(left):
                    yield page

    def _is_continued(self, left: Left) -> bool:
        return left.name is not None and left.name in self._continued
