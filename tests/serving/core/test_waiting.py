"""The queue of one worker: who comes next, and who never is overtaken for ever."""

from dataclasses import replace
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from serving.core.waiting import Waiting
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.policy.views import QueuedView
from serving.request import Slo
from tests.support.one_worker import prefill, task


def waiting(*, window: int = 3, max_passes: int = 2) -> Waiting:
    """A queue in which a task takes a second a prompt token."""

    def view(entry: WorkerTask) -> QueuedView:
        ttft_s = entry.task.slo.ttft_s
        deadline = inf if ttft_s is None else entry.task.arrived + ttft_s
        return QueuedView(float(len(entry.tokens)), deadline, entry.passed)

    return Waiting(window=window, max_passes=max_passes, view=view)


def entry(
    name: str, *, arrived: float = 0.0, tokens: int = 1, ttft_s: float | None = None, priority=0
) -> WorkerTask:
    work = task(name, range(tokens), priority=priority)
    work = replace(work, arrived=arrived, slo=Slo(ttft_s, None))
    return open_task(prefill(work), 4)


def order(queue: Waiting, now: float = 0.0) -> list[str]:
    names: list[str] = []
    while (chosen := queue.next(now)) is not None:
        queue.start(chosen)
        names.append(chosen.task.turn.id)
    return names


def filled(*entries: WorkerTask, window: int = 3, max_passes: int = 2) -> Waiting:
    queue = waiting(window=window, max_passes=max_passes)
    for one in entries:
        queue.add(one)
    return queue


def test_without_targets_it_is_priority_then_age_then_name():
    queue = filled(
        entry("d", arrived=2.0),
        entry("c", arrived=1.0),
        entry("b", arrived=1.0),
        entry("a", arrived=9.0, priority=-1),
        entry("z", arrived=0.0, priority=1),
    )
    assert order(queue) == ["a", "b", "c", "d", "z"]


def test_a_task_with_a_near_deadline_goes_before_a_long_one_that_can_wait():
    queue = filled(entry("long", tokens=9), entry("short", arrived=1.0, ttft_s=5.0))
    assert order(queue) == ["short", "long"]


def test_what_stands_behind_the_window_does_not_move_up():
    long = [entry(f"l{i}", tokens=9) for i in range(3)]
    queue = filled(*long, entry("short", arrived=1.0, ttft_s=5.0), window=3)
    assert order(queue)[0] == "l0"


def test_nobody_changes_places_with_another_priority():
    queue = filled(entry("long", tokens=9), entry("short", arrived=1.0, ttft_s=5.0, priority=1))
    assert order(queue) == ["long", "short"]


def test_a_task_is_passed_over_a_bounded_number_of_times():
    queue = filled(entry("long", tokens=9), window=2, max_passes=2)
    begun: list[str] = []
    for i in range(4):
        queue.add(entry(f"s{i}", arrived=1.0 + i, ttft_s=1.0 + i))
        chosen = queue.next(0.0)
        assert chosen is not None
        queue.start(chosen)
        begun.append(chosen.task.turn.id)
    assert begun.index("long") == 2


def test_the_one_that_was_chosen_stays_chosen_until_it_starts_or_leaves():
    long, short = entry("long", tokens=9), entry("short", arrived=1.0, ttft_s=5.0)
    queue = filled(long, short)
    assert queue.next(0.0) is short
    queue.add(entry("shorter", arrived=2.0, ttft_s=1.0))
    assert queue.next(0.0) is short, "it may be waiting for room"
    queue.remove(short)
    assert queue.next(0.0) is not short


def test_an_older_task_that_comes_back_is_looked_at_again():
    queue = filled(entry("b", arrived=2.0))
    assert queue.next(0.0) is not None
    queue.add(entry("a", arrived=1.0))
    assert order(queue) == ["a", "b"]


def test_it_counts_tasks_and_their_tokens():
    queue = filled(entry("a", tokens=3), entry("b", tokens=4))
    assert (len(queue), queue.tokens) == (2, 7)
    assert all(one.stage is Stage.WAITING for one in queue._tasks)
    assert order(queue) == ["a", "b"]
    assert (len(queue), queue.tokens) == (0, 0)
    assert queue.next(0.0) is None


@given(
    st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(1, 30)), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_everyone_starts_once_and_after_few_of_those_behind_it(tasks, window: int, most: int):
    queue = filled(
        *(
            entry(f"t{i:02}", arrived=float(i), tokens=tokens, ttft_s=ttft_s)
            for i, (tokens, ttft_s) in enumerate(tasks)
        ),
        window=window,
        max_passes=most,
    )
    begun = order(queue)
    assert sorted(begun) == [f"t{i:02}" for i in range(len(tasks))]
    for name in begun:
        assert sum(other > name for other in begun[: begun.index(name)]) <= most
