"""What does a worker need from its mesh? Knows nothing of arrays: tests put plain values there."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from serving.core.plan import LoadSlot, StepPlan, StepResult


@runtime_checkable
class Executor(Protocol):
    """What a worker needs from its mesh. Effects happen in call order; only `collect` blocks."""

    def load_slot(self, load: LoadSlot) -> None:
        """Prepare a slot for a new row."""
        ...

    def launch(self, plan: StepPlan) -> Any:
        """Dispatch a step; returns what `collect` needs."""
        ...

    def has_run(self, pending: Any) -> bool:
        """Say whether `collect` would return at once."""
        ...

    def collect(self, pending: Any) -> StepResult:
        """Wait for a step and return what it sampled."""
        ...

    def offload(self, pages: Sequence[int], host_slots: Sequence[int]) -> None:
        """Copy pages to slots of host memory."""
        ...

    def fetch(self, host_slots: Sequence[int]) -> Any:
        """Start to copy slots of host memory, which are empty then, into new arrays."""
        ...

    def write(self, fetched: Any, pages: Sequence[int]) -> None:
        """Write what `fetch` brought into pages."""
        ...

    def gather(self, pages: Sequence[int]) -> Any:
        """Copy pages into one new array."""
        ...

    def scatter(self, payload: Any, pages: Sequence[int]) -> None:
        """Write pages that `gather` copied, here or on another mesh."""
        ...

    def read_trace(self, slot: int) -> Any:
        """Copy what the length head remembers of a slot's row; None if it remembers nothing."""
        ...

    def write_trace(self, slot: int, trace: Any) -> None:
        """Give a slot what `read_trace` copied, here or on another mesh."""
        ...
