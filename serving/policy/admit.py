"""May a task have pages now, and how many are set aside for its growth?"""

from dataclasses import dataclass

from serving.policy.views import PoolView, TaskView


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
    task: TaskView, pool: PoolView, *, missing: int, page_size: int, reserve_tokens: int
) -> Admit | Defer:
    """Admit a task if its `missing` pages and its likely growth fit beside what was promised.

    The growth reserved is `reserve_tokens`, or all that the task may produce if that is less. A
    task that is alone needs only the pages of its prompt and the next token: it may be longer than
    any reserve, and nothing would ever make more room.
    """
    expected_len = task.prompt_len + min(task.max_new_len, reserve_tokens)
    reserve = pages_for(expected_len, page_size) - pages_for(task.prompt_len, page_size)
    if missing > pool.available:
        return Defer("pages")
    if pool.live == 0:
        return Admit(reserve, "alone")
    if missing + reserve > pool.available - pool.promised:
        return Defer("growth")
    return Admit(reserve, "fits")
