"""What a worker's tasks look like to policy/aside, and by when those that stood aside are due."""

from dataclasses import replace

import pytest

from serving.request import Slo
from tests.support.accounts import computed, told
from tests.support.aside_scene import CONFIG, LEFT, back, crowd, kept, prompt, row, waiting

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
    one.take_offloaded()
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
    one.take_offloaded()
    one.check()


def test_nobody_stands_aside_for_a_turn_that_has_no_room_even_so():
    one = kept()
    crowd(one)  # one page is free, seven are the long row's
    waiting(one, "turn", range(300, 333), 20.0, arrived=15.0)  # needs nine
    assert one.admit_next(20.0) is None
    assert (one.take_stood_aside(), told(one, "aside")) == ([], [])


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_stand_aside_for_one_turn_than_may(most: int):
    one = kept(stand_aside=replace(CONFIG, most=most))
    row(one, "leader", range(4), replied=1, began=0.0, arrived=-2.0)
    for name, first in (("a", 100), ("b", 200)):
        row(one, name, range(first, first + 8), replied=8, began=11.0, most=20)
    waiting(one, "turn", range(300, 320), 20.0, arrived=15.0)
    one.admit_next(20.0)
    assert len(one.take_stood_aside()) == (2 if most == 2 else 0)


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
