"""Which of the tasks that have pages and a slot is prefilled next? The queue of a step's chunks.

By priority, replies under way first; of the others, those that have begun stand before the rest,
each by age, and as many as possible are to meet their targets (core/queue_order). So a long prompt
that has begun waits for short ones that are in time only if they go first, though not for ever. The
order is chosen anew when a task joins, begins or leaves. Knows no steps and no pages.
"""

from collections.abc import Sequence

from serving.core.queue_order import Duration, QueueOrder
from serving.core.worker_task import WorkerTask
from serving.messages import TaskId


class PrefillQueue:
    """The only writer of one worker's order of prefills. A task has begun once some of it ran."""

    def __init__(self, order: QueueOrder) -> None:
        """Start empty."""
        self._order = order
        self._tasks: list[WorkerTask] = []
        self._arranged = True

    def __len__(self) -> int:
        """Count the tasks."""
        return len(self._tasks)

    def add(self, task: WorkerTask) -> None:
        """Let a task be prefilled."""
        self._tasks.append(task)
        self._arranged = False

    def discard(self, task: WorkerTask) -> None:
        """A task is prefilled, or gone; no effect if it is not here."""
        if task in self._tasks:
            self._tasks.remove(task)
            self._arranged = False

    def arranged(self, now: float, duration_s: Duration) -> Sequence[WorkerTask]:
        """List the tasks in the order to run them; `duration_s` tells how long each takes."""
        if not self._arranged:
            self._tasks.sort(key=_by_default)
            self._tasks = self._order.arranged(self._tasks, now, duration_s)
            self._arranged = True
        return self._tasks

    def begin(self, task: WorkerTask) -> int:
        """A task is about to run for the first time; returns how many it passes over.

        Those are the ones behind it in the order last listed that have begun, or are older. One in
        front of it runs in the same step.
        """
        self._arranged = False
        behind = self._tasks[self._tasks.index(task) + 1 :]
        passed = [other for other in behind if _by_default(other) < _by_default(task)]
        self._order.pass_over(sorted(passed, key=_by_default))
        return len(passed)


def _by_default(task: WorkerTask) -> tuple[int, bool, bool, float, TaskId]:
    """Return what tasks are sorted by where no deadline says otherwise."""
    of = task.task
    return of.turn.priority, not task.urgent, not task.computed, of.arrived, of.id
