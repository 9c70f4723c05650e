"""Who is overdue, by the times alone."""

import pytest

from serving.engine.watchdog import LATE_S, Watchdog, waited_s
from serving.messages import WorkerId

A, B = WorkerId("a"), WorkerId("b")


@pytest.mark.parametrize(
    ("since", "awake_since", "now", "waited"),
    [
        (None, 0.0, 9.0, 0.0),
        (4.0, 0.0, 9.0, 5.0),
        (4.0, 7.0, 9.0, 2.0),  # it stood still in between
        (9.5, 0.0, 9.0, 0.0),  # launched while somebody looked
    ],
)
def test_a_step_is_waited_for_while_the_process_is_awake(since, awake_since, now, waited):
    assert waited_s(since, awake_since, now) == waited


def looks(dog: Watchdog, owed: dict[WorkerId, float | None], times: list[float]) -> list[dict]:
    return [dog.look(owed, now) for now in times]


def test_who_owes_a_step_for_as_long_as_the_timeout_is_overdue():
    dog = Watchdog(3.0)
    first, second, third = looks(dog, {A: 100.0, B: None}, [100.0, 102.5, 103.0])
    assert (first, second) == ({}, {})
    assert third == {A: 3.0}


def test_a_step_that_came_back_is_forgotten():
    dog = Watchdog(3.0)
    assert looks(dog, {A: 100.0}, [100.0, 102.0]) == [{}, {}]
    assert looks(dog, {A: 102.0}, [104.0, 104.5]) == [{}, {}]
    assert dog.look({A: 102.0}, 105.0) == {A: 3.0}


def test_what_was_out_before_the_first_look_counts_from_then_on():
    dog = Watchdog(3.0)
    assert looks(dog, {A: 0.0}, [100.0, 102.0]) == [{}, {}]
    assert dog.look({A: 0.0}, 103.0) == {A: 3.0}


def test_time_in_which_the_process_stood_still_does_not_count():
    dog = Watchdog(20.0)
    assert looks(dog, {A: 100.0}, [100.0, 104.0]) == [{}, {}]
    resumed = 104.0 + LATE_S + 1000.0
    assert dog.look({A: 100.0}, resumed) == {}
    assert looks(dog, {A: 100.0}, [resumed + s for s in (4.0, 8.0, 12.0, 16.0)]) == [{}] * 4
    assert dog.look({A: 100.0}, resumed + 20.0) == {A: 20.0}
