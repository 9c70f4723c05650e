"""Which tasks hold which pages and slots of one worker? Admission, growth and release.

Knows nothing of messages, steps or devices: it is told that a task may start, grows or ends, and
keeps the accounts. What a task leaves behind stays findable by its prefix until it is evicted.
"""

from bisect import insort
from dataclasses import dataclass

from serving.core.pages import NOTHING, Match, PagePool
from serving.core.rows import Rows
from serving.core.worker_task import Stage, WorkerTask
from serving.messages import TaskId
from serving.policy.admit import Defer, admit, pages_for
from serving.policy.preempt import preempt
from serving.policy.views import HolderView, PoolView, TaskView


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    """The fixed sizes of one worker, in tokens, pages, rows and seconds."""

    num_pages: int
    page_size: int
    max_model_len: int
    max_rows: int
    max_chunk_tokens: int
    max_chunk_rows: int
    reserve_tokens: int
    transfer_timeout_s: float
    move_pages: int

    def __post_init__(self) -> None:
        """Raise ValueError unless one turn of the greatest length fits: else it could never end."""
        if (self.num_pages - 1) * self.page_size < self.max_model_len:
            raise ValueError(
                f"{self.num_pages} KV pages of {self.page_size} tokens (one is set aside) do not "
                f"hold one conversation of {self.max_model_len} tokens; raise --kv-pages or lower "
                "--max-model-len"
            )


def age(task: WorkerTask) -> tuple[int, float, TaskId]:
    """Sort key of every queue: priority, then first arrival, then id."""
    return (task.task.turn.priority, task.task.arrived, task.task.id)


class Holdings:
    """The only writer of one worker's pages, slots and queue."""

    def __init__(self, limits: BatcherLimits) -> None:
        """Start empty."""
        self.limits = limits
        self.pool = PagePool(num_pages=limits.num_pages, page_size=limits.page_size)
        self.rows = Rows(
            slots=limits.max_rows,
            max_pages=pages_for(limits.max_model_len, limits.page_size),
            page_size=limits.page_size,
        )
        self.tasks: dict[TaskId, WorkerTask] = {}
        self.queue: list[WorkerTask] = []
        self.by_slot: dict[int, WorkerTask] = {}

    def enqueue(self, task: WorkerTask) -> None:
        """Let a task wait for pages and a slot, in order of age."""
        task.stage = Stage.WAITING
        insort(self.queue, task, key=age)

    def admit_next(self) -> WorkerTask | None:
        """Give the task at the head of the queue its pages and slot, if policy/admit lets it.

        Nobody overtakes the head: a large task would else wait for ever.
        """
        if not self.queue or not self._admit(self.queue[0]):
            return None
        return self.queue.pop(0)

    def admit_at_once(self, task: WorkerTask) -> str | None:
        """Give a task that moves here its pages and slot now; returns why not if it must not.

        It does not wait, because it decodes well where it is, and never overtakes those that wait.
        A row may come back so soon that what it left here is not confirmed yet.
        """
        if self.queue or task.task.id in self.tasks:
            return "busy"
        if not self._admit(task):
            return "no_room"
        self.tasks[task.task.id] = task
        return None

    def _admit(self, task: WorkerTask) -> bool:
        if not self.rows.num_free:
            return False
        match = self._match(task)
        missing = pages_for(len(task.tokens), self.limits.page_size) - match.num_pages
        left = task.task.turn.sampling.max_tokens - task.replied
        verdict = admit(
            TaskView(len(task.tokens), left if task.decodes_here else 0),
            PoolView(self.pool.available - match.idle, self._promised(), len(self.by_slot)),
            missing=missing,
            page_size=self.limits.page_size,
            reserve_tokens=self.limits.reserve_tokens,
        )
        if isinstance(verdict, Defer):
            return False
        task.pages = self.pool.take(match)
        task.pages += self.pool.allocate(missing) or []
        task.kv_len = task.matched_len = match.cached_len
        task.named_pages = len(match.full)
        task.reserved_pages = len(task.pages) + verdict.reserve
        task.slot = self.rows.open(wants_logprobs=task.task.turn.sampling.logprobs is not None)
        self.rows.add_pages(task.slot, task.pages)
        self.by_slot[task.slot] = task
        return True

    def extend(self, task: WorkerTask, num_pages: int) -> bool:
        """Give a task that holds a slot `num_pages` pages in all; False if there are too few."""
        missing = num_pages - len(task.pages)
        if missing > 0:
            pages = self.pool.allocate(missing)
            if pages is None:
                return False
            assert task.slot is not None
            task.pages += pages
            self.rows.add_pages(task.slot, pages)
        return True

    def grow(self) -> list[WorkerTask]:
        """Give every decoding row a page for its next token; returns the tasks stopped for that.

        The victims hold nothing any more (policy/preempt).
        """
        victims: list[WorkerTask] = []
        for slot in self.rows.short_of_pages():
            task = self.by_slot.get(slot)
            while task is not None and task.stage is Stage.DECODE:
                page = self.pool.allocate(1)
                if page is not None:
                    task.pages += page
                    self.rows.add_pages(slot, page)
                    break
                victim = self._victim()
                self.retire(victim)
                victims.append(victim)
        return victims

    def name_full_pages(self, task: WorkerTask) -> None:
        """Make the pages that a task has filled findable by their prefix."""
        page_size = self.limits.page_size
        for index in range(task.named_pages, task.kv_len // page_size):
            self.pool.name(task.pages[index], task.name_of_page(index, page_size))
        task.named_pages = max(task.named_pages, task.kv_len // page_size)

    def distrust(self, task: WorkerTask) -> None:
        """Let nothing be found of what a task has filled: a part of it may not have come."""
        for page in task.pages[task.matched_len // self.limits.page_size :]:
            self.pool.unname(page)
        task.kv_len = min(task.kv_len, task.matched_len)

    def close_slot(self, task: WorkerTask) -> None:
        """Give a task's slot back; its pages stay."""
        if task.slot is not None:
            self.rows.close(task.slot)
            del self.by_slot[task.slot]
            task.slot = None

    def retire(self, task: WorkerTask) -> None:
        """Let go of everything a task holds, in whatever stage; its KV stays findable."""
        if task.stage is Stage.WAITING:
            self.queue.remove(task)
        if task.pages:
            self.name_full_pages(task)
            self._keep_part(task)
            self.pool.release(task.pages)
            task.pages = []
        self.close_slot(task)
        task.stage = Stage.GONE
        del self.tasks[task.task.id]

    def check(self) -> None:
        """Raise AssertionError unless pages, slots and tasks agree."""
        self.pool.check()
        holders: dict[int, int] = {}
        for task in self.tasks.values():
            for page in task.pages:
                holders[page] = holders.get(page, 0) + 1
            assert task.slot is None or self.by_slot[task.slot] is task, "a slot is held twice"
        assert len(self.by_slot) + self.rows.num_free == self.limits.max_rows, "a slot is lost"
        self.pool.check_holders(holders)

    def _match(self, task: WorkerTask) -> Match:
        if task.scores_prompt and task.source is None:
            return NOTHING
        return self.pool.match(task.names, task.tokens, len(task.tokens) - 1)

    def _promised(self) -> int:
        return sum(max(0, t.reserved_pages - len(t.pages)) for t in self.by_slot.values())

    def _victim(self) -> WorkerTask:
        # Tasks on their way elsewhere do not grow and leave soon; taking theirs would lose work.
        holders = [task for task in self.by_slot.values() if task.decodes_here]
        views = [HolderView(t.task.turn.priority, t.task.arrived, len(t.pages)) for t in holders]
        return holders[preempt(views)]

    def _keep_part(self, task: WorkerTask) -> None:
        page_size = self.limits.page_size
        full = task.kv_len // page_size
        start = full * page_size
        if start < task.kv_len:
            parent = task.name_of_page(full - 1, page_size) if full else task.names[0]
            self.pool.keep_part(task.pages[full], parent, task.tokens[start : task.kv_len])
