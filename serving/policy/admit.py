"""May a task have pages now, beside the rows that are there and will grow?"""

from dataclasses import dataclass

from serving.policy.views import PoolView


@dataclass(frozen=True, slots=True)
class Admit:
    """Yes."""

    reason: str


@dataclass(frozen=True, slots=True)
class Defer:
    """Not now."""

    reason: str


def pages_for(tokens: int, page_size: int) -> int:
    """Pages that hold this many tokens."""
    return -(-tokens // page_size)


def admit(pool: PoolView, *, missing: int, growth: int) -> Admit | Defer:
    """Admit a task if its `missing` pages fit beside the likely `growth` of all rows, its own too.

    `growth` is policy/reserve's. What outgrows it is what policy/preempt is for. A task that is
    alone needs only the pages of its prompt and the next token: it may be longer than any reserve,
    and nothing would ever make more room.
    """
    if missing > pool.available:
        return Defer("pages")
    if pool.live == 0:
        return Admit("alone")
    if missing + growth > pool.available:
        return Defer("growth")
    return Admit("fits")
