"""Which of the tasks that have pages and a slot is prefilled next? The queue of a step's chunks.

By priority; within one, those that have begun stand before the others, each by age, and within a
bounded window at the head of that as many as possible are to meet their targets (policy/order). So
a long prompt that has begun waits for short ones that are in time only if they go first, though not
for more than `max_passes` of them. The order is chosen anew when a task joins, begins or leaves.
Knows no steps and no pages.
"""

from collections.abc import Callable, Sequence

from serving.core.waiting import age
from serving.core.worker_task import WorkerTask
from serving.messages import TaskId
from serving.policy.order import order
from serving.policy.views import QueuedView


class PrefillQueue:
    """The only writer of one worker's order of prefills. A task has begun once some of it ran."""

    def __init__(self, *, window: int, max_passes: int) -> None:
        """Let `window` tasks change places, each passed over at most `max_passes` times."""
        self._window = window
        self._max_passes = max_passes
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

    def arranged(
        self, now: float, view: Callable[[WorkerTask], QueuedView]
    ) -> Sequence[WorkerTask]:
        """List the tasks in the order to run them; `view` tells how long each takes."""
        if not self._arranged:
            self._tasks.sort(key=_by_default)
            self._tasks = self._ordered(self._tasks, now, view)
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
        for other in passed:
            other.passed += 1
        return len(passed)

    def _ordered(
        self, tasks: list[WorkerTask], now: float, view: Callable[[WorkerTask], QueuedView]
    ) -> list[WorkerTask]:
        window = [
            task
            for task in tasks[: self._window]
            if task.task.turn.priority == tasks[0].task.turn.priority
        ]
        if len(window) < 2 or all(task.task.slo.ttft_s is None for task in window):
            return tasks
        places = order([view(task) for task in window], now, max_passes=self._max_passes)
        return [*(window[place] for place in places), *tasks[len(window) :]]


def _by_default(task: WorkerTask) -> tuple[int, bool, tuple[int, float, TaskId]]:
    """Return what tasks are sorted by where no deadline says otherwise."""
    return task.task.turn.priority, not task.computed, age(task)
