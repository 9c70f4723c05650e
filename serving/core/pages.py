"""Who holds which KV page of one worker? The allocator and its prefix index.

Every page but page 0 is in exactly one place at any time:

    free      nothing in it is worth keeping
    cached    referenced by no task, but named: a later prompt with this prefix may take it
    held      referenced by one task or more

Page 0 is the write-off page: padding writes go there and it is never handed out. A full page gets
the chained hash of its tokens as its name and is never written again. A part-filled page may be
kept under its parent's name; it can be taken by one task only, which goes on writing it.
Knows nothing of tasks, workers or time. Which cached page goes first: core/cached_pages.
"""

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass

from serving.core.cached_pages import CachedPages, Group, Left, LeftPage, Ranking
from serving.core.name_changes import NameChanges


@dataclass(frozen=True, slots=True)
class Match:
    """How much of a prompt the pool holds: whole pages, then perhaps a part of one more.

    `idle` counts those of the pages that no task holds: taking them makes room scarcer.
    """

    full: tuple[int, ...]
    tail: int | None
    cached_len: int
    idle: int

    @property
    def num_pages(self) -> int:
        """Pages that need not be allocated."""
        return len(self.full) + (self.tail is not None)


NOTHING = Match(full=(), tail=None, cached_len=0, idle=0)


class PagePool:
    """The only writer of one worker's page accounting."""

    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int,
        ranking: Ranking | None = None,
        on_evict: Callable[[Left], None] | None = None,
    ) -> None:
        """Make a pool of `num_pages` pages, page 0 included.

        `changes` of names are for a mirror that is to know all that can be found.
        With a `ranking` cached pages are evicted by the value of the session that left them, else
        least recently released first. `on_evict` is told of every page evicted.
        """
        self._on_evict = on_evict
        self.num_pages = num_pages
        self.page_size = page_size
        self._free = list(range(num_pages - 1, 0, -1))
        self._holders = [0] * num_pages
        self._cached = CachedPages(ranking)
        self._page_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}
        self._twin_of: dict[int, bytes] = {}  # held pages whose name another page bears
        self.changes = NameChanges()
        self._parts_of: dict[bytes, dict[tuple[int, ...], int]] = {}
        self._part_of: dict[int, tuple[bytes, tuple[int, ...]]] = {}  # parent and tokens

    @property
    def available(self) -> int:
        """Pages that `allocate` could hand out now."""
        return len(self._free) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Pages kept for a later prompt only."""
        return len(self._cached)

    @property
    def groups(self) -> Collection[Group | None]:
        """Those that have left pages which are kept for a later prompt."""
        return self._cached.groups

    @property
    def num_held(self) -> int:
        """Pages referenced by tasks."""
        return self.num_pages - 1 - self.available

    def match(self, names: Sequence[bytes], tokens: Sequence[int], limit: int) -> Match:
        """Find the longest held prefix of `tokens[:limit]`; changes nothing.

        `names` are the chained names of the prompt's pages (prefix.chain).
        """
        full: list[int] = []
        for name in names[1 : limit // self.page_size + 1]:
            page = self._page_of.get(name)
            if page is None:
                break
            full.append(page)
        cached_len = len(full) * self.page_size
        tail, tail_len = None, 0
        if parts := self._parts_of.get(names[len(full)]):
            rest = tuple(tokens[cached_len : min(limit, cached_len + self.page_size)])
            # Only a part that is wholly wanted: taking it for a few of its tokens would cost the
            # conversation that left it there all of them.
            tail_len = next((n for n in range(len(rest), 0, -1) if rest[:n] in parts), 0)
            tail = parts.get(rest[:tail_len])
        idle = sum(not self._holders[page] for page in full) + (tail is not None)
        return Match(tuple(full), tail, cached_len + tail_len, idle)

    def left_by(self, holdings: Iterable[Sequence[int]], but: Container[int]) -> int:
        """Count the pages that nobody would hold once these holders had let go of theirs.

        Those of `but` are not counted.
        """
        leave = Counter(page for pages in holdings for page in pages if page not in but)
        return sum(self._holders[page] == count for page, count in leave.items())

    def take(self, match: Match) -> list[int]:
        """Hold the pages of a match found since the pool last changed; returns them in order."""
        for page in match.full:
            self._hold(page)
        if match.tail is None:
            return list(match.full)
        self._forget(match.tail)
        self._hold(match.tail)
        return [*match.full, match.tail]

    def allocate(self, count: int) -> list[int] | None:
        """Hold `count` blank pages, evicting cached ones once none is free; None if too few.

        Costs constant time a page, and a ranking now and then (core/cached_pages).
        """
        if count > self.available:
            return None
        pages: list[int] = []
        for _ in range(count):
            if self._free:
                page = self._free.pop()
            else:
                left = self._cached.evict()
                page = left.page
                if self._on_evict is not None:
                    self._on_evict(left)
                self._forget(page)
            self._holders[page] = 1
            pages.append(page)
        return pages

    def name(self, page: int, name: bytes) -> None:
        """Make a full page findable. If another page has the name already, that one stays it."""
        if name not in self._page_of:
            self._page_of[name] = page
            self._name_of[page] = name
            self.changes.added(name)
        elif self._page_of[name] != page:
            self._twin_of[page] = name

    def keep_part(self, page: int, parent: bytes, tokens: Sequence[int]) -> None:
        """Make a part-filled page findable under its parent's name, unless another task holds it.

        Its last holder must release it next. Where the same is kept already, the page is blank from
        then on: who asks the same again and again leaves no more than who asks it once.
        """
        part = tuple(tokens)
        if self._holders[page] == 1 and part not in self._parts_of.get(parent, ()):
            self._parts_of.setdefault(parent, {})[part] = page
            self._part_of[page] = parent, part

    def release(self, pages: Sequence[int], group: Group | None = None) -> None:
        """Let go of pages given in prompt order; later ones are evicted before earlier ones.

        `group` is the session that leaves them. A full page whose name another page bears is
        blank from here on, unless that other one was evicted meanwhile.
        """
        kept: list[LeftPage] = []
        holders, name_of, twin_of = self._holders, self._name_of, self._twin_of
        for index in range(len(pages) - 1, -1, -1):
            page = pages[index]
            holders[page] -= 1
            if holders[page]:
                continue
            if page in twin_of and (twin := twin_of.pop(page)) not in self._page_of:
                self.name(page, twin)
            name = name_of.get(page)
            if name is not None or page in self._part_of:
                kept.append((page, name, self._content_name(pages[index - 1]) if index else None))
            else:
                self._free.append(page)
        if kept:
            self._cached.add(kept, group)

    def clear_cached(self) -> int:
        """Forget every page that no task holds; returns how many."""
        dropped = self._cached.clear()
        for page in dropped:
            self._forget(page)
            self._free.append(page)
        return len(dropped)

    def check(self) -> None:
        """Raise AssertionError unless every page is in exactly one place and every name is true."""
        held = [page for page, holders in enumerate(self._holders) if holders]
        cached = self._cached.pages()
        places = sorted([*self._free, *cached, *held])
        assert places == list(range(1, self.num_pages)), "a page is lost, shared or page 0"
        assert all(holders >= 0 for holders in self._holders), "a page was freed twice"
        assert {p: n for n, p in self._page_of.items()} == self._name_of, "names disagree"
        parts = {p: (parent, t) for parent, ps in self._parts_of.items() for t, p in ps.items()}
        assert parts == self._part_of, "part-filled pages disagree"
        assert all(self._parts_of.values()), "a parent without parts is kept"
        assert not (self._name_of.keys() & self._part_of.keys()), "a full page is kept as a part"
        assert self._part_of.keys() <= cached, "a part-filled page is held"
        findable = self._name_of.keys() | self._part_of.keys()
        assert cached <= findable, "a cached page cannot be found"
        assert not (findable & set(self._free)), "a free page can be found"
        assert self._twin_of.keys() <= set(held) - self._name_of.keys(), "a twin is not a held page"
        self._cached.check({page: self._name_of.get(page) for page in cached})
        self.changes.check(self._page_of.keys())

    def check_holders(self, holders: dict[int, int]) -> None:
        """Raise AssertionError unless each page is held as often as its holders say."""
        counted = {page: count for page, count in enumerate(self._holders) if count}
        assert counted == holders, "a page is held by nobody, or by one that does not know it"

    def _hold(self, page: int) -> None:
        self._cached.discard(page)
        self._holders[page] += 1

    def _content_name(self, page: int) -> bytes | None:
        """Name what is in a page, be it the page found under that name or its twin."""
        return self._name_of.get(page) or self._twin_of.get(page)

    def _forget(self, page: int) -> None:
        self._twin_of.pop(page, None)
        name = self._name_of.pop(page, None)
        if name is not None:
            del self._page_of[name]
            self.changes.removed(name)
        left = self._part_of.pop(page, None)
        if left is not None:
            parent, part = left
            del self._parts_of[parent][part]
            if not self._parts_of[parent]:
                del self._parts_of[parent]
