"""Which row gives its memory to others? The worker's tasks as policy/aside sees them.

And by when a row that stood aside has to be back. Holds no tasks.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from math import inf

from serving.core.own_decisions import OwnDecisions
from serving.core.pace import Pace
from serving.core.queue_order import Duration
from serving.core.restoring import Restoring
from serving.core.rows import Rows
from serving.core.worker_task import Stage, WorkerTask
from serving.costs.costs import Costs
from serving.policy.aside import Aside, AsideConfig, aside, asks, give_way
from serving.policy.views import AsideView, AskingView


@dataclass(frozen=True, slots=True)
class Seen:
    """Rows that decode with a target, and how they look, until one leaves or time passes.

    `most_pages`: what as many of them as may stand aside for one turn hold at most.
    """

    rows: Sequence[WorkerTask]
    views: Sequence[AsideView]
    most_pages: int


class Asking:
    """Decides for one worker."""

    def __init__(
        self,
        config: AsideConfig,
        rows: Rows,
        restoring: Restoring,
        costs: Costs,
        pace: Pace,
        duration_s: Duration,
        decisions: OwnDecisions,
    ) -> None:
        """What is decided is noted in `decisions`; `costs` price a step of the worker.

        `pace` knows what targets nobody could meet, `duration_s` how long until a first token.
        """
        self._config = config
        self._rows = rows
        self._restoring = restoring
        self._costs = costs
        self._pace = pace
        self._duration_s = duration_s
        self._decisions = decisions

    def let_wait(self, task: WorkerTask, now: float) -> None:
        """A task is about to wait; if it has time to spare it says by when it has to be started.

        Others may go before it until then. A reply under way without time to spare goes first.
        """
        if not task.decodes_here or not self._has_target(task):
            return
        spare_s = self._can_wait_s(task, now, self._duration_s(task))
        if spare_s > 0 or self._late(task, now):
            task.back_by = now + spare_s

    def asks(self, task: WorkerTask, now: float, *, blocks: bool) -> AskingView | None:
        """Say how a task looks that asks now, and None if it does not.

        `blocks`: nobody may go before it any more.
        """
        config, ttft_s = self._config, task.task.slo.ttft_s
        if not task.decodes_here or ttft_s is None:
            return None
        returns = task.back_by is not None
        asking = AskingView(
            priority=task.task.turn.priority,
            tokens=len(task.tokens),
            left=_left(task),
            left_s=task.due - now - self._duration_s(task),
            ask_from_s=config.back_before_s if returns else config.ask_from * ttft_s,
            blocks=blocks,
        )
        return asking if asks(asking) else None

    def choose(
        self,
        task: WorkerTask,
        asking: AskingView,
        seen: Seen,
        fits: Callable[[Collection[WorkerTask]], bool],
    ) -> list[WorkerTask]:
        """Choose who of the rows `seen` stands aside for a task that asks; nobody for nothing.

        `fits` says whether the task has room once some rows have left.
        """
        chosen: list[Aside] = []
        left = list(range(len(seen.rows)))
        while len(chosen) < self._config.most:
            one = aside(asking, [seen.views[i] for i in left], self._config)
            if one is None:
                return []
            chosen.append(Aside(left.pop(one.row), one.reason))
            if fits([seen.rows[each.row] for each in chosen]):
                return [self._told(task, seen, each) for each in chosen]
        return []

    def give_way(
        self, short: WorkerTask, tasks: Iterable[WorkerTask], priority: int, now: float
    ) -> WorkerTask | None:
        """Choose who stands aside because rows have run short of pages, `short` before others.

        Nobody of a class more urgent than `priority`. None: by their targets nobody may.
        """
        seen = self.see(tasks, now)
        chosen = give_way(seen.views, priority, self._config)
        return None if chosen is None else self._told(short, seen, chosen)

    def see(self, tasks: Iterable[WorkerTask], now: float) -> Seen:
        """List the rows that decode with a target, of those that hold slots, and how they look.

        One whose first token here is yet to be read stays: it would have come back for nothing.
        """
        holders = [one for one in tasks if one.decodes_here]
        leader = min(holders, key=_age, default=None)
        read = [one for one in holders if one.stage is Stage.DECODE and not one.is_unread]
        rows = [one for one in read if self._has_target(one)]
        most_pages = sum(nlargest(self._config.most, (len(one.pages) for one in rows)))
        views = [self._view(one, now, leads=one is leader) for one in rows]
        return Seen(rows, views, most_pages)

    def _told(self, gains: WorkerTask, seen: Seen, chosen: Aside) -> WorkerTask:
        """Note who was chosen for the task that gains by it, and return it."""
        row, view = seen.rows[chosen.row], seen.views[chosen.row]
        details = {
            "for": gains.task.id.turn,
            "pages": len(row.pages),
            "replied": row.replied,
            "left": view.left,
            "spare_s": view.spare_s,
        }
        self._decisions.about("aside", row, chosen.reason, details)
        return row

    def _view(self, row: WorkerTask, now: float, *, leads: bool) -> AsideView:
        left, again_s = _left(row), self._restoring.restore_s(row)
        return AsideView(
            priority=row.task.turn.priority,
            tokens=len(row.tokens),
            left=left,
            left_s=left * self._step_s(),
            again_s=again_s,
            spare_s=self._can_wait_s(row, now, again_s),
            back_s=now - row.since[0] if row.task.replied else inf,
            late=self._late(row, now),
            leads=leads,
        )

    def _can_wait_s(self, row: WorkerTask, now: float, again_s: float) -> float:
        """Return how long a row can be away whose KV takes `again_s` to have again.

        Twice that is set aside: once for it, and once for what others of its worker do meanwhile.
        """
        return self._spare_s(row, now, self._config.counted_left) - 2 * again_s

    def _spare_s(self, row: WorkerTask, now: float, counted: float) -> float:
        """Return how long a row can stand still if a share of what it has left makes up for it."""
        tpot_s = row.task.slo.tpot_s
        assert tpot_s is not None
        made_up_s = counted * _left(row) * max(0.0, tpot_s - self._step_s())
        had_s = tpot_s * max(0, row.replied - 1) - (now - row.began_at)
        return had_s + made_up_s

    def _late(self, row: WorkerTask, now: float) -> bool:
        """Tell whether a row misses a target whatever becomes of it."""
        ttft_s = row.task.slo.ttft_s
        was_late = ttft_s is not None and row.began_at - row.task.arrived > ttft_s
        return was_late or self._spare_s(row, now, 1.0) < 0

    def _step_s(self) -> float:
        """Predict a step of the rows that decode now."""
        return self._costs.decode(max(1, len(self._rows.active())), self._rows.kv_tokens()).seconds

    def _has_target(self, task: WorkerTask) -> bool:
        """Tell whether a reply is under way with a target for its tokens that can be met at all."""
        tpot_s = task.task.slo.tpot_s
        return task.replied > 0 and tpot_s is not None and tpot_s >= self._pace.least_s


def _age(task: WorkerTask) -> tuple[int, float]:
    return task.task.turn.priority, task.task.arrived


def _left(task: WorkerTask) -> float:
    most = task.task.turn.sampling.max_tokens - task.replied
    return min(task.remaining.expected(), most)
