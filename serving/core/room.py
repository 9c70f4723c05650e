"""Would a task have room? What policy/admit is asked, of the pages and rows of one worker.

Changes nothing: it is asked as well whether there would be room if some rows left.
"""

from collections.abc import Collection, Iterable

from serving.core.pace import Pace
from serving.core.pages import NOTHING, Match, PagePool
from serving.core.rows import Rows
from serving.core.shortage import growing
from serving.core.worker_task import WorkerTask
from serving.policy.admit import Admit, Defer, admit, pages_for
from serving.policy.reserve import growth
from serving.policy.views import PoolView


class Room:
    """Tells for one worker. `quantile` of what all its rows will need is set aside."""

    def __init__(self, pool: PagePool, rows: Rows, pace: Pace, *, quantile: float) -> None:
        """`pool` and `rows` are the worker's, `pace` what its steps may take."""
        self._pool = pool
        self._rows = rows
        self._pace = pace
        self._quantile = quantile

    def match(self, task: WorkerTask) -> Match:
        """Find what the pool has of a task's tokens already."""
        if not task.may_reuse:
            return NOTHING
        return self._pool.match(task.names, task.tokens, len(task.tokens) - 1)

    def missing(self, task: WorkerTask, match: Match) -> int:
        """Count the pages that a task needs beside those of its `match`."""
        return pages_for(len(task.tokens), self._pool.page_size) - match.num_pages

    def verdict(
        self,
        task: WorkerTask,
        match: Match,
        holders: Iterable[WorkerTask],
        gone: Collection[WorkerTask] = (),
    ) -> tuple[Admit | Defer, int]:
        """Decide whether a task may have pages, with those set aside for growth.

        `holders` have slots; of them the rows `gone` are taken to have left.
        """
        if not self._rows.num_free + len(gone):
            return Defer("slots"), 0
        missing = self.missing(task, match)
        rows = [row for row in holders if row not in gone]
        left = self._pool.left_by([row.pages for row in gone], but=match.full)
        pool = PoolView(self._pool.available - match.idle + left, len(rows))
        # What is not asked for costs nothing: most that wait are looked at again and again.
        reserved = self.growth(rows, task) if missing <= pool.available else 0
        pace = self._pace.view(rows, task) if missing + reserved <= pool.available else None
        return admit(pool, missing=missing, growth=reserved, pace=pace), reserved

    def growth(self, holders: Iterable[WorkerTask], coming: WorkerTask | None) -> int:
        """Predict the pages that rows will need beyond their own, `coming` among them."""
        rows = [task for task in holders if task.decodes_here]
        pages = [len(task.pages) for task in rows]
        if coming is not None and coming.decodes_here:
            rows.append(coming)
            pages.append(pages_for(len(coming.tokens), self._pool.page_size))
        if not rows:
            return 0
        view, page_size = growing(rows, pages), self._pool.page_size
        return growth(view, page_size=page_size, quantile=self._quantile)
