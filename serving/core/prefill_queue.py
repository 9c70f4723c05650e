"""Which of the tasks that have pages and a slot is prefilled next? The queue of a step's chunks.

By priority; within one, those that have begun go on first, then as many as possible are to meet
their targets (policy/order) within a bounded window of those first come, then the others by age.
The order is chosen anew when a task joins, begins or leaves. Knows no steps and no pages.
"""

from collections.abc import Callable, Sequence

from serving.core.waiting import age
from serving.core.worker_task import WorkerTask
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
            self._tasks.sort(key=age)
            begun = [task for task in self._tasks if task.computed]
            fresh = [task for task in self._tasks if not task.computed]
            # Stable: within a priority whoever has begun stays in front.
            tasks = [*begun, *self._ordered(fresh, now, view)]
            self._tasks = sorted(tasks, key=lambda task: task.task.turn.priority)
            self._arranged = True
        return self._tasks

    def begin(self, task: WorkerTask) -> int:
        """A task is about to run for the first time; returns how many older ones it passes over."""
        self._arranged = False
        passed = [
            other
            for other in self._tasks
            if not other.computed and other is not task and age(other) < age(task)
        ]
        for other in passed:
            other.passed += 1
        return len(passed)

    def _ordered(
        self, fresh: list[WorkerTask], now: float, view: Callable[[WorkerTask], QueuedView]
    ) -> list[WorkerTask]:
        window = [
            task
            for task in fresh[: self._window]
            if task.task.turn.priority == fresh[0].task.turn.priority
        ]
        if len(window) < 2 or all(task.task.slo.ttft_s is None for task in window):
            return fresh
        places = order([view(task) for task in window], now, max_passes=self._max_passes)
        return [*(window[place] for place in places), *fresh[len(window) :]]
