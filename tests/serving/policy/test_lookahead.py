"""The order of a prefill queue's head against brute force, and that nothing starves."""

from itertools import permutations
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from serving.policy.baselines.lookahead import lookahead
from serving.policy.views import QueuedView


def task(duration_s: float, deadline: float = inf, passed: int = 0) -> QueuedView:
    return QueuedView(duration_s, deadline, passed)


def ordered(*window: QueuedView, now: float = 0.0, max_passes: int = 3) -> tuple[int, ...]:
    return lookahead(window, now, max_passes=max_passes)


def test_nothing_waiting_is_nothing_to_run():
    assert ordered() == ()


def test_a_window_of_one_is_first_come_first_served_even_if_late():
    assert ordered(task(5, deadline=1)) == (0,)


def test_without_targets_the_first_come_runs_first_however_long_it_takes():
    assert ordered(task(9), task(1), task(5)) == (0, 1, 2)


def test_a_short_urgent_task_overtakes_one_that_can_wait():
    assert ordered(task(5, deadline=10), task(1, deadline=2)) == (1, 0)


def test_a_task_that_is_lost_anyway_makes_way_for_one_that_is_not():
    assert ordered(task(5, deadline=4), task(1, deadline=1)) == (1, 0)


def test_one_deadline_is_given_up_for_two():
    assert ordered(task(4, deadline=4), task(1, deadline=1), task(1, deadline=2)) == (1, 2, 0)


def test_among_orders_that_meet_as_many_the_least_late_wins():
    # Neither can be on time: the shorter first makes the sum of the delays least.
    assert ordered(task(3, deadline=0), task(1, deadline=0)) == (1, 0)


def test_a_full_tie_is_first_come_first_served():
    assert ordered(*[task(0.1, deadline=0.05)] * 4) == (0, 1, 2, 3)


def test_a_task_that_ends_at_its_deadline_is_on_time():
    assert ordered(task(0.1, deadline=0.3), task(0.2, deadline=0.2), now=0.0) == (1, 0)


def test_deadlines_are_on_the_callers_clock():
    window = (task(5, deadline=110), task(1, deadline=102))
    assert ordered(*window, now=100.0) == (1, 0)
    assert ordered(*window, now=96.0) == (0, 1)


def test_an_exhausted_task_is_overtaken_no_more():
    urgent = task(1, deadline=2)
    assert ordered(task(5, deadline=10, passed=2), urgent, max_passes=3) == (1, 0)
    assert ordered(task(5, deadline=10, passed=3), urgent, max_passes=3) == (0, 1)


def test_an_exhausted_task_is_not_overtaken_by_an_exhausted_one_either():
    window = (task(5, deadline=10, passed=3), task(1, deadline=2, passed=3))
    assert ordered(*window, max_passes=3) == (0, 1)


def test_those_in_front_of_an_exhausted_task_may_still_run_before_it():
    window = (task(1), task(1, deadline=1, passed=3))
    assert ordered(*window, max_passes=3) == (1, 0)
    assert ordered(task(1, deadline=1), task(1, passed=3), max_passes=3) == (0, 1)


def test_no_pass_allowed_is_first_come_first_served():
    assert ordered(task(5, deadline=10), task(1, deadline=2), max_passes=0) == (0, 1)


TASKS = st.builds(
    QueuedView,
    st.integers(1, 5).map(float),
    st.one_of(st.integers(0, 14).map(float), st.just(inf)),
    st.integers(0, 3),
)


def is_allowed(window: list[QueuedView], run: tuple[int, ...], max_passes: int) -> bool:
    return not any(
        window[i].passed >= max_passes and run.index(j) < run.index(i)
        for i in range(len(window))
        for j in range(i + 1, len(window))
    )


def badness(window: list[QueuedView], run: tuple[int, ...], now: float) -> tuple[int, float]:
    late, lateness = 0, 0.0
    for i in run:
        now += window[i].duration_s
        late += now > window[i].deadline
        lateness += max(0.0, now - window[i].deadline)
    return late, lateness


@given(st.lists(TASKS, max_size=5), st.integers(0, 3).map(float), st.integers(0, 3))
def test_it_is_the_best_of_all_orders_and_of_those_the_first(
    window: list[QueuedView], now: float, max_passes: int
):
    allowed = [
        run
        for run in permutations(range(len(window)))  # in lexicographic order: min takes the first
        if is_allowed(window, run, max_passes)
    ]
    best = min(allowed, key=lambda run: badness(window, run, now))
    assert ordered(*window, now=now, max_passes=max_passes) == best


@given(
    st.lists(st.tuples(TASKS, st.booleans()), min_size=1, max_size=30),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_no_task_is_passed_over_more_often_than_allowed_whatever_arrives(
    arrivals: list[tuple[QueuedView, bool]], size: int, max_passes: int
):
    """A queue served one task at a time while others arrive, some of them in front."""
    queue: list[list[int]] = []  # [index of arrival, times passed]
    coming = list(enumerate(arrivals))
    now = 0.0
    while coming or queue:
        for index, (_, in_front) in coming[:2]:
            queue.insert(0 if in_front else len(queue), [index, 0])
        del coming[:2]
        window = [
            QueuedView(arrivals[index][0].duration_s, arrivals[index][0].deadline, passed)
            for index, passed in queue[:size]
        ]
        chosen = lookahead(window, now, max_passes=max_passes)[0]
        for entry in queue[:chosen]:
            entry[1] += 1
            assert entry[1] <= max_passes
        now += window[chosen].duration_s
        del queue[chosen]
