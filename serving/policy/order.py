"""Who goes first of those that wait to be prefilled? The rules that may say so, by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.policy.baselines.lookahead import lookahead
from serving.policy.on_time import on_time
from serving.policy.views import QueuedView


class Arrange(Protocol):
    """Orders tasks that are given first come first."""

    def __call__(
        self, queue: Sequence[QueuedView], now: float, /, *, max_passes: int
    ) -> tuple[int, ...]:
        """Return the indices in the order to run them."""
        ...


@dataclass(frozen=True, slots=True)
class OrderPolicy:
    """A rule, and what it needs to be told.

    `past_late`: of the tasks whose deadline is over it looks at the first only, so that its window
    holds those that can still be in time. `counts_all`: each task that is passed over counts that;
    else only the first does. Its window has `window` tasks by default and `most` at most.
    """

    arrange: Arrange
    past_late: bool
    counts_all: bool
    window: int
    most: int


def arrival(queue: Sequence[QueuedView], now: float, *, max_passes: int) -> tuple[int, ...]:
    """First come, first served."""
    del now, max_passes
    return tuple(range(len(queue)))


ORDER_POLICIES: Mapping[str, OrderPolicy] = {
    "on-time": OrderPolicy(on_time, past_late=True, counts_all=False, window=64, most=1024),
    "lookahead": OrderPolicy(lookahead, past_late=False, counts_all=True, window=3, most=8),
    "arrival": OrderPolicy(arrival, past_late=False, counts_all=True, window=1, most=1024),
}
