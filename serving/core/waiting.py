"""Which of the tasks that wait for pages and a slot comes next? A queue in its policy's order.

By priority, replies under way first, then age; those that are not under way, or have time to spare,
may change places so that more of them meet their targets (core/queue_order). Whoever was chosen
stays chosen until it is started, leaves, or is reconsidered, so that nobody overtakes a task that
waits for room: a large one would else wait for ever. Where it is reconsidered it is passed over so
many times at most.
"""

from bisect import insort

from serving.core.queue_order import Duration, QueueOrder
from serving.core.worker_task import Stage, WorkerTask
from serving.messages import TaskId


def age(task: WorkerTask) -> tuple[int, bool, float, TaskId]:
    """Sort key of every queue: priority, urgent replies, then first arrival, then id."""
    return (task.task.turn.priority, not task.urgent, task.queued_from, task.task.id)


class Waiting:
    """The only writer of one worker's queue."""

    def __init__(self, order: QueueOrder, duration_s: Duration) -> None:
        """Start empty; `duration_s` tells how long a task takes."""
        self._order = order
        self._duration_s = duration_s
        self._tasks: list[WorkerTask] = []
        self._chosen: WorkerTask | None = None
        self._impatient: list[WorkerTask] = []

    @property
    def impatient(self) -> tuple[WorkerTask, ...]:
        """Those that must not wait for room, in the order in which they came."""
        return tuple(self._impatient)

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
        if not task.waits:
            self._impatient.append(task)
        if self._chosen is not None and age(task) < age(self._chosen):
            self._chosen = None  # it comes back, or is more urgent: its turn is before

    def remove(self, task: WorkerTask) -> None:
        """A task waits no more, though it was not its turn."""
        self._tasks.remove(task)
        if not task.waits:
            self._impatient.remove(task)
        if self._chosen is task:
            self._chosen = None

    def reconsider(self) -> None:
        """Choose anew whose turn it is: whoever was chosen is kept no room."""
        self._chosen = None

    def next(self, now: float) -> WorkerTask | None:
        """Return whose turn it is; it stays in the queue. None if nobody waits."""
        if self._chosen is None and self._tasks:
            self._chosen = self._order.arranged(self._tasks, now, self._duration_s)[0]
        return self._chosen

    def blocks(self, task: WorkerTask) -> bool:
        """Whether nobody may go before a task any more."""
        return self._order.exhausted(task)

    def behind(self, now: float) -> list[WorkerTask]:
        """List those that may go before whoever was chosen, in the order to try them.

        Who can be in time: what is late comes and goes at the expense of others. Nobody goes before
        a reply whose client waits, nor before who was passed over too often.
        """
        if self._chosen is None or self._chosen.urgent or self.blocks(self._chosen):
            return []
        chosen, priority = self._chosen, self._chosen.task.turn.priority
        arranged = self._order.arranged(self._tasks, now, self._duration_s)
        others = (one for one in arranged if one.task.turn.priority == priority)
        return [one for one in others if one is not chosen and one.due > now]

    def start(self, task: WorkerTask) -> int:
        """A task starts; returns how many before it are passed over.

        They count that of new turns: replies that go on are finitely many without those, and end.
        """
        place = self._tasks.index(task)
        if not task.task.replied:
            self._order.pass_over(self._tasks[:place])
        self.remove(task)
        return place
