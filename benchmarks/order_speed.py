"""How long does it take to order a prefill queue? By the tasks that may change places.

`measure` gives windows of random tasks that cannot all be on time: otherwise nothing is searched.
"""

import time
from random import Random

from benchmarks.figures import percentile
from serving.policy.on_time import on_time
from serving.policy.views import QueuedView

WINDOWS = 64  # different ones, in turn
MAX_PASSES = 4


def measure(size: int, seconds: float) -> dict[str, float]:
    """Return a call's microseconds of processor time for windows of `size`, for about `seconds`."""
    random = Random(size)
    windows = [_window(random, size) for _ in range(WINDOWS)]
    calls: list[float] = []
    until = time.thread_time() + seconds
    while len(calls) < WINDOWS or time.thread_time() < until:
        window = windows[len(calls) % WINDOWS]
        start = time.thread_time()
        on_time(window, 0.0, max_passes=MAX_PASSES)
        calls.append(time.thread_time() - start)
    return {
        "median_us": percentile(calls, 0.5) * 1e6,
        "p99_us": percentile(calls, 0.99) * 1e6,
        "calls": len(calls),
    }


def _window(random: Random, size: int) -> list[QueuedView]:
    """The first task is late whatever is done; the others' targets are about half the queue."""
    rest = [
        QueuedView(random.uniform(0.05, 0.5), random.uniform(0.1, 0.15 * size), 0)
        for _ in range(size - 1)
    ]
    return [QueuedView(0.5, 0.1, 0), *rest]
