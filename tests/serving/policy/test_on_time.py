"""Most first tokens on time, against brute force, and that nothing starves."""

from itertools import permutations
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.on_time import on_time
from serving.policy.views import QueuedView


def task(duration_s: float, deadline: float = inf, passed: int = 0) -> QueuedView:
    return QueuedView(duration_s, deadline, passed)


def ordered(*queue: QueuedView, now: float = 0.0, max_passes: int = 3) -> tuple[int, ...]:
    return on_time(queue, now, max_passes=max_passes)


@pytest.mark.parametrize(
    ("queue", "expected"),
    [
        ((), ()),
        ((task(5, deadline=1),), (0,)),
        ((task(9), task(1), task(5)), (0, 1, 2)),
        ((task(5, deadline=10), task(1, deadline=2)), (1, 0)),
        # What is late anyhow goes behind what is not, and the longest is given up for two.
        ((task(5, deadline=4), task(1, deadline=6)), (1, 0)),
        ((task(4, deadline=4), task(1, deadline=1), task(1, deadline=2)), (1, 2, 0)),
        # Late ones follow as they came, whatever their deadlines.
        ((task(9, deadline=5), task(9, deadline=2), task(1, deadline=1)), (2, 0, 1)),
        # Those that are in time as they came stay so, though another has the nearer deadline.
        ((task(9, deadline=0), task(1, deadline=9), task(1, deadline=8)), (1, 2, 0)),
        ((task(0.1, deadline=0.05),) * 4, (0, 1, 2, 3)),
        ((task(0.1, deadline=0.3), task(0.2, deadline=0.2)), (1, 0)),
    ],
)
def test_who_goes_first(queue: tuple[QueuedView, ...], expected: tuple[int, ...]):
    assert ordered(*queue) == expected


def test_deadlines_are_on_the_callers_clock():
    queue = (task(5, deadline=110), task(1, deadline=102))
    assert ordered(*queue, now=100.0) == (1, 0)
    assert ordered(*queue, now=96.0) == (0, 1)


def test_the_first_goes_first_once_it_has_been_passed_over_as_often_as_it_may_be():
    urgent = task(1, deadline=2)
    assert ordered(task(5, deadline=4, passed=2), urgent) == (1, 0)
    assert ordered(task(5, deadline=4, passed=3), urgent) == (0, 1)
    # What the others may have been passed over says nothing.
    assert ordered(task(5, deadline=4), task(5, deadline=4, passed=9), urgent) == (2, 0, 1)


TASKS = st.builds(
    QueuedView,
    st.integers(1, 5).map(float),
    st.one_of(st.integers(0, 14).map(float), st.just(inf)),
    st.integers(0, 3),
)


def met(queue: list[QueuedView], run: tuple[int, ...], now: float) -> int:
    count = 0
    for i in run:
        now += queue[i].duration_s
        count += now <= queue[i].deadline
    return count


@given(st.lists(TASKS, max_size=6), st.integers(0, 3).map(float), st.integers(0, 3))
def test_no_order_meets_more_deadlines(queue: list[QueuedView], now: float, max_passes: int):
    run = ordered(*queue, now=now, max_passes=max_passes)
    assert sorted(run) == list(range(len(queue)))
    exhausted = bool(queue) and queue[0].passed >= max_passes
    allowed = [o for o in permutations(range(len(queue))) if not exhausted or o[0] == 0]
    assert run in allowed
    assert met(queue, run, now) == max(met(queue, other, now) for other in allowed)


@given(st.lists(TASKS, min_size=1, max_size=40), st.integers(0, 3))
def test_a_late_task_starts_though_others_never_cease_to_come(
    arrivals: list[QueuedView], max_passes: int
):
    """The first of the queue, late from the start, while two more arrive for each that runs."""
    queue: list[QueuedView] = [task(5, deadline=0)]
    now = 0.0
    for started in range((len(arrivals) + 1) // 2):
        queue += arrivals[2 * started : 2 * started + 2]
        place = on_time(queue, now, max_passes=max_passes)[0]
        now += queue[place].duration_s
        if place == 0:
            return
        assert started < max_passes
        queue[0] = task(5, deadline=0, passed=queue[0].passed + 1)
        del queue[place]
