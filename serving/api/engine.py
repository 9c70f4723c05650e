"""What does the endpoint need from an engine? The seam between HTTP and scheduling.

Knows nothing of workers, pages or JAX: turns go in, tokens come out.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

from serving.messages import (
    Deliver,
    End,
    EngineState,
    LoadReport,
    Role,
    WorkerId,
    WorkerMeans,
    WorkerStatus,
)
from serving.request import Turn, TurnId


@runtime_checkable
class Reply(Protocol):
    """Any number of `Deliver`, then exactly one `End`, then StopAsyncIteration.

    Whatever is ready when the reader comes back is coalesced into one `Deliver`.
    """

    def wake_at_end(self) -> None:
        """From now on bring what is left of the reply as one `Deliver`, just before its `End`."""
        ...

    def __aiter__(self) -> AsyncIterator[Deliver | End]:
        """Return itself."""
        ...

    async def __anext__(self) -> Deliver | End:
        """Wait for what comes next."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Takes turns and gives replies. All methods are called in the event loop's thread."""

    def submit(self, turn: Turn) -> Reply:
        """Start a turn. Raises nothing: a refused turn's reply begins with its `End`.

        One that follows another starts with its first token, and is refused only with it.
        """
        ...

    def cancel(self, turn: TurnId, reason: str) -> None:
        """Stop a turn in any state; its reply still ends with one `End`. Unknown ids: no effect."""
        ...

    def reset_prefix_cache(self) -> None:
        """Forget what is computed and in no running turn's use, before any later turn."""
        ...

    @property
    def state(self) -> EngineState:
        """Where the engine stands now."""
        ...

    def reports(self) -> Sequence[LoadReport]:
        """Return the last report of every worker, in the workers' stable order."""
        ...

    def step_ages(self) -> Mapping[WorkerId, float]:
        """Return for how long (seconds) every worker's oldest step has been out; 0: none is."""
        ...

    def means(self) -> Sequence[WorkerMeans]:
        """Return what the policies see of the workers' last seconds."""
        ...

    def workers(self) -> Sequence[WorkerStatus]:
        """Return what every worker does now, in their stable order."""
        ...

    def set_role(self, worker: WorkerId, role: Role | None) -> str | None:
        """Let a worker take another role, or none, once it has drained.

        Returns in one line why it cannot, and then changes nothing; None if it will.
        """
        ...
