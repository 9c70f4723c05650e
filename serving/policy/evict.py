"""Which idle session's pages go first, and is KV in host memory worth fetching?

The value of keeping a page is what it saves when its session returns, times how often keeping it
pays per second that memory is taken (ours; papers.md leaves eviction open). Knows neither pages nor
how returns are learned (forecast/returns).
"""

from collections.abc import Sequence
from math import inf

from serving.policy.views import IdleView


def evict(idle: Sequence[IdleView]) -> list[int]:
    """Return the indices of idle sessions, given oldest first, in the order to evict them.

    Least expected value of a page and second first: `rate * restore_s / pages`. Ties: the oldest. A
    session that would free nothing comes last.
    """
    return sorted(range(len(idle)), key=lambda i: (_value_per_page(idle[i]), i))


def page_loss_s(idle: Sequence[IdleView]) -> float:
    """Return what losing a page of idle sessions is expected to cost, in seconds of prefill.

    The mean over all their pages: of those that go first alone, it priced moves too low (LOG.md).
    """
    pages = sum(one.pages for one in idle)
    return sum(one.returns * one.restore_s for one in idle) / pages if pages else 0.0


def fetch_beats_compute(*, fetch_s: float, compute_s: float) -> bool:
    """Say whether KV is restored from host memory rather than computed again; a tie is computed."""
    return fetch_s < compute_s


def _value_per_page(idle: IdleView) -> float:
    return idle.rate * idle.restore_s / idle.pages if idle.pages else inf
