"""What must a way of moving KV pages offer? Knows nothing of tasks or of how a mesh computes."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax

from serving.engine.probe import Trace
from serving.messages import TransferId, WorkerId


class Payload(NamedTuple):
    """What crosses in one transfer.

    `trace`: what the length head remembers of a row, with the last pages of it. None where the head
    remembers nothing, and where there is none: all workers of a deployment have the same one, or
    none has (engine/build), so what is sent can be received.
    """

    pages: jax.Array  # [L, n, 2, K, page_size, H], laid out as the worker's pool
    trace: Trace | None  # whole on every device of the worker


@runtime_checkable
class Connector(Protocol):
    """Carries stacked pages between workers. Called from every worker's thread."""

    def send(self, transfer: TransferId, payload: Payload, to: WorkerId) -> int:
        """Start moving a payload to a worker's mesh; returns its size in bytes. Does not block.

        The payload is the caller's own copy: it is never written again. Raises KeyError for a
        worker that is unknown or lost, be it the receiver or the sender.
        """
        ...

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        """Call `then` once a payload is here: a device shall not wait for another's step.

        `computed`: the step that fills it is over, and nobody minds to wait for the copy: `then`
        may be called while it is still on its way. From any thread; at once if the payload is here,
        unknown, or has failed. Payloads of one sender that are asked for in turn are told in that
        order, those that are under way when it is lost perhaps never. Does not block.
        """
        ...

    def take(self, transfer: TransferId) -> Payload:
        """Return a payload sent to this worker, on this worker's mesh. A payload is taken once.

        Waits for the copy of one that was told before it came. Raises KeyError if it is unknown,
        RuntimeError with what has kept it from arriving.
        """
        ...

    def drop(self, transfer: TransferId) -> None:
        """Let go of a payload that nobody will take; no effect if it is unknown."""
        ...

    def lose(self, worker: WorkerId) -> None:
        """Let go of what was sent to a worker that is gone, and of what has yet to come from it.

        Refuse what is sent to it or from it later.
        """
        ...
