from collections import UserDict
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from serving.core.mirror import PageMirror
from serving.core.prefix import chain
from serving.messages import Tier, WorkerId

PROMPT = chain("", range(14), 4)  # the root and three pages
A, B, C = (WorkerId(name) for name in "abc")


def mirror(*workers: WorkerId) -> PageMirror:
    made = PageMirror(4)
    for worker in workers:
        made.join(worker)
    return made


def test_the_full_pages_of_a_prompt_count_up_to_the_first_that_is_missing():
    one = mirror(A, B)
    assert one.cached_lens(PROMPT) == {}
    one.change(A, Tier.POOL, PROMPT[1:3], ())
    assert one.cached_lens(PROMPT) == {A: 8}
    one.change(A, Tier.POOL, PROMPT[3:], ())
    one.change(B, Tier.POOL, PROMPT[1:2], ())
    assert one.cached_lens(PROMPT) == {A: 12, B: 4}


def test_an_eviction_shortens_what_is_cached():
    one = mirror(A, B)
    one.change(A, Tier.POOL, PROMPT[1:], ())
    one.change(B, Tier.POOL, PROMPT[1:], ())
    one.change(A, Tier.POOL, (), [PROMPT[2]])
    assert one.cached_lens(PROMPT) == {A: 4, B: 12}


def test_a_page_behind_a_gap_does_not_count_and_the_root_is_no_page():
    one = mirror(A)
    one.change(A, Tier.POOL, [PROMPT[0], PROMPT[3]], ())
    assert one.cached_lens(PROMPT) == {}
    assert one.cached_lens(PROMPT[:1]) == {}


def test_another_tenant_s_pages_are_other_pages():
    one = mirror(A)
    one.change(A, Tier.POOL, PROMPT[1:], ())
    assert one.cached_lens(chain("tenant", range(14), 4)) == {}


def test_nothing_is_found_at_a_worker_that_takes_a_lost_one_s_place():
    one = mirror(A, B)
    one.change(A, Tier.POOL, PROMPT[1:], ())
    one.change(B, Tier.POOL, PROMPT[1:2], ())
    one.leave(A)
    one.leave(A)  # it was gone already
    one.join(C)
    assert one.cached_lens(PROMPT) == {B: 4}
    one.change(C, Tier.POOL, PROMPT[1:3], ())
    assert one.cached_lens(PROMPT) == {B: 4, C: 8}


def test_what_is_in_host_memory_is_found_too_and_told_apart():
    one = mirror(A, B)
    one.change(A, Tier.POOL, PROMPT[1:2], ())
    one.change(A, Tier.HOST, PROMPT[2:], ())
    one.change(B, Tier.HOST, PROMPT[1:3], ())
    assert one.cached_lens(PROMPT) == {A: 12, B: 8}
    for length, on_host in ((4, {B: 8}), (8, {A: 4, B: 8}), (12, {A: 8, B: 8})):
        assert one.on_host_lens(PROMPT, {A: length, B: 8}) == on_host
    one.change(B, Tier.POOL, PROMPT[1:2], ())  # computed, while there is a copy
    assert one.on_host_lens(PROMPT, {B: 8}) == {B: 4}
    one.change(B, Tier.HOST, (), PROMPT[1:3])
    assert one.cached_lens(PROMPT) == {A: 12, B: 4}


class Counting(UserDict[bytes, int]):
    """Counts how often a name is looked up."""

    looks = 0

    def __getitem__(self, key: bytes) -> int:
        self.looks += 1
        return super().__getitem__(key)


def test_workers_that_hold_a_beginning_in_their_pools_are_not_looked_at_one_by_one():
    workers = [WorkerId(str(i)) for i in range(200)]
    one = mirror(*workers)
    for worker in workers:
        one.change(worker, Tier.POOL, PROMPT[1:3], ())
    one.change(workers[0], Tier.HOST, PROMPT[3:], ())
    pool = Counting(one._holders[Tier.POOL])
    one._holders[Tier.POOL] = cast(dict[bytes, int], pool)
    assert one.on_host_lens(PROMPT, one.cached_lens(PROMPT)) == {workers[0]: 4}
    assert pool.looks < 5 * len(PROMPT)


NAMES = st.lists(st.sampled_from(PROMPT[1:]), max_size=3)
CHANGES = st.tuples(
    st.sampled_from([A, B, C]),
    st.one_of(st.none(), st.tuples(st.sampled_from(Tier), NAMES, NAMES)),
)


@given(st.lists(CHANGES, max_size=20), st.integers(1, len(PROMPT)))
def test_it_finds_what_sets_for_each_worker_would_find(changes, pages: int):
    """A change of None: the worker leaves, or joins."""
    one, held = mirror(), dict[WorkerId, dict[Tier, set[bytes]]]()
    for worker, change in changes:
        if change is not None and worker in held:
            tier, added, removed = change
            one.change(worker, tier, added, removed)
            held[worker][tier] = held[worker][tier] - set(removed) | set(added)
        elif change is None and worker in held:
            one.leave(worker)
            del held[worker]
        elif change is None:
            one.join(worker)
            held[worker] = {tier: set() for tier in Tier}
    prompt = PROMPT[:pages]
    expected: dict[WorkerId, int] = {}
    on_host: dict[WorkerId, int] = {}
    for worker, tiers in held.items():
        for tier, names in tiers.items():
            assert set(one.names(worker, tier)) == names
        either = set().union(*tiers.values())
        missing = (i for i, name in enumerate(prompt) if i and name not in either)
        if full := next(missing, len(prompt)) - 1:
            expected[worker] = 4 * full
        fetched = [name for name in prompt[1 : full + 1] if name not in tiers[Tier.POOL]]
        if fetched:
            on_host[worker] = 4 * len(fetched)
    assert one.cached_lens(prompt) == expected
    assert one.on_host_lens(prompt, expected) == on_host
