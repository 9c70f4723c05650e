"""What a worker decides by times: who is stopped or goes first, what is fetched, what is kept."""

from dataclasses import replace

import pytest

from serving.core.holdings import Holdings
from serving.core.own_decisions import OwnDecisions
from serving.core.restoring import Restoring
from serving.costs.costs import Link
from serving.costs.measured import Grid, StepPoint, TransferPoint, WorkerShape
from serving.costs.profile import Profile
from serving.messages import Role, WorkerId
from serving.request import Slo
from tests.support.accounts import admitted, computed, crowded, holdings, over, queued
from tests.support.fake_costs import LinearCosts
from tests.support.rules import batcher_rules, corrected

AT_ONCE = batcher_rules(wait_for_pages=False)
"""A row that needs a page takes it from another."""


def victim(kept: Holdings, *lengths: int, reuse: bool = True) -> int:
    """Say which of the rows of these lengths is stopped, so that the first may grow."""
    rows = [
        computed(kept, admitted(kept, str(i), range(100 * i, 100 * i + length), forecast=0))
        for i, length in enumerate(lengths)
    ]
    for row in rows:
        row.reuse = reuse
    slot = rows[0].slot
    assert slot is not None
    assert not kept.pool.available
    kept.rows.activate(slot, position=lengths[0], reply_index=1, left=9, token=1)
    (stopped,) = kept.grow(0.0)
    kept.take_offloaded()
    kept.check()
    return rows.index(stopped)


def test_whose_loss_costs_least_is_said_by_the_costs_that_are_corrected():
    assert victim(holdings(AT_ONCE), 16, 16, 8) == 2
    assert victim(holdings(AT_ONCE, costs=corrected({16: 1.0, 8: 2.0})), 16, 16, 8) == 1


def test_a_row_that_host_memory_would_hold_is_priced_by_what_fetching_it_takes():
    """Four whole pages are fetched sooner than one and three tokens more, which are computed."""
    assert victim(holdings(AT_ONCE, num_pages=12), 20, 16, 7) == 2
    assert victim(holdings(AT_ONCE, num_pages=12, host_pages=20), 20, 16, 7) == 1


def test_what_host_memory_has_no_room_for_is_priced_by_computing_it():
    assert victim(holdings(AT_ONCE, num_pages=12, host_pages=1), 20, 16, 7) == 2


def test_where_computing_is_faster_than_fetching_a_row_is_priced_by_that():
    slow = replace(AT_ONCE, host_link=replace(batcher_rules().host_link, latency_s=1.0))
    kept = holdings(slow, num_pages=12, host_pages=20)
    assert victim(kept, 20, 16, 7) == 2


def test_the_way_to_host_memory_is_not_the_one_between_workers():
    """Which was measured, and is so fast here that fetching would always beat computing."""
    shape = WorkerShape(Role.DECODE, 1, 16, 64, 8, 4, 64)
    prompt = StepPoint(0, 0, 4, 0, 0.004, 0.0)
    grid = Grid(shape, (prompt,), (TransferPoint(100, 1e-9, 0.0),))
    measured = Profile(grid, LinearCosts(new_s=0.001, kv_bytes_per_token=1000))
    to_host = Restoring(
        measured, Link(0.5, 1e4), OwnDecisions(WorkerId("d0")), page_size=4, host_pages=20
    )
    assert to_host.fetch_s(40) == pytest.approx(0.5 + 40_000 / 1e4)


def test_a_row_that_is_never_continued_is_priced_by_computing_it():
    kept = holdings(AT_ONCE, num_pages=12, host_pages=20)
    assert victim(kept, 20, 16, 7, reuse=False) == 2


def test_what_a_stopped_row_leaves_goes_to_the_host_and_comes_back():
    kept = holdings(AT_ONCE, num_pages=12, host_pages=20)
    assert victim(kept, 20, 16, 7) == 1
    crowd = computed(kept, admitted(kept, "crowd", range(500, 512), forecast=0))
    kept.take_offloaded()
    (small,) = (task for task in kept.tasks.values() if task.kv_len == 7)
    for gone in (crowd, small):
        kept.retire(gone)
    again = admitted(kept, "again", [*range(100, 116), 7], forecast=0)
    assert len(again.on_host) == 4


def test_what_is_faster_computed_is_not_fetched():
    slow = replace(batcher_rules(), host_link=replace(batcher_rules().host_link, latency_s=1.0))
    kept = holdings(slow, host_pages=20)
    crowded(kept)
    assert not admitted(kept, "b", [*range(12), 7]).on_host


def test_what_is_faster_computed_is_said_by_the_costs_that_are_corrected():
    link = replace(batcher_rules().host_link, latency_s=0.00145)  # 1.5 ms, and 2.2 to compute it
    rules = replace(batcher_rules(), host_link=link)
    for costs, fetched in ((None, True), (corrected({12: 0.5}), False)):
        kept = holdings(rules, costs, host_pages=20)
        crowded(kept)
        assert bool(admitted(kept, "b", [*range(12), 7]).on_host) == fetched


def test_who_is_in_time_only_if_it_goes_first_is_said_by_the_costs_that_are_corrected():
    for costs, first in ((None, "long"), (corrected({4: 2.0}), "urgent")):
        kept = holdings(batcher_rules(order="on-time"), costs)
        queued(kept, "long", range(32))
        urgent = queued(kept, "urgent", range(4))
        urgent.task = replace(urgent.task, slo=Slo(0.006, None))  # both take 5.6 ms, or twice that
        started = kept.admit_next(0.0)
        assert started is not None
        assert started.task.id.turn == first


def test_whose_pages_are_worth_least_is_said_by_the_costs_that_are_corrected():
    for costs, first in ((None, "longer"), (corrected({16: 1.0, 20: 1.5}), "shorter")):
        kept = holdings(costs=costs)
        over(kept, "longer", range(20))
        over(kept, "shorter", range(50, 66))
        admitted(kept, "crowd", range(100, 108), forecast=0)  # one page is free
        kept.take_offloaded()
        kept._decisions.tell_evicted()
        evicted = [d.session for d in kept._decisions.take() if d.kind == "evict"]
        assert evicted == [f"session of {first}"]
