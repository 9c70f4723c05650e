"""May a task have pages now, beside the rows that are there and will grow?

There must be pages for all of them, and the step that they make together must not be longer than
most of them may take for a token: one row more would cost more targets than it can meet. What waits
for that misses its own first token at worst, and most rows keep theirs.
"""

from dataclasses import dataclass

from serving.policy.views import PaceView, PoolView


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


def admit(pool: PoolView, *, missing: int, growth: int, pace: PaceView | None) -> Admit | Defer:
    """Admit a task if its `missing` pages fit beside the likely `growth` of all rows, its own too.

    `growth` is policy/reserve's. What outgrows it is what policy/preempt is for. A task that is
    alone needs only the pages of its prompt and the next token: it may be longer than any reserve,
    and nothing would ever make more room. `pace` is None where time per token does not count.
    """
    if missing > pool.available:
        return Defer("pages")
    if pool.live == 0:
        return Admit("alone")
    if missing + growth > pool.available:
        return Defer("growth")
    if pace is not None and not _keeps_pace(pace):
        return Defer("pace")
    return Admit("fits")


def _keeps_pace(pace: PaceView) -> bool:
    """Tell whether at least half of the rows would be within their targets in such steps.

    Targets that not even a row alone could meet do not count, and keep nobody out.
    """
    within = [target for target in pace.targets if target is None or target >= pace.least_s]
    late = sum(target is not None and target * pace.share < pace.step_s for target in within)
    return 2 * late <= len(within)
