"""What must a way of moving KV pages offer? Knows nothing of tasks or of how a mesh computes."""

from typing import Protocol, runtime_checkable

import jax

from serving.messages import TransferId, WorkerId


@runtime_checkable
class Connector(Protocol):
    """Carries stacked pages between workers. Called from every worker's thread."""

    def send(self, transfer: TransferId, payload: jax.Array, to: WorkerId) -> int:
        """Start moving a payload to a worker's mesh; returns its size in bytes. Does not block.

        The payload is the caller's own copy: it is never written again. Raises KeyError for a
        worker that is unknown or lost.
        """
        ...

    def take(self, transfer: TransferId) -> jax.Array:
        """Return a payload sent to this worker, on this worker's mesh; KeyError if unknown.

        A payload is taken once.
        """
        ...

    def drop(self, transfer: TransferId) -> None:
        """Let go of a payload that nobody will take; no effect if it is unknown."""
        ...

    def lose(self, worker: WorkerId) -> None:
        """Let go of what was sent to a worker that is gone, and refuse what comes for it later."""
        ...
