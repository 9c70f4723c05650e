"""In which order do the tasks of a prefill queue run, so that most first tokens are on time? Ours.

Moore's and Hodgson's algorithm (J. M. Moore, Management Science 15(1), 1968): by deadline, and
whenever a task would be late, the longest so far is given up. No other order has fewer late tasks,
and it takes `n log n` steps, so that the whole queue is looked at: where AMPD orders three tasks
(policy/baselines/lookahead), an overloaded worker has three late ones there, and behind them grow
late those that could be in time.

What is late goes behind all that is not, by age, but no further: the first of the queue is passed
over at most `max_passes` times, then goes first. Whoever has n tasks before it starts after
n + 1 times `max_passes` + 1 others at the latest.
"""

from collections.abc import Sequence
from heapq import heappop, heappush

from serving.policy.views import QueuedView

_TICKS_PER_S = 1_000_000_000


def on_time(queue: Sequence[QueuedView], now: float, *, max_passes: int) -> tuple[int, ...]:
    """Return the indices of `queue`, given first come first, in the order to run them.

    Tasks run one after the other from `now`, whole; one that ends at its deadline is on time. No
    order in which an exhausted first task goes first meets more deadlines. Those that meet theirs
    keep the given order among themselves if they meet them so, else run by deadline; the others
    follow as given.
    """
    # Whole nanoseconds, so that equal sums are equal and ties are ties.
    durations = [round(task.duration_s * _TICKS_PER_S) for task in queue]
    slacks = [(task.deadline - now) * _TICKS_PER_S + 0.5 for task in queue]
    exhausted = bool(queue) and queue[0].passed >= max_passes
    first, rest = ((0,), range(1, len(queue))) if exhausted else ((), range(len(queue)))
    start = sum(durations[i] for i in first)
    if _meet(rest, durations, slacks, start):
        return (*first, *rest)
    by_deadline = sorted(rest, key=lambda i: (slacks[i], i))
    kept = _keep(by_deadline, durations, slacks, start)
    late = [i for i in rest if i not in kept]
    as_given = sorted(kept)
    if _meet(as_given, durations, slacks, start):
        return (*first, *as_given, *late)
    return (*first, *(i for i in by_deadline if i in kept), *late)


def _keep(
    by_deadline: Sequence[int], durations: Sequence[int], slacks: Sequence[float], start: int
) -> set[int]:
    """Return the largest set of tasks that all meet their deadlines if run by them."""
    kept: list[tuple[int, int]] = []  # the longest on top, the last come of equals
    finish = start
    for i in by_deadline:
        heappush(kept, (-durations[i], -i))
        finish += durations[i]
        if finish > slacks[i]:
            shorter, _ = heappop(kept)
            finish += shorter
    return {-i for _, i in kept}


def _meet(
    tasks: Sequence[int], durations: Sequence[int], slacks: Sequence[float], start: int
) -> bool:
    finish = start
    for i in tasks:
        finish += durations[i]
        if finish > slacks[i]:
            return False
    return True
