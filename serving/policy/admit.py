"""May a task have pages now, and how many are set aside for its growth?"""

from dataclasses import dataclass

from serving.policy.views import GrowthView, PoolView


@dataclass(frozen=True, slots=True)
class Admit:
    """Yes; `reserve` further pages are promised to its growth."""

    reserve: int
    reason: str


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now."""

    reason: str


def pages_for(tokens: int, page_size: int) -> int:
    """Pages that hold this many tokens."""
    return -(-tokens // page_size)


def admit(
    task: GrowthView, pool: PoolView, *, missing: int, page_size: int, quantile: float
) -> Admit | Defer:
    """Admit a task if its `missing` pages and its likely growth fit beside what was promised.

    The growth reserved is what its reply exceeds with at most chance `1 - quantile`, in (0, 1), or
    all that the task may produce if that is less. A reply that outgrows its reserve is what
    policy/preempt is for. A task that is alone needs only the pages of its prompt and the next
    token: it may be longer than any reserve, and nothing would ever make more room.
    """
    growth = min(task.max_new_len, task.remaining.quantile(quantile))
    reserve = pages_for(task.prompt_len + growth, page_size) - pages_for(task.prompt_len, page_size)
    if missing > pool.available:
        return Defer("pages")
    if pool.live == 0:
        return Admit(reserve, "alone")
    if missing + reserve > pool.available - pool.promised:
        return Defer("growth")
    return Admit(reserve, "fits")
