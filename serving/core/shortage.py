"""What becomes of a worker's rows that need a page when none is left? They wait, or one gives way.

Knows no pool and no queue: it is told who holds pages.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from serving.core.own_decisions import OwnDecisions
from serving.core.restoring import Restoring
from serving.core.rows import Rows
from serving.core.worker_task import Stage, WorkerTask
from serving.costs.costs import Costs
from serving.messages import Detail
from serving.policy.last_pages import FEW, last_pages
from serving.policy.pause import weigh
from serving.policy.preempt import preempt
from serving.policy.reserve import relief
from serving.policy.views import GrowingView, HolderView, ShortageView


@dataclass(frozen=True, slots=True)
class Victim:
    """Who would give up its pages, and how many steps rows would lose by that, all together."""

    task: WorkerTask
    loss_steps: float


class Shortage:
    """Decides for one worker. Tasks on their way elsewhere do not grow, and leave soon."""

    def __init__(
        self,
        rows: Rows,
        restoring: Restoring,
        costs: Costs,
        decisions: OwnDecisions,
        *,
        page_size: int,
        quantile: float,
        waits: bool,
    ) -> None:
        """What is decided is noted in `decisions`; `costs` price a step of the worker.

        `quantile`: of what all rows need, the pages that are set aside when a task is admitted.
        Unless it `waits`, one always gives way.
        """
        self._rows = rows
        self._restoring = restoring
        self._costs = costs
        self._decisions = decisions
        self._page_size = page_size
        self._quantile = quantile
        self._waits = waits

    def victim(self, tasks: Iterable[WorkerTask], available: int) -> Victim:
        """Choose who gives up its pages, of those that hold slots; `available` are free already."""
        holders = [task for task in tasks if task.decodes_here]
        pages = [len(task.pages) for task in holders]
        # What it shares with others would not be free; that is little of what rows have.
        relieved = relief(
            growing(holders, pages),
            page_size=self._page_size,
            quantile=self._quantile,
            num_pages=available + sum(pages),
        )
        running = max(1, self._rows.num_decoding)
        step_s = self._costs.decode(running, self._rows.kv_tokens()).seconds
        views = [
            HolderView(
                priority=task.task.turn.priority,
                arrived=task.task.arrived,
                pages=len(task.pages),
                # All rows stand still for as long as it takes to compute its KV beside them.
                loss_s=self._restoring.restore_s(task) * running + away * step_s,
                suffices=suffices,
            )
            for task, away, suffices in zip(
                holders, relieved.away_steps.tolist(), relieved.suffices.tolist(), strict=True
            )
        ]
        chosen = preempt(views)
        return Victim(holders[chosen], views[chosen].loss_s / step_s)

    def wait(
        self, short: Sequence[WorkerTask], tasks: Iterable[WorkerTask], victim: Victim
    ) -> bool:
        """Let rows that are short of a page wait, if that beats taking those of `victim`.

        The first of them is the first in (priority, arrival); it waits for nobody of a lower class.
        """
        if not self._waits or short[0].task.turn.priority < victim.task.task.turn.priority:
            return False
        decoding = [task for task in tasks if task.stage is Stage.DECODE]
        verdict = weigh(
            ShortageView(
                rows=growing(decoding, [len(task.pages) for task in decoding]),
                room=np.array([self._room(task) for task in decoding]),
                victim_steps=victim.loss_steps,
            )
        )
        if verdict is None or not verdict.pays:
            return False
        details = {"lost_steps": verdict.lost_steps, "saved_steps": verdict.saved_steps}
        self.pause(short, "reply_ends", details)
        return True

    def kept_from(self, task: WorkerTask, tasks: Iterable[WorkerTask], available: int) -> bool:
        """Say whether what is left is kept for another row of no lower class."""
        if not self._waits or not 0 < available <= FEW:
            return False  # as nearly always: nothing is looked at for that
        rows = [row for row in tasks if row.slot is not None and self._rows.goes_on(row.slot)]
        kept = last_pages(
            growing(rows, [len(row.pages) for row in rows]),
            available=available,
            page_size=self._page_size,
            likely=self._quantile,
        )
        if kept is None or kept.pages < available:
            return False
        row = rows[kept.row]
        return row is not task and row.task.turn.priority <= task.task.turn.priority

    def pause(
        self, tasks: Sequence[WorkerTask], reason: str, details: Mapping[str, Detail]
    ) -> None:
        """Let rows wait for a page; it is told of each once."""
        for task in tasks:
            assert task.slot is not None
            if not self._rows.is_paused(task.slot):
                self._rows.pause(task.slot)
                self._decisions.about("pause", task, reason, details)

    def _room(self, task: WorkerTask) -> int:
        """Count the tokens that a decoding row needs no page for. One that plans none ends soon."""
        assert task.slot is not None
        goes_on = self._rows.goes_on(task.slot)
        return self._rows.room(task.slot) if goes_on else self._page_size


def growing(tasks: Sequence[WorkerTask], pages: Sequence[int]) -> GrowingView:
    """Say how the rows of tasks that hold, or will hold, so many pages are likely to grow."""
    curves, since = zip(*(task.curve for task in tasks), strict=True)
    return GrowingView(
        tokens=np.array([len(task.tokens) for task in tasks]),
        pages=np.array(pages),
        left=np.array([task.task.turn.sampling.max_tokens - task.replied for task in tasks]),
        alive=np.array([curve.alive for curve in curves]),
        since=np.array(since),
    )
