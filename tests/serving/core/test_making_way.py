"""Who goes before a task that waits for more room, and who stops where rows run short of pages."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.holdings import BEHIND, Holdings
from serving.core.worker_task import WorkerTask
from serving.policy.aside import AsideConfig
from serving.request import Slo
from tests.support.accounts import told
from tests.support.aside_scene import CONFIG, crowd, kept, opened, row, waiting

# ---- who goes before one that waits for more room ------------------------------------------------


def behind_a_large_one(**settings: Any) -> tuple[Holdings, WorkerTask, WorkerTask]:
    """Four pages are free; a turn that is due in a while needs five, and one behind it one."""
    one = kept(**settings)
    row(one, "only", range(8), replied=16, began=0.0, arrived=-2.0, most=17)
    large = waiting(one, "large", range(200, 220), 1.0, arrived=1.0, most=1)
    return one, large, waiting(one, "small", range(300, 303), 1.5, arrived=1.5, most=1)


def test_who_fits_goes_before_one_that_waits_for_more_room_though_it_is_in_time():
    one, large, small = behind_a_large_one()
    assert one.pool.available == 4
    assert one.admit_next(2.0) is small
    assert told(one, "order") == [("deadlines", {"passed_over": 1})]
    assert (large.passed, large.deferred) == (1, True)
    assert one.admit_next(2.0) is None


def test_as_many_look_again_as_there_is_room_for_at_once():
    one, _, small = behind_a_large_one()
    other = waiting(one, "other", range(400, 403), 1.6, arrived=1.6, most=1)
    assert [one.admit_next(2.0) for _ in range(3)] == [small, other, None]


def test_so_many_are_tried_behind_it_at_a_look():
    one, _, small = behind_a_large_one(order="arrival")
    one.queue.remove(small)
    for i in range(BEHIND):
        waiting(one, f"large {i}", range(200, 220), 1.2, arrived=1.2 + i / 100, most=1)
    one.queue.add(small)
    assert one.admit_next(2.0) is None
    one.queue.remove(one.queue.behind(2.0)[0])
    assert small in [one.admit_next(2.0) for _ in range(9)]


def test_nobody_goes_before_one_that_was_passed_over_too_often():
    one, large, _ = behind_a_large_one(max_passes=3)
    large.passed = 3
    assert [one.admit_next(2.0) for _ in range(20)] == [None] * 20


def test_nobody_goes_before_a_reply_whose_client_waits():
    one, large, _ = behind_a_large_one()
    reply = tuple(range(1000, 1010))
    urgent = waiting(one, "back", range(500, 512), 24.0, reply=reply, forecast=16, first_at=0.0)
    assert urgent.urgent
    assert [one.admit_next(24.0) for _ in range(20)] == [None] * 20
    assert not large.passed


def test_nobody_of_a_lesser_class_goes_before_it():
    one, _, small = behind_a_large_one()
    one.queue.remove(small)
    lesser = opened("lesser", range(300, 303), most=1, arrived=1.5)
    lesser.task = replace(lesser.task, turn=replace(lesser.task.turn, priority=1))
    one.let_wait(lesser, 1.5)
    assert one.admit_next(2.0) is None


def test_where_nobody_stands_aside_nobody_goes_before_it():
    one, _, _ = behind_a_large_one(stand_aside=None)
    assert [one.admit_next(2.0) for _ in range(20)] == [None] * 20


def test_one_that_nobody_was_let_pass_asks_as_others_do():
    one = kept(max_passes=0)
    crowd(one)
    waiting(one, "late", range(300, 312), 40.0, arrived=15.0)
    assert [one.admit_next(40.0) for _ in range(9)] == [None] * 9


def test_one_that_blocks_all_others_has_a_row_s_pages_though_it_is_late():
    one = kept(max_passes=3)
    _, long = crowd(one)
    late = waiting(one, "late", range(300, 312), 40.0, arrived=15.0)
    assert one.admit_next(40.0) is None
    late.passed = 3
    assert late in [one.admit_next(40.0) for _ in range(9)]
    assert one.take_stood_aside() == [long]


# ---- who stops where rows run short --------------------------------------------------------------


def out_of_pages(**settings: Any) -> tuple[Holdings, list[WorkerTask]]:
    """Three rows hold all ten pages, four, two and four, and the first needs one more."""
    one = kept(wait_for_pages=False, **settings)
    rows = [
        row(one, "first", range(8), replied=8, began=0.0, arrived=-2.0, most=9),
        row(one, "small", range(100, 104), replied=4, began=0.0, arrived=-1.0, most=5),
        row(one, "long", range(200, 208), replied=8, began=0.0, arrived=0.0, most=9),
    ]
    assert not one.pool.available
    for entry, length in zip(rows, (16, 4, 8), strict=True):
        assert entry.slot is not None
        one.rows.activate(entry.slot, position=length, reply_index=1, left=90, token=1)
    return one, rows


def test_where_pages_run_out_who_misses_its_target_anyhow_stops_though_it_loses_most():
    one, (first, small, long) = out_of_pages()
    long.since = 11.0, 1  # it came at 0, so that this was a second too late
    assert one.grow(12.0) == [long]
    ((reason, details),) = told(one, "aside")
    assert (reason, details["for"], details["pages"]) == ("late", first.task.id.turn, 4)
    assert small.pages
    one.take_offloaded()
    one.check()


def test_where_pages_run_out_who_has_most_time_to_spare_stops():
    one, (_, small, long) = out_of_pages()
    assert one.grow(2.0) == [long]  # 7 gaps of two seconds against 3, and so much before its time
    assert [reason for reason, _ in told(one, "aside")] == ["spare"]
    assert small.pages


def test_without_targets_or_without_standing_aside_the_cheapest_loss_stops():
    one, (_, small, long) = out_of_pages(stand_aside=None)
    long.since = 11.0, 1
    assert one.grow(12.0) == [small]
    assert told(one, "aside") == []
    one, rows = out_of_pages()
    for entry in rows:
        entry.task = replace(entry.task, slo=Slo(None, None))
    assert one.grow(12.0) == [rows[1]]
    assert told(one, "aside") == []


@pytest.mark.parametrize("stand_aside", [CONFIG, None])
def test_rows_wait_for_the_first_token_of_one_that_has_just_come_back_and_is_to_stop(
    stand_aside: AsideConfig | None,
):
    one, (first, small, long) = out_of_pages(stand_aside=stand_aside)
    one.retire(small)
    spare = one.pool.allocate(one.pool.available)
    assert spare is not None
    one.take_offloaded()
    told(one, "admit")
    long.since = 11.0, 9  # eight are known
    for _ in range(2):
        assert one.grow(12.0) == []
    assert {(made.kind, made.reason) for made in one._decisions.take()} == {
        ("pause", "first_token")
    }
    assert first.slot is not None
    assert one.rows.is_paused(first.slot)
    long.tokens.append(1100)
    assert one.grow(12.0) == [long]
    assert not one.rows.is_paused(first.slot)
    one.take_offloaded()
    one.pool.release(spare)
    one.check()
