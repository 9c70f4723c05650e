"""Which of the tasks that wait for pages and a slot comes next? A queue with a bounded lookahead.

By priority, then age; at its head a few tasks of one priority may change places so that more of
them meet their targets (policy/order). Whoever was chosen stays chosen until it is started or
leaves, so that nobody overtakes a task that waits for room: a large one would else wait for ever.
"""

from bisect import insort
from collections.abc import Callable

from serving.core.worker_task import Stage, WorkerTask
from serving.messages import TaskId
from serving.policy.order import order
from serving.policy.views import QueuedView


def age(task: WorkerTask) -> tuple[int, float, TaskId]:
    """Sort key of every queue: priority, then first arrival, then id."""
    return (task.task.turn.priority, task.task.arrived, task.task.id)


class Waiting:
    """The only writer of one worker's queue."""

    def __init__(
        self, *, window: int, max_passes: int, view: Callable[[WorkerTask], QueuedView]
    ) -> None:
        """Look at `window` tasks at the head; `view` tells how long each takes, and its target."""
        self._window = window
        self._max_passes = max_passes
        self._view = view
        self._tasks: list[WorkerTask] = []
        self._chosen: WorkerTask | None = None

    def __len__(self) -> int:
        """Count the tasks that wait."""
        return len(self._tasks)

    @property
    def tokens(self) -> int:
        """Count the tokens of the tasks that wait."""
        return sum(len(task.tokens) for task in self._tasks)

    def add(self, task: WorkerTask) -> None:
        """Let a task wait."""
        task.stage = Stage.WAITING
        insort(self._tasks, task, key=age)
        if self._chosen is not None and age(task) < age(self._chosen):
            self._chosen = None  # it comes back, or is more urgent: its turn is before

    def remove(self, task: WorkerTask) -> None:
        """A task waits no more, though it was not its turn."""
        self._tasks.remove(task)
        if self._chosen is task:
            self._chosen = None

    def next(self, now: float) -> WorkerTask | None:
        """Return whose turn it is; it stays in the queue. None if nobody waits."""
        if self._chosen is None and self._tasks:
            head = self._tasks[0]
            window = [
                task
                for task in self._tasks[: self._window]
                if task.task.turn.priority == head.task.turn.priority
            ]
            self._chosen = head
            if len(window) > 1 and any(task.task.slo.ttft_s is not None for task in window):
                views = [self._view(task) for task in window]
                self._chosen = window[order(views, now, max_passes=self._max_passes)[0]]
        return self._chosen

    def start(self, task: WorkerTask) -> int:
        """The task whose turn it was starts; returns how many before it have been passed over."""
        place = self._tasks.index(task)
        for passed in self._tasks[:place]:
            passed.passed += 1
        self.remove(task)
        return place
