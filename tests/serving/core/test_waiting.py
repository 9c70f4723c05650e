"""The queue of one worker: who comes next, and who never is overtaken for ever."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.queue_order import QueueOrder
from serving.core.waiting import Waiting
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.policy.order import ORDER_POLICIES
from serving.request import Slo
from tests.support.one_worker import prefill, task


def waiting(*, policy: str = "on-time", window: int = 3, max_passes: int = 2) -> Waiting:
    """A queue in which a task takes a second a prompt token."""
    order = QueueOrder(ORDER_POLICIES[policy], window, max_passes)
    return Waiting(order, lambda entry: float(len(entry.tokens)))


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


def filled(*entries: WorkerTask, **how) -> Waiting:
    queue = waiting(**how)
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


@pytest.mark.parametrize("policy", ["on-time", "lookahead"])
@given(
    tasks=st.lists(
        st.tuples(st.integers(1, 9), st.none() | st.integers(1, 30)), min_size=1, max_size=12
    ),
    window=st.integers(1, 4),
    most=st.integers(0, 3),
)
def test_everyone_starts_once_and_after_few_of_those_behind_it(
    policy: str, tasks, window: int, most: int
):
    """By lookahead each counts by itself; else those before it may be passed over too."""
    queue = filled(
        *(
            entry(f"t{i:02}", arrived=float(i), tokens=tokens, ttft_s=ttft_s)
            for i, (tokens, ttft_s) in enumerate(tasks)
        ),
        policy=policy,
        window=window,
        max_passes=most,
    )
    begun = order(queue)
    assert sorted(begun) == [f"t{i:02}" for i in range(len(tasks))]
    for i in range(len(tasks)):
        name = f"t{i:02}"
        allowed = most if policy == "lookahead" else most * (i + 1)
        assert sum(other > name for other in begun[: begun.index(name)]) <= allowed


def test_a_reply_that_goes_on_counts_for_nobody_whom_it_passes_over():
    back = entry("back", arrived=1.0)
    back.task = replace(back.task, replied=4)
    back.back_by = 6.0
    queue = filled(old := entry("old"), back, new := entry("new", arrived=2.0))
    queue.start(back)
    assert old.passed == 0
    queue.start(new)
    assert old.passed == 1


def test_others_are_tried_in_order_behind_the_one_that_was_chosen():
    queue = filled(
        first := entry("first", ttft_s=9.0),
        third := entry("third", arrived=2.0, ttft_s=9.0),
        second := entry("second", arrived=1.0, ttft_s=9.0),
        entry("lesser", arrived=0.5, priority=1),
        window=9,
    )
    assert queue.behind(0.0) == []
    assert queue.next(0.0) is first
    assert queue.behind(0.0) == [second, third]
    first.passed = 1
    assert queue.behind(0.0) == [second, third]
    assert queue.behind(10.0) == [third]  # the other is late
    first.passed = 2
    assert queue.behind(0.0) == []


def test_a_reply_under_way_goes_before_all_prompts():
    lost = entry("lost", arrived=5.0, tokens=9, ttft_s=1.0)
    lost.task = replace(lost.task, replied=4)
    old, new = entry("old", ttft_s=0.5), entry("new", arrived=6.0, ttft_s=2.0)
    assert order(filled(old, new, lost), now=6.0) == [
        "lost",
        "new",
        "old",
    ]
