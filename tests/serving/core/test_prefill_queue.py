"""The order of prefills on one worker: who goes first, who is passed over, and not for ever."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.prefill_queue import PrefillQueue
from serving.core.queue_order import QueueOrder
from serving.core.worker_task import WorkerTask, open_task
from serving.policy.order import ORDER_POLICIES
from serving.request import Slo
from tests.support.one_worker import prefill, task


def entry(name: str, *, arrived=0.0, tokens=1, ttft_s=None, priority=0, replied=0) -> WorkerTask:
    work = task(name, range(tokens), priority=priority)
    work = replace(work, arrived=arrived, slo=Slo(ttft_s, None), replied=replied)
    return open_task(prefill(work), 4)


def a_second_a_token(one: WorkerTask) -> float:
    return float(len(one.tokens) - one.kv_len)


def queue_of(*entries: WorkerTask, order="on-time", window=4, max_passes=2) -> PrefillQueue:
    queue = PrefillQueue(QueueOrder(ORDER_POLICIES[order], window, max_passes))
    for one in entries:
        queue.add(one)
    return queue


def names(queue: PrefillQueue, now=0.0) -> list[str]:
    return [one.task.turn.id for one in queue.arranged(now, a_second_a_token)]


def run(queue: PrefillQueue, one: WorkerTask) -> None:
    """Prefill some of a task."""
    if not one.computed:
        queue.begin(one)
    one.computed += 1
    one.kv_len += 1


def test_without_targets_it_is_priority_then_age():
    late, urgent = entry("late", arrived=2.0), entry("urgent", arrived=3.0, priority=-1)
    assert names(queue_of(late, entry("early"), urgent)) == ["urgent", "early", "late"]


def test_a_short_prompt_passes_a_long_one_if_both_are_in_time_only_so():
    queue = queue_of(entry("long", tokens=9, ttft_s=20.0), entry("short", tokens=2, ttft_s=3.0))
    assert names(queue) == ["short", "long"]


def test_a_prompt_that_has_begun_goes_on_before_what_is_in_time_all_the_same():
    long = entry("long", tokens=9, ttft_s=20.0)
    queue = queue_of(long)
    assert names(queue) == ["long"]
    run(queue, long)
    queue.add(entry("short", tokens=2, ttft_s=10.0))
    assert names(queue) == ["long", "short"]


def test_it_waits_for_a_short_one_that_is_in_time_only_so():
    long = entry("long", tokens=9, ttft_s=20.0)
    queue = queue_of(long)
    run(queue, long)
    short = entry("short", tokens=2, ttft_s=3.0)
    queue.add(short)
    assert names(queue) == ["short", "long"]
    assert queue.begin(short) == 1
    assert long.passed == 1
    queue.discard(short)
    assert names(queue) == ["long"]


def test_who_rides_in_a_step_behind_another_passes_nobody_over():
    first, second = entry("first", tokens=9), entry("second", arrived=1.0)
    queue = queue_of(first, second)
    assert names(queue) == ["first", "second"]
    run(queue, first)
    assert queue.begin(second) == 0
    assert first.passed == 0


@pytest.mark.parametrize("order", ["on-time", "lookahead"])
def test_it_does_not_wait_for_ever(order: str):
    long = entry("long", tokens=9, ttft_s=0.5)
    queue = queue_of(long, order=order, max_passes=2)
    run(queue, long)
    waited = 0
    for number in range(5):
        short = entry(f"short {number}", arrived=1.0 + number, tokens=1, ttft_s=1.5)
        queue.add(short)
        if names(queue, now=1.0 + number)[0] == "long":
            break
        run(queue, short)
        queue.discard(short)
        waited += 1
    assert waited == 2


def test_but_not_before_a_higher_priority():
    long = entry("long", tokens=9)
    queue = queue_of(long)
    run(queue, long)
    queue.add(entry("urgent", priority=-1))
    assert names(queue) == ["urgent", "long"]


def test_only_the_window_changes_places():
    first, second = entry("a", tokens=9), entry("b", tokens=9, arrived=0.1)
    third = entry("c", tokens=1, arrived=0.2, ttft_s=1.0)
    assert names(queue_of(first, second, third, window=2)) == ["a", "b", "c"]
    assert names(queue_of(first, second, third, window=3)) == ["c", "a", "b"]


def test_who_begins_first_passes_over_the_older_ones():
    old, new = entry("old", tokens=9), entry("new", arrived=0.5, tokens=1, ttft_s=1.0)
    queue = queue_of(old, new)
    assert names(queue) == ["new", "old"]
    assert queue.begin(new) == 1
    assert (old.passed, new.passed) == (1, 0)


def test_replies_under_way_go_first_however_late_their_first_token_was():
    resumed = entry("resumed", arrived=2.0, tokens=9, ttft_s=0.5, replied=3)
    short = entry("short", arrived=3.0, ttft_s=1.5)
    assert names(queue_of(short, entry("old"), resumed), now=3.0) == ["resumed", "short", "old"]


def test_late_ones_do_not_fill_the_window():
    late = [entry(f"late {i}", arrived=0.1 * i, tokens=9, ttft_s=1.0) for i in range(4)]
    queue = queue_of(*late, entry("short", arrived=4.0, ttft_s=1.5), window=2)
    expected = ["short", *(f"late {i}" for i in range(4))]
    assert names(queue, now=4.0) == expected
    queue = queue_of(*late, entry("short", arrived=4.0, ttft_s=1.5), order="lookahead", window=3)
    assert names(queue, now=4.0)[0] == "late 0"


def test_of_those_passed_over_only_the_first_counts():
    late = [entry(f"late {i}", arrived=0.1 * i, tokens=9, ttft_s=1.0) for i in range(3)]
    short = entry("short", arrived=4.0, ttft_s=1.5)
    for order, counted in (("on-time", [1, 0, 0]), ("lookahead", [1, 1, 1])):
        queue = queue_of(*late, short, order=order, window=4)
        assert names(queue, now=4.0)[0] == "short"
        assert queue.begin(short) == 3
        assert [one.passed for one in late] == counted
        for one in late:
            one.passed = 0


def test_what_is_gone_is_in_no_order():
    one = entry("a")
    queue = queue_of(one)
    queue.discard(one)
    queue.discard(one)
    assert (names(queue), len(queue)) == ([], 0)


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=12),
    st.sampled_from(["on-time", "lookahead"]),
    st.integers(1, 4),
    st.integers(0, 3),
)
def test_the_first_is_passed_over_no_more_often_than_allowed(lengths, order, window, max_passes):
    """A prompt that is late anyhow waits for others that are in time only if they are first."""
    old = entry("old", tokens=5, ttft_s=0.5)
    queue = queue_of(old, order=order, window=window, max_passes=max_passes)
    began: list[str] = []
    for number, length in enumerate(lengths):
        name = f"n{number}"
        queue.add(entry(name, arrived=1.0 + number, tokens=length, ttft_s=length + 0.5))
        head = queue.arranged(1.0 + number, a_second_a_token)[0]
        queue.begin(head)
        head.computed = 1
        queue.discard(head)
        began.append(head.task.turn.id)
    assert old.passed <= max_passes
    assert "old" in began or len(began) <= max_passes
