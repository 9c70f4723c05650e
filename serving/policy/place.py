"""Which decode worker becomes the owner of a new session?"""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.messages import WorkerId
from serving.policy.views import DecodeView


@dataclass(frozen=True, slots=True)
class Placement:
    """The owner, and why."""

    worker: WorkerId
    reason: str


def place(workers: Sequence[DecodeView]) -> Placement | None:
    """Choose the least loaded decode worker, by share of its capacity; None if there is none.

    Load is in tokens, not in requests, so one long conversation outweighs many short ones. Ties:
    fewer turns, then fewer sessions (else a quiet server would give every conversation to one
    worker, and all of them would return there), then the smaller id.
    """
    if not workers:
        return None
    best = min(workers, key=lambda w: (w.load / w.capacity, w.turns, w.sessions, w.worker))
    return Placement(best.worker, "least_load")
