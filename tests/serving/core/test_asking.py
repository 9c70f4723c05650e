"""What a worker's tasks look like to policy/aside, and by when those that stood aside are due."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.holdings import Holdings
from serving.core.worker_task import WorkerTask, open_task
from serving.policy.aside import AsideConfig
from serving.request import Slo
from tests.support.accounts import computed, holdings, told
from tests.support.fake_costs import LinearCosts
from tests.support.one_worker import prefill, task
from tests.support.rules import batcher_rules
from tests.support.sharp_lengths import sharp

COSTS = LinearCosts(base_s=1.0, new_s=0.01)
"""A step takes a second, a prompt a second and a hundredth of one for each of its tokens."""
CONFIG = AsideConfig(
    ask_from=0.6,
    back_before_s=4.0,
    least_spare_s=8.0,
    stay_s=5.0,
    again=4.0,
    counted_left=0.5,
    longer=1.5,
)
LEFT = sharp(16).expected()
SLO = Slo(ttft_s=10.0, tpot_s=2.0)


def kept(order: str = "on-time", **settings: Any) -> Holdings:
    rules = batcher_rules(order=order, order_window=64, **{"stand_aside": CONFIG, **settings})
    return holdings(replace(rules, costs=COSTS), COSTS)


def opened(
    name: str,
    tokens,
    *,
    reply: tuple[int, ...] = (),
    forecast: int = 0,
    most: int = 100,
    **fields: Any,
) -> WorkerTask:
    made = task(name, tokens, reply=reply, forecast=forecast, max_tokens=most)
    return open_task(prefill(replace(made, slo=SLO, **fields)), 4)


def waiting(one: Holdings, name: str, tokens, now: float, **fields: Any) -> WorkerTask:
    """A task that came by the way of all: `let_wait`."""
    entry = opened(name, tokens, **fields)
    one.tasks[entry.task.id] = entry
    one.let_wait(entry, now)
    return entry


def prompt(one: Holdings, name: str, tokens, **fields: Any) -> WorkerTask:
    """A task that has its pages."""
    entry = waiting(one, name, tokens, 0.0, **fields)
    assert one.admit_next(0.0) is entry
    return entry


def row(one: Holdings, name: str, tokens, *, replied: int, began: float, **fields: Any):
    """A row whose reply has so many tokens; its first one came at `began`."""
    entry = prompt(one, name, tokens, **fields)
    entry.tokens += range(1000, 1000 + replied)
    one.extend(entry, -(-len(entry.tokens) // 4))
    entry.since = began, 1
    return computed(one, entry)


def crowd(one: Holdings, *, replied: int = 20, began: float = 0.0) -> tuple[WorkerTask, WorkerTask]:
    """Nine of ten pages are taken: by a short row that leads, and by a long one."""
    leader = row(one, "leader", range(4), replied=1, began=0.0, arrived=-2.0)
    return leader, row(one, "long", range(100, 108), replied=replied, began=began)


def back(one: Holdings, now: float, *, replied: int = 10) -> WorkerTask:
    """A reply that began at 0, stood aside, and waits again."""
    reply = tuple(range(1000, 1000 + replied))
    return waiting(one, "back", range(200, 208), now, reply=reply, forecast=16, first_at=0.0)


# ---- who stands aside ---------------------------------------------------------------------------


def test_a_turn_that_is_due_gets_a_row_s_pages_and_the_row_is_told_of():
    one = kept()
    _, long = crowd(one)
    turn = waiting(one, "turn", range(300, 312), 20.0, arrived=15.0)
    assert one.admit_next(20.0) is turn
    assert one.take_stood_aside() == [long]
    assert one.take_stood_aside() == []
    ((reason, details),) = told(one, "aside")
    # 19 gaps may take two seconds each and took 20 in all. To have 28 tokens again takes 1.28 s,
    # and twice that is kept. Half of what is left is counted on, a second for each token.
    assert reason == "spare"
    assert details["for"] == "turn"
    assert details["spare_s"] == pytest.approx(19 * 2.0 - 20.0 - 2 * 1.28 + details["left"] / 2)
    one.take_evicted(())
    one.check()


@pytest.mark.parametrize(
    ("now", "asks"), [(18.8, False), (18.9, True), (23.8, True), (23.9, False)]
)
def test_it_asks_once_little_time_is_left_and_while_it_can_be_in_time(now: float, asks: bool):
    one = kept()
    crowd(one)
    waiting(one, "turn", range(300, 312), now, arrived=15.0)
    # It takes 1.12 s and is late at 25: it asks from 6 s before 23.88 on.
    assert (one.admit_next(now - 1.0 if now < 18.9 else now) is not None) is asks


def test_as_many_rows_stand_aside_as_it_takes_each_once():
    one = kept()
    row(one, "leader", range(4), replied=1, began=0.0, arrived=-2.0)
    rows = [
        row(one, name, range(first, first + 8), replied=8, began=11.0, most=20)
        for name, first in (("a", 100), ("b", 200))
    ]
    turn = waiting(one, "turn", range(300, 320), 20.0, arrived=15.0)
    assert one.admit_next(20.0) is turn
    gone = one.take_stood_aside()
    assert len(gone) == 2
    assert all(entry in gone for entry in rows)
    one.take_evicted(())
    one.check()


def test_the_first_of_all_never_stands_aside_however_much_it_can_spare():
    one = kept()
    row(one, "only", range(8), replied=28, began=0.0)
    waiting(one, "turn", range(300, 312), 20.0, arrived=15.0)
    assert one.admit_next(20.0) is None
    assert not told(one, "aside")


def test_a_row_whose_first_token_was_late_goes_first_whatever_it_can_spare():
    one = kept()
    _, long = crowd(one, began=11.0)  # it came at 0, so that this was a second too late
    waiting(one, "turn", range(300, 312), 20.0, arrived=15.0)
    one.admit_next(20.0)
    assert one.take_stood_aside() == [long]
    assert told(one, "aside")[0][0] == "late"


def test_a_row_without_a_target_or_with_one_that_nobody_meets_is_left_alone():
    for slo in (Slo(10.0, None), Slo(10.0, 0.5)):
        one = kept()
        _, long = crowd(one)
        long.task = replace(long.task, slo=slo)
        waiting(one, "turn", range(300, 312), 20.0, arrived=15.0)
        assert one.admit_next(20.0) is None
        assert not one.take_stood_aside()


@pytest.mark.parametrize(("back_s", "stays"), [(4.9, True), (5.0, False)])
def test_a_row_that_has_just_come_back_stays_for_a_while(back_s: float, stays: bool):
    one = kept()
    row(one, "leader", range(4), replied=1, began=0.0, arrived=-2.0)
    reply = tuple(range(1000, 1020))
    long = prompt(one, "back", range(100, 108), reply=reply, forecast=4, first_at=0.0, most=21)
    computed(one, long)
    long.since = 20.0 - back_s, 20
    waiting(one, "turn", range(300, 312), 20.0, forecast=16, arrived=15.0)
    assert (one.admit_next(20.0) is None) is stays
    assert one.take_stood_aside() == ([] if stays else [long])


@pytest.mark.parametrize(("again", "stays"), [(0.01, True), (0.2, False)])
def test_a_row_keeps_its_kv_if_that_takes_long_to_have_again(again: float, stays: bool):
    one = kept(stand_aside=replace(CONFIG, again=again))
    _, long = crowd(one)
    waiting(one, "turn", range(300, 312), 20.0, arrived=15.0)
    # That takes 1.28 s, which is more than a hundredth of what it can spare, and less than a fifth.
    assert (one.admit_next(20.0) is None) is stays
    assert one.take_stood_aside() == ([] if stays else [long])


def test_a_row_that_has_come_back_stays_until_its_first_token_is_read():
    one = kept()
    row(one, "leader", range(4), replied=1, began=0.0, arrived=-2.0)
    reply = tuple(range(1000, 1020))
    long = prompt(one, "back", range(100, 108), reply=reply, first_at=0.0, most=40)
    computed(one, long)
    long.since = 10.0, 21  # its 21st is on its way
    waiting(one, "turn", range(300, 312), 20.0, arrived=15.0)
    assert one.admit_next(20.0) is None
    long.tokens.append(1020)
    assert one.admit_next(20.0) is None  # it is looked at again after a while
    assert [one.admit_next(20.0) for _ in range(8)][-1] is not None
    assert one.take_stood_aside() == [long]


def test_a_row_that_is_not_decoding_is_left_alone():
    one = kept()
    row(one, "leader", range(4), replied=1, began=0.0, arrived=-2.0)
    prompt(one, "back", range(100, 108), reply=tuple(range(1000, 1020)), first_at=0.0)
    waiting(one, "turn", range(300, 312), 20.0, arrived=15.0)
    assert one.admit_next(20.0) is None


# ---- by when they are back ----------------------------------------------------------------------


def test_a_reply_that_can_wait_says_by_when_it_has_to_go_on():
    entry = back(kept(), now=4.0)
    # Nine gaps of two seconds from 0 on, less twice the 1.18 s that its 18 tokens take again; of
    # what is forecast half is counted on, each token a second faster than it may be.
    assert entry.back_by == pytest.approx(9 * 2.0 + LEFT / 2 * 1.0 - 2 * 1.18)
    assert entry.due == entry.back_by
    assert not entry.urgent


def test_a_reply_without_time_to_spare_goes_before_all_prompts():
    one = kept()
    older = waiting(one, "older", range(300, 304), 23.0, arrived=1.0)
    entry = back(
        one, now=24.0
    )  # 26 s less 2.36 are over; if all that is left counts it can make it
    assert entry.back_by is None
    assert entry.urgent
    assert one.admit_next(24.0) is entry
    assert one.admit_next(24.0) is older


def test_a_reply_that_is_late_in_any_case_waits_for_those_in_time():
    one = kept()
    entry = back(one, now=60.0)
    turn = waiting(one, "turn", range(300, 304), 60.0, arrived=60.0)
    assert entry.back_by is not None
    assert not entry.urgent
    assert [one.admit_next(60.0), one.admit_next(60.0)] == [turn, entry]
    assert entry.back_by is None  # it holds pages now, so that nobody goes before it


def test_who_is_due_first_goes_first_be_it_a_prompt_or_a_reply_that_can_wait():
    one = kept("arrival")
    entry = back(one, now=4.0)
    assert entry.back_by is not None
    as_if = entry.back_by - 10.0  # a prompt that came then is due at the same time
    before = waiting(one, "before", range(300, 304), 4.0, arrived=as_if - 0.1)
    after = waiting(one, "after", range(400, 404), 4.0, arrived=as_if + 0.1)
    assert [one.admit_next(14.0) for _ in range(3)] == [before, entry, after]


def test_a_reply_that_is_to_be_back_soon_asks_as_prompts_do():
    one = kept()
    crowd(one, replied=22)
    entry = back(one, now=2.0, replied=4)
    late_s = entry.due - 1.12
    assert one.admit_next(late_s - 4.1) is None
    # It is looked at again after a while.
    assert entry in [one.admit_next(late_s - 3.9) for _ in range(9)]
    assert len(one.take_stood_aside()) == 1


def test_nobody_who_can_be_in_time_waits_behind_one_that_cannot():
    one = kept()
    row(one, "only", range(8), replied=20, began=0.0, arrived=-2.0, most=21)
    waiting(one, "large", range(200, 220), 1.0, arrived=1.0)
    assert one.admit_next(5.0) is None
    turn = waiting(one, "turn", range(300, 303), 15.0, arrived=15.0, most=1)
    assert turn in [one.admit_next(15.0) for _ in range(10)]


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
    one.take_evicted(())
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
    one.take_evicted(())
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
    one.take_evicted(())
    one.pool.release(spare)
    one.check()
