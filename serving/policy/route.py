"""Who prefills a turn's new tokens: its owner, or a prefill worker?

The plain rule of a disaggregated server: a prefill worker if there is one. The history comes from
the owner: the prefill worker pulls the pages that it lacks, so no token is computed twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.messages import WorkerId
from serving.policy.views import DecodeView, PrefillView, TaskView


@dataclass(frozen=True, slots=True)
class Local:
    """The owner prefills."""

    reason: str


@dataclass(frozen=True, slots=True)
class Remote:
    """`worker` prefills and hands over to the owner."""

    worker: WorkerId
    reason: str


def route(task: TaskView, owner: DecodeView, prefills: Sequence[PrefillView]) -> Local | Remote:
    """Choose the prefill worker with the fewest queued tokens; ties: fewer turns, smaller id."""
    del task, owner  # the plain rule looks at neither; its successors will
    if not prefills:
        return Local("no_prefill_worker")
    best = min(prefills, key=lambda w: (w.queued, w.turns, w.worker))
    return Remote(best.worker, "shortest_prefill_queue")
