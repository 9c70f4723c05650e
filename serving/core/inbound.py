"""Which rows are about to arrive here from other workers, and is a step to wait for one of them?

A row that moves stands still from the end of its last step there to that of its first one here. If
a step has just begun here, that is two steps and more. So no step is launched ahead of time while a
row lacks one copy and its stop (`expected`), and a step that would begin shortly before the row is
here waits for it instead (`hold`): half a step at most before the time told, and half behind it.
"""

from serving.core.worker_task import Stage, WorkerTask
from serving.messages import LastStep

HELD_SHARE = 0.5
"""Of the step that the row would ride in: nobody loses more than that (ours)."""


class Inbound:
    """The rows that move to one worker; perhaps some that have come."""

    def __init__(self, *, one_copy: int) -> None:
        """Start with none. A copy moves the KV of at most `one_copy` tokens."""
        self._one_copy = one_copy
        self._rows: list[WorkerTask] = []
        self._due: dict[WorkerTask, float] = {}

    def __len__(self) -> int:
        """Count them."""
        return len(self._rows)

    def add(self, entry: WorkerTask) -> None:
        """A row is let in."""
        self._rows.append(entry)

    def told(self, last: LastStep, now: float) -> None:
        """A row's last step at its source was launched; nothing happens if it does not come."""
        for entry in self._waiting():
            if entry.task.id == last.task and entry.move == last.move:
                self._due[entry] = now + last.in_s

    @property
    def expected(self) -> bool:
        """Whether a row lacks no more than one copy and its stop."""
        return any(len(e.tokens) - e.kv_len <= self._one_copy for e in self._waiting())

    def next_due(self) -> WorkerTask | None:
        """Return the row that was told to come first; None if none was."""
        self._waiting()
        return min(self._due, key=self._due.__getitem__, default=None)

    def hold(self, entry: WorkerTask, step_s: float, now: float) -> float | None:
        """Say until when to hold back the next step of `step_s` for a row; None if not at all."""
        due, half = self._due[entry], HELD_SHARE * step_s
        return due + half if due - half <= now < due + half else None

    def _waiting(self) -> list[WorkerTask]:
        self._rows = [entry for entry in self._rows if entry.stage is Stage.GRANTED]
        self._due = {entry: self._due[entry] for entry in self._rows if entry in self._due}
        return self._rows
