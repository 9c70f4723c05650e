"""In which order do the tasks of one queue run? The queue as policy/order sees it.

By priority; within one, replies that are under way first, as given: their clients have had their
first tokens and wait for the next. The others, and replies with time to spare, are given first come
first, and change places as far as the policy wants to. Holds no tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.core.worker_task import WorkerTask
from serving.policy.order import OrderPolicy
from serving.policy.views import QueuedView

Duration = Callable[[WorkerTask], float]
"""How many seconds a task takes."""


@dataclass(frozen=True, slots=True)
class QueueOrder:
    """`window` tasks may change places, and the first be passed over `max_passes` times."""

    policy: OrderPolicy
    window: int
    max_passes: int

    def arranged(
        self, tasks: Sequence[WorkerTask], now: float, duration_s: Duration
    ) -> list[WorkerTask]:
        """Return the tasks, given by priority and then first come first, in the order to run."""
        resumed = next((i for i, task in enumerate(tasks) if not task.urgent), len(tasks))
        rest = tasks[resumed:]
        window = self._window(rest, now)
        if len(window) < 2 or all(rest[i].task.slo.ttft_s is None for i in window):
            return list(tasks)
        views = [QueuedView(duration_s(rest[i]), rest[i].due, rest[i].passed) for i in window]
        places = self.policy.arrange(views, now, max_passes=self.max_passes)
        moved = set(window)
        behind = [task for i, task in enumerate(rest) if i not in moved]
        return [*tasks[:resumed], *(rest[window[place]] for place in places), *behind]

    def exhausted(self, task: WorkerTask) -> bool:
        """Whether a task was passed over as often as it may be."""
        return task.passed >= self.max_passes

    def pass_over(self, passed: Sequence[WorkerTask]) -> None:
        """Count that tasks, given first come first, were passed over."""
        for task in passed if self.policy.counts_all else passed[:1]:
            task.passed += 1

    def _window(self, tasks: Sequence[WorkerTask], now: float) -> list[int]:
        """Return the places of those that may change theirs: some of the first's priority."""
        if not tasks:
            return []
        priority, past_late = tasks[0].task.turn.priority, self.policy.past_late
        window: list[int] = []
        for i, task in enumerate(tasks):
            if len(window) == self.window or task.task.turn.priority != priority:
                break
            if i == 0 or not past_late or task.due > now:
                window.append(i)
        return window
