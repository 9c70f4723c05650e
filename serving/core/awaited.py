"""Which tasks wait for another worker's word, and until when? A deadline bounds silence.

A transfer may last as long as its link makes it last: whatever comes of it renews the deadline of
its task, at its sender (`acknowledged`) and at its receiver (`arrived`). Payloads of one way come
one behind the other, in the order of their announcements, so that what comes also tells of those
behind it, which could not come before it; and of none before it, which should have. Hence payloads
that come renew a deadline a limited number of times, and what is lost is given up.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.core.worker_task import Stage, WorkerTask
from serving.messages import Ack, PagesReady, WorkerId

WAITING_FOR_PAGES = (Stage.PULLING, Stage.FETCHING, Stage.GRANTED)
"""No acknowledgement concerns these: they have sent nothing."""


@dataclass(slots=True)
class _Wait:
    """Whose word is awaited, for how long after the last one (seconds), and until when.

    Of the transfers sent to it, those with numbers up to `sent` may come before the task's own.
    """

    peer: WorkerId
    patience_s: float
    deadline: float
    sent: int

    def renew(self, now: float) -> None:
        self.deadline = now + self.patience_s


class Awaited:
    """The tasks of one worker that end, or go on in another way, if a peer is silent too long."""

    def __init__(self, timeout_s: float, sent: Callable[[], int]) -> None:
        """Start with none; `timeout_s` is how long a peer may be silent (seconds).

        `sent` returns the number of the worker's last transfer.
        """
        self._timeout_s = timeout_s
        self._sent = sent
        self._waits: dict[WorkerTask, _Wait] = {}  # those that have waited longest first

    def __len__(self) -> int:
        """Count them."""
        return len(self._waits)

    def __contains__(self, entry: WorkerTask) -> bool:
        """Tell whether a task waits."""
        return entry in self._waits

    def begin(self, entry: WorkerTask, peer: WorkerId, now: float, *, timeouts: int = 1) -> None:
        """A task waits for a peer's word from now on, for so many timeouts after each."""
        patience_s = timeouts * self._timeout_s
        self._waits[entry] = _Wait(peer, patience_s, now + patience_s, self._sent())

    def end(self, entry: WorkerTask) -> None:
        """A task waits no more; no effect if it did not."""
        self._waits.pop(entry, None)

    def acknowledged(self, ack: Ack, now: float) -> list[WorkerTask]:
        """A peer has taken a payload; returns the task that sent it, and those behind it."""
        number = ack.transfer.number
        told: list[WorkerTask] = []
        for entry, wait in self._waits.items():
            if wait.peer != ack.worker or entry.stage in WAITING_FOR_PAGES:
                continue
            if number <= wait.sent or any(own.number >= number for own in entry.unacked):
                wait.renew(now)
                told.append(entry)
        return told

    def arrived(self, ready: PagesReady, now: float) -> None:
        """A payload has come from a peer, for whatever task.

        It tells of all rows that move here from there, and of the pull that it belongs to, and of
        those asked for later. What was to come of an earlier one is late.
        """
        asked_before = True
        for entry, wait in self._waits.items():
            if wait.peer != ready.transfer.sender:
                continue
            if entry.stage in (Stage.PULLING, Stage.FETCHING):
                asked_before &= entry.task.id != ready.task
                if not asked_before:
                    wait.renew(now)
            elif entry.stage is Stage.GRANTED:
                wait.renew(now)

    def overdue(self, now: float) -> list[WorkerTask]:
        """Return the tasks whose peers have been silent for too long."""
        return [entry for entry, wait in self._waits.items() if wait.deadline <= now]
