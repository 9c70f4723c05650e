"""Which tasks hold which pages and slots of one worker? Admission, growth and release.

Knows nothing of messages, steps or devices: it is told that a task may start, grows or ends, and
keeps the accounts. What a task leaves behind stays findable by its prefix until it is evicted, and
then perhaps in host memory.
"""

from collections.abc import Collection, Iterable, Mapping

from serving.core.asking import Asking, Seen
from serving.core.cached_pages import Group, Left, Ranking
from serving.core.host_store import HostStore
from serving.core.idle import IdleSessions
from serving.core.limits import BatcherLimits
from serving.core.own_decisions import OwnDecisions
from serving.core.pace import Pace
from serving.core.pages import PagePool
from serving.core.restoring import Restoring
from serving.core.room import Room
from serving.core.rows import Rows
from serving.core.rules import BatcherRules
from serving.core.shortage import Shortage
from serving.core.waiting import Waiting
from serving.core.worker_task import Stage, WorkerTask
from serving.costs.costs import Costs
from serving.messages import TaskId
from serving.policy.admit import Admit, Defer, pages_for

RANK_EVERY = 64
"""Evictions for which one ranking of idle sessions serves: their values change slowly (ours)."""
LOOK_AGAIN = 8
"""Steps after which a task that waits for others to end is looked at again although none has (ours:
what all rows will need changes slowly, and is most of what an admission costs)."""
BEHIND = 8
"""How many tasks are tried at a look behind one that has no room (ours; LOG.md has the costs)."""


class Holdings:
    """The only writer of one worker's pages, slots and queue."""

    def __init__(
        self, limits: BatcherLimits, rules: BatcherRules, costs: Costs, decisions: OwnDecisions
    ) -> None:
        """Start empty; what is decided here is noted in `decisions`.

        `costs` are the worker's own, corrected by its steps: `rules.costs` are not looked at.
        """
        self.limits = limits
        self._decisions = decisions
        self._rules = rules
        self._costs = costs
        self.idle = IdleSessions(rules, costs, limits.page_size)
        self.host = HostStore(capacity=limits.host_pages)
        self._offloaded: list[tuple[int, int]] = []  # pages and the host slots to copy them to
        self.pool = PagePool(
            num_pages=limits.num_pages,
            page_size=limits.page_size,
            ranking=Ranking(self._rank, RANK_EVERY),
            on_evict=self._evicted,
        )
        self.rows = Rows(
            slots=limits.max_rows,
            max_pages=pages_for(limits.max_model_len, limits.page_size),
            page_size=limits.page_size,
        )
        self.tasks: dict[TaskId, WorkerTask] = {}
        self.queue = Waiting(rules.order, self._duration_s)
        self.by_slot: dict[int, WorkerTask] = {}
        self.pace = Pace(costs, keeps=rules.keep_pace)
        self._room = Room(self.pool, self.rows, self.pace, quantile=rules.reserve_quantile)
        self._restoring = Restoring(
            costs,
            rules.host_link,
            decisions,
            page_size=limits.page_size,
            host_pages=limits.host_pages,
        )
        self._shortage = Shortage(
            self.rows,
            self._restoring,
            costs,
            decisions,
            page_size=limits.page_size,
            quantile=rules.reserve_quantile,
            waits=rules.wait_for_pages,
        )
        self._asking = None
        if rules.stand_aside is not None:
            shown = self.rows, self._restoring, costs, self.pace, self._duration_s
            self._asking = Asking(rules.stand_aside, *shown, decisions)
        self._stood_aside: list[WorkerTask] = []
        self._seen: Seen | None = None  # how the rows look to all that ask at once
        # Who waits for others to end, and for how many more steps without another look.
        self._put_off: WorkerTask | None = None
        self._put_off_for = 0
        self._chooses_anew = False  # another may go before it by then

    def let_wait(self, task: WorkerTask, now: float) -> None:
        """Let a task wait for its pages and slot."""
        if self._asking is not None:
            self._asking.let_wait(task, now)
        self.queue.add(task)

    def admit_next(self, now: float) -> WorkerTask | None:
        """Give the task whose turn it is its pages and slot, if policy/admit lets it.

        Nobody overtakes it: a large task would else wait for ever. But where rows stand aside for
        those that are due, others may meanwhile go before it, so many new turns at most.
        """
        task = self.queue.next(now)
        if task is None:
            return None
        if self.rows.num_paused:
            self._defer(task, Defer("pages"))
            return None
        if task is self._put_off and self._put_off_for:
            self._put_off_for -= 1
            return None
        if self._chooses_anew:
            self._chooses_anew = False
            self.queue.reconsider()
            task = self.queue.next(now) or task
        self._seen = None
        if verdict := self._start(task, now):
            self._defer(task, verdict)
            return self._admit_behind(now)
        return task

    def _admit_behind(self, now: float) -> WorkerTask | None:
        """Where rows stand aside, whoever fits may go before one that waits for more room.

        Pages that were kept free for that one would help nobody until they are enough.
        """
        if self._asking is None or not self.rows.num_free:
            return None
        for task in self.queue.behind(now)[:BEHIND]:
            if self._start(task, now) is None:
                self._put_off = None  # another look: there may be room for one more
                return task
        return None

    def _start(self, task: WorkerTask, now: float) -> Defer | None:
        """Give a task its pages and slot, others standing aside for it, or say why not."""
        verdict, reserved = self._admit(task)
        if isinstance(verdict, Defer) and self._makes_way(task, verdict, now):
            verdict, reserved = self._admit(task)
        if isinstance(verdict, Defer):
            return verdict
        if task.kept_out and now + self._duration_s(task) > task.due:
            self.pace.loosen()
        passed_over = self.queue.start(task)
        task.back_by = None
        if passed_over:
            self._decisions.about("order", task, "deadlines", {"passed_over": passed_over})
        cached_len = task.kv_len + len(task.on_host) * self.limits.page_size
        details = {"cached_len": cached_len, "pages": len(task.pages), "reserved": reserved}
        self._decisions.about("admit", task, verdict.reason, details)
        return None

    def _makes_way(self, task: WorkerTask, verdict: Defer, now: float) -> bool:
        """Let rows stand aside for a task that waits for room, if it has room then."""
        if self._asking is None or verdict.reason == "pace":
            return False
        blocks = task.passed > 0 and self.queue.blocks(task)
        asking = self._asking.asks(task, now, blocks=blocks)
        if asking is None:
            return False
        if self._seen is None:
            self._seen = self._asking.see(self.by_slot.values(), now)
        match, holders = self._room.match(task), self.by_slot.values()
        if self._room.missing(task, match) > self.pool.available + self._seen.most_pages:
            return False

        def fits(gone: Collection[WorkerTask]) -> bool:
            return isinstance(self._room.verdict(task, match, holders, gone)[0], Admit)

        rows = self._asking.choose(task, asking, self._seen, fits)
        for row in rows:
            self.retire(row)
            self._stood_aside.append(row)
        return bool(rows)

    def admit_at_once(self, task: WorkerTask) -> str | None:
        """Give a task that moves here its pages and slot now; returns why not if it must not.

        It does not wait, because it decodes well where it is, and never overtakes those that wait.
        A row may come back so soon that what it left here is not confirmed yet.
        """
        if self.queue or task.task.id in self.tasks:
            return "busy"
        if self.rows.num_paused:
            return "no_room"
        verdict, _ = self._admit(task)
        if isinstance(verdict, Defer):
            return "no_room"
        self.tasks[task.task.id] = task
        return None

    def take_stood_aside(self) -> list[WorkerTask]:
        """Return who stood aside since this was last asked; they hold nothing any more."""
        gone, self._stood_aside = self._stood_aside, []
        return gone

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

    def grow(self, now: float) -> list[WorkerTask]:
        """Give every decoding row a page for its next token; returns the tasks stopped for that.

        Where there are too few, rows wait (policy/last_pages, policy/pause), or victims give theirs
        up, and hold nothing any more: by their targets (policy/aside), else by policy/preempt. For
        a victim whose first token here is yet to be read they wait, so that it comes back with it.
        """
        victims: list[WorkerTask] = []
        while stuck := self._hand_out_pages():
            tasks, available = self.by_slot.values(), self.pool.available
            if available:
                self._shortage.pause(stuck, "first_to_end", {"kept": available})
                break
            victim = self._shortage.victim(tasks, available)
            if self._shortage.wait(stuck, tasks, victim):
                break
            gone = self._gives_way(stuck[0], now, victim.task)
            if gone.is_unread:
                self._shortage.pause(stuck, "first_token", {})
                break
            self.retire(gone)
            victims.append(gone)
        return victims

    def _gives_way(self, short: WorkerTask, now: float, cheapest: WorkerTask) -> WorkerTask:
        """Choose who stops by the rows' targets, or take the one that loses least by it."""
        if self._asking is None:
            return cheapest
        priority = cheapest.task.turn.priority  # the worst of those that hold pages
        return self._asking.give_way(short, self.by_slot.values(), priority, now) or cheapest

    def _hand_out_pages(self) -> list[WorkerTask]:
        """Give rows that need a page one, as far as they go; returns the others in order."""
        short = [self.by_slot[slot] for slot in self.rows.short_of_pages()]
        short.sort(key=lambda task: (task.task.turn.priority, task.task.arrived))
        return [task for task in short if not self._hand_out_page(task)]

    def _hand_out_page(self, task: WorkerTask) -> bool:
        kept = self._shortage.kept_from(task, self.by_slot.values(), self.pool.available)
        if kept or not self.extend(task, len(task.pages) + 1):
            return False
        assert task.slot is not None
        self.rows.resume(task.slot)
        return True

    def take_offloaded(self) -> list[tuple[int, int]]:
        """Return pages evicted since this was last asked, each with its host slot.

        They are to be copied there before anything is written to them.
        """
        offloaded, self._offloaded = self._offloaded, []
        return offloaded

    def fetch(self, task: WorkerTask, most: int) -> tuple[int, ...]:
        """Return the host slots that a task fetches next, which may be used again behind that."""
        names = [task.on_host.popleft() for _ in range(min(most, len(task.on_host)))]
        slots = tuple(slot for _, slot in names)
        self.host.dispatched(slots)
        return slots

    def leave_on_host(self, task: WorkerTask) -> None:
        """A task fetches no more: what it has not asked for stays where it is, heads last."""
        while task.on_host:
            name, slot = task.on_host.pop()
            self.host.put_back(name, slot, task.task.session)

    def tidy(self) -> None:
        """Forget idle sessions of which nothing is left, if they are many."""
        self.idle.tidy(self.pool.groups, self.host.groups)

    def drop_cached(self) -> None:
        """Forget every page that no task holds."""
        self.pool.clear_cached()
        self.host.clear()

    def name_full_pages(self, task: WorkerTask) -> None:
        """Make the pages that a task has filled with sound KV findable by their prefix."""
        page_size = self.limits.page_size
        for index in range(task.named_pages, task.sound_len // page_size):
            self.pool.name(task.pages[index], task.name_of_page(index, page_size))
        task.named_pages = max(task.named_pages, task.sound_len // page_size)

    def close_slot(self, task: WorkerTask) -> None:
        """Give a task's slot back; its pages stay."""
        if task.slot is not None:
            self.rows.close(task.slot)
            del self.by_slot[task.slot]
            task.slot = None

    def retire(self, task: WorkerTask) -> None:
        """Let go of everything a task holds, in whatever stage; its sound KV stays findable."""
        if task.stage is Stage.WAITING:
            self.queue.remove(task)
        self._put_off = None
        self._seen = None
        if task.pages:
            self.name_full_pages(task)
            self._keep_part(task)
            self.pool.release(task.pages, task.task.session)
            self.idle.left(task.task.session, task.task.session_turns)
            task.pages = []
        self.leave_on_host(task)
        self.close_slot(task)
        task.stage = Stage.GONE
        del self.tasks[task.task.id]

    @property
    def promised(self) -> int:
        """Pages set aside for rows that have yet to grow, all of them together."""
        return self._room.growth(self.by_slot.values(), None)

    def check(self) -> None:
        """Raise AssertionError unless pages, slots and tasks agree."""
        self.pool.check()
        self.host.check()
        holders: dict[int, int] = {}
        for task in self.tasks.values():
            for page in task.pages:
                holders[page] = holders.get(page, 0) + 1
            assert task.slot is None or self.by_slot[task.slot] is task, "a slot is held twice"
        assert len(self.by_slot) + self.rows.num_free == self.limits.max_rows, "a slot is lost"
        self.pool.check_holders(holders)
        assert not self._offloaded, "an evicted page is not copied"

    def _evicted(self, left: Left) -> None:
        """A page goes to host memory, if it is full and there is room."""
        slot = None if left.name is None else self.host.offer(left.name, left.group)
        is_kept = left.name is not None and left.name in self.host
        self._decisions.evicted(left.group, "offloaded" if is_kept else "dropped")
        if slot is not None:
            self._offloaded.append((left.page, slot))

    def _rank(self, pages_of: Mapping[Group, int]) -> Iterable[Group]:
        return self.idle.rank(pages_of, self.host.groups)

    def _defer(self, task: WorkerTask, verdict: Defer) -> None:
        """A task waits for room; it is told once, though it is asked for again and again."""
        if verdict.reason != "slots":
            self._put_off, self._put_off_for = task, LOOK_AGAIN
        is_pace = verdict.reason == "pace"
        self._chooses_anew = is_pace or self._asking is not None  # no room is kept for it
        task.kept_out |= is_pace
        if not task.deferred:
            task.deferred = True
            self._decisions.about("defer", task, verdict.reason, {"waiting": len(self.queue)})

    def _admit(self, task: WorkerTask) -> tuple[Admit | Defer, int]:
        """Decide, and give the task its pages and slot if it may; with the pages set aside."""
        match = self._room.match(task)
        verdict, reserved = self._room.verdict(task, match, self.by_slot.values())
        if isinstance(verdict, Defer):
            return verdict, reserved
        self.idle.returned(task.task.session)
        task.on_host.extend(self._restoring.taken(task, match, self.host))
        task.pages = self.pool.take(match)
        task.pages += self.pool.allocate(self._room.missing(task, match)) or []
        task.kv_len = task.matched_len = match.cached_len
        task.named_pages = len(match.full)
        task.asked_len = match.cached_len
        sampling = task.task.turn.sampling
        task.slot = self.rows.open(
            wants_logprobs=sampling.logprobs is not None,
            constrained=sampling.grammar is not None,
        )
        self.rows.add_pages(task.slot, task.pages)
        self.by_slot[task.slot] = task
        return verdict, reserved

    def _duration_s(self, task: WorkerTask) -> float:
        """Say how long a task would take here. One that is prefilled elsewhere takes no time."""
        if task.source is not None:
            return 0.0
        return self._restoring.prefill_s(task, self._room.match(task), self.host)

    def _keep_part(self, task: WorkerTask) -> None:
        page_size = self.limits.page_size
        full = task.sound_len // page_size
        start = full * page_size
        if start < task.sound_len:
            parent = task.name_of_page(full - 1, page_size) if full else task.names[0]
            self.pool.keep_part(task.pages[full], parent, task.tokens[start : task.sound_len])
