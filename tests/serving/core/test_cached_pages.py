"""The order of eviction against a slow model that looks at everything each time."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.cached_pages import CachedPages, Group, Ranking


def by_letter(counts: Mapping[Group, int]) -> list[Group]:
    return sorted(counts, key=str)


def leave(cached: CachedPages, group: str | None, *pages: int, after: str = "") -> None:
    """Leave pages, tail first, as a chain that continues `after`. A page's name is its number."""
    parents = [after, *map(str, reversed(pages))]
    for index, page in enumerate(pages):
        parent = parents[len(pages) - 1 - index]
        cached.add([(page, str(page).encode(), parent.encode() or None)], group)


def evicted(cached: CachedPages, count: int) -> list[int]:
    return [cached.evict()[0] for _ in range(count)]


def ranked(every: int = 1) -> CachedPages:
    return CachedPages(Ranking(by_letter, every))


def test_without_a_ranking_the_longest_released_goes_whoever_left_it():
    cached = CachedPages(None)
    leave(cached, "b", 2, 1)
    leave(cached, "a", 4, 3)
    leave(cached, None, 5)
    assert evicted(cached, 5) == [2, 1, 4, 3, 5]


def test_groups_go_in_the_order_of_the_ranking_tails_first():
    cached = ranked()
    leave(cached, "b", 2, 1)
    leave(cached, "a", 4, 3)
    assert evicted(cached, 4) == [4, 3, 2, 1]


def test_what_nobody_in_particular_left_goes_first():
    cached = ranked()
    leave(cached, "a", 1)
    leave(cached, None, 2)
    assert evicted(cached, 2) == [2, 1]


def test_a_page_taken_out_leaves_its_group_for_the_one_that_leaves_it_next():
    cached = ranked()
    leave(cached, "a", 1)
    leave(cached, "b", 2)
    cached.discard(1)
    leave(cached, "c", 1)
    assert evicted(cached, 2) == [2, 1]


def test_a_shared_prefix_outlives_all_sessions_that_continue_it_but_the_last():
    cached = ranked()
    leave(cached, "b", 21, 20, after="10")
    leave(cached, "a", 30, 10)  # a left the shared page 10 last, and is worth least
    assert evicted(cached, 4) == [30, 21, 20, 10]


def test_a_ranking_sees_how_many_pages_each_group_has_the_longest_untouched_first():
    seen: list[list[tuple[Group, int]]] = []

    def rank(counts: Mapping[Group, int]) -> list[Group]:
        seen.append(list(counts.items()))
        return list(counts)

    cached = CachedPages(Ranking(rank, every=1))
    leave(cached, "b", 1)
    leave(cached, "a", 3, 2)
    leave(cached, "b", 4)
    leave(cached, None, 5)
    cached.evict()
    assert seen == [[("a", 2), ("b", 2)]]


def test_a_group_that_the_ranking_leaves_out_comes_last():
    cached = CachedPages(Ranking(lambda counts: ["b"], every=1))
    leave(cached, "a", 1)
    leave(cached, "b", 2)
    assert evicted(cached, 2) == [2, 1]


def test_a_ranking_serves_until_it_is_used_up():
    asked: list[int] = []

    def rank(counts: Mapping[Group, int]) -> list[Group]:
        asked.append(len(counts))
        return by_letter(counts)

    cached = CachedPages(Ranking(rank, every=100))
    leave(cached, "a", 2, 1)
    leave(cached, "b", 3)
    evicted(cached, 3)
    assert asked == [2]
    leave(cached, "c", 4)
    evicted(cached, 1)
    assert asked == [2, 1]


def test_a_ranking_serves_for_so_many_evictions_and_no_more():
    asked: list[int] = []

    def rank(counts: Mapping[Group, int]) -> list[Group]:
        asked.append(sum(counts.values()))
        return by_letter(counts)

    cached = CachedPages(Ranking(rank, every=2))
    leave(cached, "a", 5, 4, 3, 2, 1)
    evicted(cached, 5)
    assert asked == [5, 3, 1]


def test_a_group_left_more_pages_is_spared_until_the_next_ranking():
    cached = ranked(every=100)
    leave(cached, "a", 2, 1)
    leave(cached, "b", 4, 3)
    assert evicted(cached, 1) == [2]
    cached.discard(1)
    leave(cached, "a", 1)
    assert evicted(cached, 3) == [4, 3, 1]


def test_a_page_that_changed_hands_is_no_more_evicted_with_those_that_it_was_ranked_with():
    cached = ranked(every=100)
    leave(cached, "a", 2, 1)
    leave(cached, "b", 3)
    assert evicted(cached, 1) == [2]
    cached.discard(1)
    leave(cached, "c", 1)
    assert evicted(cached, 2) == [3, 1]


def test_clearing_takes_everything_out():
    cached = ranked()
    leave(cached, "a", 2, 1)
    leave(cached, None, 3)
    assert cached.clear() == [2, 1, 3]
    assert len(cached) == 0
    cached.check({})


def test_a_ranking_for_no_eviction_is_refused():
    with pytest.raises(ValueError, match="at least one eviction"):
        Ranking(by_letter, every=0)


def test_check_sees_a_name_that_changed_in_the_cache():
    cached = ranked()
    leave(cached, "a", 1)
    with pytest.raises(AssertionError, match="stale"):
        cached.check({1: b"2"})


# A page p > 0 continues page (p - 1) // 2: a tree, of which any part may be cached.
ACTS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 14), st.sampled_from(["a", "b", "c", None])),
        st.tuples(st.integers(0, 14), st.just("out")),
        st.just(("evict", "")),
    ),
    max_size=40,
)


class Slow:
    """Pages in order of release, each with its group."""

    def __init__(self) -> None:
        self.left: dict[int, str | None] = {}

    def may_go(self, page: int) -> bool:
        return not {2 * page + 1, 2 * page + 2} & self.left.keys()

    def least(self) -> int:
        groups = [None, *sorted({g for g in self.left.values() if g is not None})]
        return next(
            page
            for group in groups
            for page, left_by in self.left.items()
            if left_by == group and self.may_go(page)
        )


def carry_out(cached: CachedPages, acts: list[tuple], every: int) -> None:
    slow = Slow()
    for what, how in acts:
        if what == "evict":
            if slow.left:
                page, group, _, _ = cached.evict()
                assert group == slow.left[page]
                assert slow.may_go(page), "a page is evicted that another one continues"
                assert every > 1 or page == slow.least()
                del slow.left[page]
        elif how == "out":
            cached.discard(what)
            slow.left.pop(what, None)
        elif what not in slow.left:
            parent = str((what - 1) // 2).encode() if what else None
            cached.add([(what, str(what).encode(), parent)], how)
            slow.left[what] = how
        cached.check({page: str(page).encode() for page in slow.left})
        assert cached.pages() == slow.left.keys()
    while slow.left:
        page = cached.evict().page
        assert slow.may_go(page)
        del slow.left[page]
    cached.check({})


@given(ACTS)
def test_ranked_each_time_it_is_the_slow_models_choice(acts):
    carry_out(ranked(every=1), acts, every=1)


@given(ACTS, st.integers(2, 9))
def test_ranked_now_and_then_all_goes_in_the_end_and_no_continued_page_before_its_heirs(
    acts, every: int
):
    carry_out(ranked(every), acts, every)
