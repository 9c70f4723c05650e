"""The allocator against a model: what is held, by how many, and which pages a prompt may take."""

from itertools import takewhile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.core.cached_pages import Ranking
from serving.core.pages import NOTHING, PagePool
from serving.core.prefix import chain

PAGE_SIZE = 3
PAGES = 9


def names_of(tokens: list[int], salt: str = "") -> list[bytes]:
    return chain(salt, tokens, PAGE_SIZE)


def find(pool: PagePool, tokens: list[int]):
    return pool.match(names_of(tokens), tokens, len(tokens) - 1)


def keep(pool: PagePool, tokens: list[int], group: str | None = None) -> list[int]:
    """Hold pages for `tokens`, name them all and let go: a finished conversation."""
    names = names_of(tokens)
    pages = pool.allocate(-(-len(tokens) // PAGE_SIZE))
    assert pages is not None
    full = len(tokens) // PAGE_SIZE
    for index in range(full):
        pool.name(pages[index], names[index + 1])
    if len(tokens) % PAGE_SIZE:
        pool.keep_part(pages[full], names[full], tokens[full * PAGE_SIZE :])
    pool.release(pages, group)
    return pages


def new_pool() -> PagePool:
    return PagePool(num_pages=PAGES, page_size=PAGE_SIZE)


def ranked_pool(every: int = 1) -> PagePool:
    """Make a pool that evicts group a before b before c."""
    ranking = Ranking(lambda counts: sorted(counts, key=str), every)
    return PagePool(num_pages=PAGES, page_size=PAGE_SIZE, ranking=ranking)


def evict(pool: PagePool, count: int) -> list[int]:
    """Allocate what is free, then `count` pages more; returns those, in order of eviction."""
    pool.allocate(pool.available - pool.num_cached)
    return [page for _ in range(count) for page in pool.allocate(1) or []]


def test_page_0_is_never_handed_out():
    pool = new_pool()
    pages = pool.allocate(PAGES - 1)
    assert sorted(pages or []) == list(range(1, PAGES))
    assert pool.allocate(1) is None


def test_a_kept_conversation_is_found_down_to_its_last_token():
    pool = new_pool()
    pages = keep(pool, [1, 2, 3, 4, 5])
    match = find(pool, [1, 2, 3, 4, 5, 6])
    assert (match.full, match.tail, match.cached_len, match.idle) == ((pages[0],), pages[1], 5, 2)
    assert match.num_pages == 2


def test_the_last_token_of_a_prompt_is_always_left_to_run():
    pool = new_pool()
    keep(pool, [1, 2, 3, 4, 5, 6])
    assert find(pool, [1, 2, 3, 4, 5, 6]).cached_len == 3
    assert find(pool, [1, 2, 3]).cached_len == 0


def test_a_part_is_left_to_its_own_conversation_unless_all_of_it_is_wanted():
    pool = new_pool()
    keep(pool, [1, 2, 3, 4, 5])
    assert find(pool, [1, 2, 3, 4, 9, 9]).cached_len == 3
    assert find(pool, [1, 2, 3, 4, 5, 9]).cached_len == 5


def test_the_longest_of_several_parts_is_found():
    pool = new_pool()
    keep(pool, [1, 2, 3, 4])
    pages = keep(pool, [1, 2, 3, 4, 5])
    assert find(pool, [1, 2, 3, 4, 5, 6]).tail == pages[1]


def test_the_same_part_is_kept_once_however_often_it_is_left():
    pool = new_pool()
    first = keep(pool, [1, 2, 3, 4])
    for _ in range(PAGES):
        keep(pool, [1, 2, 3, 4])
    pool.check()
    assert pool.num_cached == 2
    assert find(pool, [1, 2, 3, 4, 5]).tail == first[1]
    pool.take(find(pool, [1, 2, 3, 4, 5]))
    again = keep(pool, [1, 2, 3, 4])  # the first is no longer that
    assert find(pool, [1, 2, 3, 4, 5]).tail == again[1]


def test_a_part_taken_by_one_cannot_be_taken_by_another():
    pool = new_pool()
    pages = keep(pool, [1, 2, 3, 4, 5])
    prompt = [1, 2, 3, 4, 5, 6]
    assert pool.take(find(pool, prompt)) == pages
    again = find(pool, prompt)
    assert (again.full, again.tail, again.idle) == ((pages[0],), None, 0)
    pool.check()


def test_a_page_that_another_task_holds_is_not_kept_as_a_part():
    pool = new_pool()
    keep(pool, [1, 2, 3])
    first = pool.take(find(pool, [1, 2, 3, 4]))
    second = pool.take(find(pool, [1, 2, 3, 5]))
    pool.keep_part(first[0], names_of([])[0], [1, 2])
    pool.release(first)
    pool.check()
    assert find(pool, [1, 2, 9]) == NOTHING
    pool.release(second)
    pool.check()
    assert find(pool, [1, 2, 9]) == NOTHING


def test_other_tokens_or_another_salt_find_nothing():
    pool = new_pool()
    keep(pool, [1, 2, 3, 4])
    assert find(pool, [9, 2, 3, 4]) == NOTHING
    assert pool.match(names_of([1, 2, 3, 4], "x"), [1, 2, 3, 4], 3) == NOTHING


def test_a_shared_page_is_free_only_when_the_last_holder_lets_go():
    pool = new_pool()
    keep(pool, [1, 2, 3])
    first = pool.take(find(pool, [1, 2, 3, 4]))
    second = pool.take(find(pool, [1, 2, 3, 5]))
    assert first == second
    pool.release(first)
    assert pool.num_held == 1
    pool.release(second)
    assert (pool.num_held, pool.num_cached) == (0, 1)


def test_the_longest_released_go_first_and_tails_before_heads():
    pool = new_pool()
    old = keep(pool, [1, 2, 3, 4, 5, 6])
    new = keep(pool, [7, 8, 9, 10, 11, 12])
    pool.allocate(PAGES - 1 - 4)
    assert [pool.allocate(1) for _ in range(4)] == [[old[1]], [old[0]], [new[1]], [new[0]]]


def test_blank_pages_are_used_before_cached_ones():
    pool = new_pool()
    keep(pool, [1, 2, 3])
    pool.allocate(PAGES - 2)
    assert find(pool, [1, 2, 3, 4]).cached_len == 3


def test_using_a_page_again_saves_it_from_eviction():
    pool = new_pool()
    keep(pool, [1, 2, 3])
    keep(pool, [7, 8, 9])
    pool.release(pool.take(find(pool, [1, 2, 3, 4])))
    pool.allocate(PAGES - 2)
    assert find(pool, [1, 2, 3, 4]).cached_len == 3
    assert find(pool, [7, 8, 9, 4]).cached_len == 0


def test_a_page_with_a_name_that_exists_is_not_kept():
    pool = new_pool()
    first = keep(pool, [1, 2, 3])
    keep(pool, [1, 2, 3])
    assert find(pool, [1, 2, 3, 4]).full == tuple(first)
    assert pool.num_cached == 1
    pool.check()


def test_sessions_worth_least_are_evicted_first_tails_before_heads():
    pool = ranked_pool()
    dear = keep(pool, [1, 2, 3, 4, 5, 6, 7], "b")
    cheap = keep(pool, [7, 8, 9, 10, 11, 12], "a")
    assert evict(pool, 5) == [cheap[1], cheap[0], dear[2], dear[1], dear[0]]


def test_a_page_that_is_held_again_is_of_the_session_that_lets_go_last():
    pool = ranked_pool()
    first = keep(pool, [1, 2, 3], "a")
    other = keep(pool, [7, 8, 9], "b")
    pages = pool.take(find(pool, [1, 2, 3, 4]))
    pool.check()
    pool.release(pages, "c")
    assert evict(pool, 2) == [*other, *first]


def test_a_page_that_is_held_is_not_evicted_however_cheap_its_session():
    pool = ranked_pool()
    keep(pool, [1, 2, 3, 4, 5, 6], "a")
    pool.take(find(pool, [1, 2, 3, 0]))
    keep(pool, [7, 8, 9], "b")
    evict(pool, 2)
    assert pool.allocate(1) is None
    assert find(pool, [1, 2, 3, 0]).cached_len == 3


def test_a_system_prompt_outlives_the_cheap_session_that_used_it_last():
    pool = ranked_pool()
    system = [1, 2, 3]
    keep(pool, [*system, 4, 5, 6], "b")
    held = pool.take(find(pool, [*system, 7, 8, 9]))
    held += pool.allocate(1) or []
    pool.name(held[1], names_of([*system, 7, 8, 9])[2])
    pool.release(held, "a")
    evict(pool, 1)
    assert find(pool, [*system, 4, 5, 6, 0]).cached_len == 6
    assert find(pool, [*system, 7, 8, 9, 0]).cached_len == 3
    evict(pool, 1)
    assert find(pool, [*system, 4, 5, 6, 0]).cached_len == 3


def test_a_twin_takes_the_name_if_its_namesake_is_gone():
    pool = new_pool()
    twin = pool.allocate(1) or []
    keep(pool, [1, 2, 3])
    pool.name(twin[0], names_of([1, 2, 3])[1])
    evict(pool, 1)
    assert find(pool, [1, 2, 3, 4]) == NOTHING
    pool.release(twin)
    assert find(pool, [1, 2, 3, 4]).full == tuple(twin)
    pool.check()


def test_a_page_is_not_evicted_before_one_that_continues_its_twin():
    pool = ranked_pool()
    pages = pool.allocate(2) or []
    (namesake,) = keep(pool, [1, 2, 3], "a")
    pool.name(pages[0], names_of([1, 2, 3])[1])
    pool.name(pages[1], names_of([1, 2, 3, 4, 5, 6])[2])
    pool.release(pages, "b")
    assert evict(pool, 2) == [pages[1], namesake]


def test_a_mirror_hears_of_full_pages_that_can_be_found_and_no_others():
    pool = new_pool()
    names = names_of([1, 2, 3, 4, 5, 6])
    keep(pool, [1, 2, 3, 4, 5, 6, 7])
    assert pool.changes.take() == ((names[1], names[2]), ())
    evict(pool, 2)
    assert pool.changes.take() == ((), (names[2],))
    assert pool.changes.take() == ((), ())


def test_clearing_the_cache_spares_what_is_held():
    pool = new_pool()
    keep(pool, [1, 2, 3, 4, 5, 6, 7])
    held = pool.take(find(pool, [1, 2, 3, 0]))
    assert pool.clear_cached() == 2
    assert (pool.num_held, pool.num_cached) == (len(held), 0)
    assert find(pool, [1, 2, 3, 4, 5, 6, 7]).cached_len == 3
    pool.check()


def test_check_sees_a_page_freed_twice():
    pool = new_pool()
    pages = pool.allocate(1) or []
    pool.release(pages)
    pool.release(pages)
    with pytest.raises(AssertionError):
        pool.check()


def test_check_holders_sees_a_page_nobody_knows():
    pool = new_pool()
    pool.allocate(1)
    with pytest.raises(AssertionError):
        pool.check_holders({})


TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=PAGE_SIZE * 4)


class Pool(RuleBasedStateMachine):
    """Tasks come, grow, write and leave. What each page holds is tracked on the side."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = self.make_pool()
        self.mirror: set[bytes] = set()
        self.tasks: list[tuple[list[int], list[int]]] = []  # tokens, pages
        self.content: dict[int, tuple[int, ...]] = {}  # page -> every token up to its last

    def make_pool(self) -> PagePool:
        return new_pool()

    @rule(tokens=TOKENS)
    def come(self, tokens: list[int]):
        match = find(self.pool, tokens)
        missing = -(-len(tokens) // PAGE_SIZE) - match.num_pages
        before = self.pool.available
        if missing > before - match.idle:
            return
        pages = self.pool.take(match)
        new = self.pool.allocate(missing)
        assert new is not None
        assert len(new) == missing
        assert self.pool.available == before - match.idle - missing
        assert match.cached_len < len(tokens)
        for index, page in enumerate(pages):
            known = tokens[: min((index + 1) * PAGE_SIZE, match.cached_len)]
            assert list(self.content[page][: len(known)]) == known, "a page under a wrong prefix"
        pages += new
        assert len(set(pages)) == len(pages)
        for index in range(match.cached_len // PAGE_SIZE, len(pages)):
            assert not any(pages[index] in other for _, other in self.tasks), "a shared write"
            self.content[pages[index]] = tuple(tokens[: (index + 1) * PAGE_SIZE])
        for index in range(len(match.full), len(tokens) // PAGE_SIZE):
            self.pool.name(pages[index], names_of(tokens)[index + 1])
        self.tasks.append((tokens, pages))

    @precondition(lambda self: self.tasks)
    @rule(which=st.integers(0, 10), token=st.integers(0, 1))
    def grow(self, which: int, token: int):
        tokens, pages = self.tasks[which % len(self.tasks)]
        if not len(tokens) % PAGE_SIZE:
            new = self.pool.allocate(1)
            if new is None:
                assert self.pool.available == 0
                return
            pages += new
        tokens.append(token)
        self.content[pages[-1]] = tuple(tokens)
        if not len(tokens) % PAGE_SIZE:
            self.pool.name(pages[-1], names_of(tokens)[-1])

    @precondition(lambda self: self.tasks)
    @rule(
        which=st.integers(0, 10),
        keep_part=st.booleans(),
        group=st.sampled_from(["a", "b", "c", None]),
    )
    def leave(self, which: int, keep_part: bool, group: str | None):
        tokens, pages = self.tasks.pop(which % len(self.tasks))
        full = len(tokens) // PAGE_SIZE
        if keep_part and len(tokens) % PAGE_SIZE:
            self.pool.keep_part(pages[full], names_of(tokens)[full], tokens[full * PAGE_SIZE :])
        self.pool.release(pages, group)

    @rule()
    def clear(self):
        cached = self.pool.num_cached
        assert self.pool.clear_cached() == cached

    @rule()
    def mirror_asks(self):
        added, removed = self.pool.changes.take()
        assert not (self.mirror & set(added))
        assert self.mirror >= set(removed)
        self.mirror = (self.mirror | set(added)) - set(removed)
        for tokens in map(list, self.content.values()):
            names = names_of(tokens)
            told = list(takewhile(self.mirror.__contains__, names[1:]))
            assert len(self.pool.match(names, tokens, len(tokens)).full) == len(told)

    @invariant()
    def accounts_agree(self):
        self.pool.check()
        holders: dict[int, int] = {}
        for _, pages in self.tasks:
            for page in pages:
                holders[page] = holders.get(page, 0) + 1
        self.pool.check_holders(holders)
        assert self.pool.num_held == len(holders)


class RankedPool(Pool):
    """The same with eviction by groups, ranked anew for every few evictions."""

    def make_pool(self) -> PagePool:
        return ranked_pool(every=3)

    def teardown(self):
        """Once nobody holds anything, no page is left whose prefix is gone."""
        while self.tasks:
            self.leave(0, keep_part=True, group="a")
        self.mirror_asks()
        for tokens in map(list, self.content.values()):
            told = [name in self.mirror for name in names_of(tokens)[1:]]
            assert told == sorted(told, reverse=True)


SLOW = [HealthCheck.too_slow]
SETTINGS = settings(max_examples=60, stateful_step_count=30, suppress_health_check=SLOW)
TestPool = Pool.TestCase
TestPool.settings = SETTINGS
TestRankedPool = RankedPool.TestCase
TestRankedPool.settings = SETTINGS
