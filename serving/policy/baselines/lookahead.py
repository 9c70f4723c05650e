"""In which order do the first few tasks of a prefill queue run, so that most first tokens are on
time? AMPD's rule (papers.md 3.4).

Bounded lookahead: of all orders of a small window the one that meets the most deadlines. Exact, by
dynamic programming over the sets of tasks that have run. In a queue that is late as a whole the
window holds late tasks only, and nothing is left to be won (policy/on_time).

What AMPD does with ties is not published. Ours go to the least total lateness, so that a queue in
time is served first come, first served; the reconstruction in papers.md takes the least sum of
finishing times, which would put its shortest task first.

Nothing starves: a task is passed over at most `max_passes` times, so it runs at the latest after
those in front of it and `max_passes` others. For `passed` rises only when a task behind it is
started first, and once it has reached `max_passes` nobody behind may be, exhausted too or not. (If
one exhausted task might pass another, arrivals that are put in front could keep that up without
end.) `max_passes` 0 is first come, first served.
"""

from collections.abc import Sequence
from math import inf

from serving.policy.views import QueuedView

_TICKS_PER_S = 1_000_000_000


def lookahead(window: Sequence[QueuedView], now: float, *, max_passes: int) -> tuple[int, ...]:
    """Return the indices of `window`, given first come first, in the order to run them.

    The order meets the most deadlines of those in which no exhausted task is passed over; ties go
    to the least total lateness, then to the first come. Tasks run one after the other from `now`,
    whole; one that ends at its deadline is on time. Takes `n * 2**n` steps for n tasks unless the
    given order is on time throughout, so the caller bounds the window (up to 8).
    """
    # Whole nanoseconds, so that equal sums are equal and ties are ties.
    durations = [round(task.duration_s * _TICKS_PER_S) for task in window]
    slacks = [_ticks(task.deadline - now) for task in window]
    if _all_on_time(durations, slacks):
        return tuple(range(len(window)))
    return _best(durations, slacks, _blockers(window, max_passes))


def _ticks(seconds: float) -> float:
    return seconds if seconds in (inf, -inf) else round(seconds * _TICKS_PER_S)


def _all_on_time(durations: Sequence[int], slacks: Sequence[float]) -> bool:
    finish = 0
    for duration, slack in zip(durations, slacks, strict=True):
        finish += duration
        if finish > slack:
            return False
    return True


def _blockers(window: Sequence[QueuedView], max_passes: int) -> list[int]:
    """Return for each task, as bits, the exhausted ones in front of it: they go first."""
    blockers: list[int] = []
    exhausted = 0
    for i, task in enumerate(window):
        blockers.append(exhausted)
        if task.passed >= max_passes:
            exhausted |= 1 << i
    return blockers


def _best(
    durations: Sequence[int], slacks: Sequence[float], blockers: Sequence[int]
) -> tuple[int, ...]:
    """Solve from the back: `value[done]` is the least (late tasks, lateness) that can follow."""
    count = len(durations)
    every = (1 << count) - 1
    elapsed = [0] * (every + 1)
    for done in range(1, every + 1):
        lowest = done & -done
        elapsed[done] = elapsed[done ^ lowest] + durations[lowest.bit_length() - 1]
    value: list[tuple[int, float]] = [(0, 0)] * (every + 1)
    first = [0] * (every + 1)
    for done in range(every - 1, -1, -1):
        best: tuple[int, float] | None = None
        for i in range(count):
            bit = 1 << i
            if done & bit or blockers[i] & ~done:
                continue
            after = done | bit
            lateness = elapsed[after] - slacks[i]
            late, total = value[after]
            if lateness > 0:
                late, total = late + 1, total + lateness
            if best is None or (late, total) < best:
                best, first[done] = (late, total), i
        assert best is not None, "the first task that is left is blocked by none that is left"
        value[done] = best
    chosen: list[int] = []
    done = 0
    while done != every:
        chosen.append(first[done])
        done |= 1 << first[done]
    return tuple(chosen)
