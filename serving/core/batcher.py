"""What does one worker do next? The state machine between messages, steps and pages.

`on` takes messages, `step` plans the next step, `complete` takes what a step sampled. Each returns
what is to be done, in order: commands and launches for the executor, events for the coordinator,
messages for other workers. Steps may be planned before earlier ones are completed: a row's next
token is then still on the device, and what a row samples after its end is dropped.

Does no I/O, reads no clock, knows no device. Pages that a launched step still writes may be freed:
whoever gets them writes them in a later step, and an executor runs steps in order.
"""

from collections.abc import Sequence
from typing import assert_never

from serving.core.departures import Departures
from serving.core.fetches import Fetches
from serving.core.handoff import EarlyGrants
from serving.core.inbound import Inbound
from serving.core.limits import BatcherLimits
from serving.core.plan import Output, StepPlan, StepResult
from serving.core.rules import BatcherRules
from serving.core.stepper import Sample, Stepper, Told
from serving.core.transfers import Transfers
from serving.core.worker_state import WorkerState
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.messages import (
    Ack,
    Cancel,
    Decode,
    DropCached,
    Granted,
    LastStep,
    LoadReport,
    MoveAbort,
    MoveFailed,
    MoveGoesOn,
    MoveOut,
    PagesReady,
    Prefill,
    PullRequested,
    Refused,
    StepTime,
    Tick,
    ToWorker,
    TransferFailed,
    WorkerId,
    WorkerLost,
    WorkerMessage,
)

MAX_LAUNCHED = 2
"""Steps that a driver launches ahead of results: one runs, one is queued behind it, so that the
device never waits for the host."""
MOVE_PATIENCE = 6
"""Transfer timeouts without pages for which room is kept for a row that moves here. Everything else
ends before: the source gives up one after the last that it sent or heard of, the coordinator calls
it back after two in which it heard of nothing, and begins anew after four."""

BEFORE_DECODE = (Stage.WAITING, Stage.FETCHING, Stage.GRANTED)
"""Of a task that is prefilled elsewhere."""


class Batcher:
    """The only writer of one worker's state. Not thread-safe: one thread drives it."""

    def __init__(self, worker: WorkerId, limits: BatcherLimits, rules: BatcherRules) -> None:
        """Start empty."""
        self.worker = worker
        self.limits = limits
        self._state = WorkerState(worker, limits, rules)
        self.holdings = self._state.holdings  # the accounts of its pages, slots and queue
        self._stepper = Stepper(self._state, rules)
        self._transfers = Transfers(self._state)
        self._fetches = Fetches(self._state)
        self._early_grants = EarlyGrants(limits.transfer_timeout_s)
        self._inbound = Inbound(one_copy=limits.move_pages * limits.page_size)
        self._held_until: float | None = None

    def correct(self, timed: Sequence[StepTime]) -> None:
        """Take what steps were seen to take elsewhere: while this worker warmed up."""
        self._state.clock.correct(timed)

    @property
    def departures(self) -> Departures:
        """The rows that move away."""
        return self._state.departures

    # ---- in ------------------------------------------------------------------------------------

    def on(self, message: WorkerMessage, now: float) -> list[Output]:
        """Take one message. A message about a task that is gone changes nothing."""
        self.holdings.idle.now = now
        match message:
            case Prefill() | Decode(move=None):
                self._open(open_task(message, self.limits.page_size), now)
            case Decode():
                self._let_in(message, now)
            case Cancel(task):
                self._state.cancel(task)
            case MoveOut():
                self._let_go(message, now)
            case MoveAbort():
                self._stay(message)
            case WorkerLost(worker):
                self._part_from(worker)
            case DropCached():
                self.holdings.drop_cached()
            case Tick():
                self._expire(now)
                self.holdings.tidy()
                self._state.decisions.tell_evicted()
            case _:
                self._on_peer(message, now)
        return self._state.take_out()

    def _on_peer(
        self,
        message: Granted | PullRequested | PagesReady | Ack | LastStep | TransferFailed,
        now: float,
    ) -> None:
        match message:
            case Granted(task, _, held_len, move):
                entry = self._state.find(task, Stage.EXPECTING)
                if entry is not None:
                    self._granted(entry, held_len)
                elif not self._state.departures.grant(task, move, held_len, now):
                    self._early_grants.keep(message, now)
                elif move is not None:
                    self._state.out.append(MoveGoesOn(self.worker, task, move))
            case PullRequested():
                self._transfers.lend(message)
            case PagesReady():
                self._take(message, now)
            case Ack():
                self._transfers.acknowledge(message, now)
            case LastStep():
                self._inbound.told(message, now)
            case TransferFailed(task, transfer):
                self._transfers.failed(task, transfer)
            case _:
                assert_never(message)

    def _take(self, ready: PagesReady, now: float) -> None:
        """Pages have come: from another worker, or from this one's host memory."""
        if ready.transfer.sender != self.worker:
            self._transfers.receive(ready, now)
        elif (entry := self._fetches.receive(ready, now)) is not None:
            self._go_on(entry, now)

    def step(self, now: float) -> list[Output]:
        """Admit who may start and plan the next step: at most one Launch is among the outputs.

        No step is planned, although there may be work, while one is held back (`held_until`).
        """
        self.holdings.idle.now = now
        self._held_until = self._hold(now) if self._inbound else None
        if self._held_until is not None:
            return []
        while self.holdings.queue and (entry := self.holdings.admit_next(now)) is not None:
            self._start(entry, now)
        for victim in self.holdings.take_stood_aside():
            self._refuse(victim, "stood_aside")
        for entry in self.holdings.queue.impatient:
            self._state.give_up(entry.task.id, "no_room")
        for victim in self.holdings.grow(now):
            self._refuse(victim, "preempted")
        self._state.offload()
        self._stepper.plan(now)
        if self._state.departures:
            # Behind the step just planned: a row in it is copied with what the step writes.
            in_flight_s = self._stepper.in_flight_s(now)
            self._state.out += self._state.departures.advance(in_flight_s, now)
        return self._state.take_out()

    def complete(self, plan: StepPlan, result: StepResult, now: float) -> list[Output]:
        """Take what the oldest launched step sampled. Rows that ended meanwhile are skipped."""
        self.holdings.idle.now = now
        self._stepper.complete(plan, result, now)
        return self._state.take_out()

    @property
    def steady_for(self) -> int:
        """How many steps more merely go on as those launched do, unless a message comes.

        A token for each row: nothing is prefilled, no row needs a page, and no task waits or moves.
        """
        if self._inbound or self._state.departures or self.holdings.queue:
            return 0
        return self._stepper.steady_for

    @property
    def awaits_tick(self) -> bool:
        """Whether a `Tick` would change anything, at once or as the deadlines of now pass."""
        return bool(
            self._early_grants
            or self._state.departures
            or self._state.decisions.has_evicted
            or self._state.awaited
        )

    @property
    def reports_in(self) -> int:
        """How many steps more have to end before their times are told."""
        return self._stepper.reports_in

    def time(self, ends: Sequence[float]) -> list[tuple[int, Told]]:
        """Tell what the next steps of `go_on` took, before it takes them; as `go_on` tells it.

        For drivers that must know of that before they need to know of tokens. Steps that were timed
        before are not timed again, and nothing else may be told the worker until it has taken them.
        """
        return self._stepper.time(ends)

    def go_on(
        self, ends: Sequence[float], results: list[StepResult], sample: Sample
    ) -> list[tuple[int, Told]]:
        """Do at once what `complete` and `step` would do at each of these times.

        For drivers that know beforehand when steps end. `results` are those of the steps launched;
        `sample` makes those of the steps planned, which are put behind them. Neither may end a
        reply (ValueError), and there may be no more times than `steady_for` says. Returns what is
        told, each with the index of its time; of several steps together, that of the first.
        """
        self.holdings.idle.now = ends[-1]
        return self._stepper.go_on(ends, results, sample)

    @property
    def expects_row(self) -> bool:
        """Whether a row that moves here lacks no more than one copy and its stop.

        A step launched ahead of time would run before the row's first one here: its stop would
        last a step longer.
        """
        return bool(self._inbound) and self._inbound.expected

    @property
    def held_until(self) -> float | None:
        """Until when the next step waits for a row that moves here, if no message comes before.

        None if it need not wait; as of the last `step`.
        """
        return self._held_until

    def _hold(self, now: float) -> float | None:
        entry = self._inbound.next_due()
        if entry is None or self._stepper.has_launched:
            return None
        step_s = self._stepper.next_s(1, len(entry.tokens))
        return self._inbound.hold(entry, step_s, now)

    def report(self) -> LoadReport:
        """Count what the worker holds."""
        pool, queue = self.holdings.pool, self.holdings.queue
        foresight = self._state.foresight
        return LoadReport(
            worker=self.worker,
            waiting=sum(
                e.stage in (Stage.WAITING, Stage.EXPECTING) for e in self.holdings.tasks.values()
            ),
            running=len(self.holdings.by_slot),
            pages_used=pool.num_held,
            pages_cached=pool.num_cached,
            pages_free=pool.available - pool.num_cached,
            pages_promised=self.holdings.promised,
            pages_on_host=len(self.holdings.host),
            waiting_tokens=queue.tokens,
            unreadable=0 if foresight is None else foresight.unreadable,
            tilt=0.0 if foresight is None else foresight.tilt,
            page_loss_s=self.holdings.idle.page_loss_s,
            pace=self.holdings.pace.share,
        )

    def check(self) -> None:
        """Raise AssertionError unless the accounts agree (pages, slots, tasks, deadlines)."""
        self._state.check()

    # ---- tasks ---------------------------------------------------------------------------------

    def _open(self, entry: WorkerTask, now: float) -> None:
        """A task has come. If it is decoded elsewhere, it waits for its owner's grant first."""
        self.holdings.tasks[entry.task.id] = entry
        if entry.owner is None:
            self.holdings.let_wait(entry, now)
        elif (held_len := self._early_grants.take(entry.task.id, None)) is not None:
            self._granted(entry, held_len)

    def _granted(self, entry: WorkerTask, held_len: int) -> None:
        entry.held_len = held_len
        self.holdings.queue.add(entry)

    def _refuse(self, gone: WorkerTask, reason: str) -> None:
        """Tell the coordinator of a task that holds nothing here any more."""
        self._state.forget(gone)
        self._state.out.append(Refused(self.worker, gone.task.id, reason, gone.computed))

    def _start(self, entry: WorkerTask, now: float) -> None:
        """A task has its pages: what is in host memory comes first."""
        entry.started_at = now
        self._state.offload()
        if not self._fetches.begin(entry, now):
            self._go_on(entry, now)

    def _go_on(self, entry: WorkerTask, now: float) -> None:
        """A task has its pages, and what was here of their content: grant, pull or prefill."""
        if entry.source is not None:
            entry.stage = Stage.GRANTED
            granted = Granted(entry.task.id, self.worker, entry.kv_len, entry.move)
            self._state.out.append(ToWorker(entry.source, granted))
            self._state.load_slot(entry)  # most of the load is then done before its first step
            return
        self._state.load_slot(entry)
        entry.sent_pages = entry.held_len // self.limits.page_size
        lacking = entry.held_len > entry.kv_len and entry.pull and not entry.scores_prompt
        if entry.owner is not None and lacking:
            entry.stage = Stage.PULLING
            self._state.awaited.begin(entry, entry.owner, now)
            pull = PullRequested(entry.task.id, self.worker, entry.kv_len, entry.held_len)
            self._state.out.append(ToWorker(entry.owner, pull))
            return
        self._state.prefill(entry)

    def _part_from(self, worker: WorkerId) -> None:
        """A peer is gone: nothing will come from it, and nothing is to be kept for it."""
        self._state.out += self._state.departures.part_from(worker)
        for entry in list(self.holdings.tasks.values()):
            if entry.owner == worker:
                self._state.cancel(entry.task.id)
            elif entry.source == worker and entry.stage in BEFORE_DECODE:
                self._state.give_up(entry.task.id, "worker_lost")

    def _expire(self, now: float) -> None:
        for task in self._early_grants.expire(now):
            self._state.out.append(Refused(self.worker, task, "timeout"))
        for entry in self._state.awaited.overdue(now):
            if entry.stage is Stage.PULLING:
                self._state.prefill(entry)  # the rest of the history does not come: compute it
            elif entry.stage is Stage.FETCHING:
                self._fetches.give_up(entry)
                self._go_on(entry, now)
            elif entry.stage is Stage.DECODE:
                self._state.out += self._state.departures.abort(entry.task.id, "timeout")
            else:
                self._state.give_up(entry.task.id, "transfer_failed")
        self._fetches.ask()  # whoever was before others may be gone

    # ---- moves ---------------------------------------------------------------------------------

    def _let_in(self, asked: Decode, now: float) -> None:
        """A row wants to move here: there is room for it now, or it stays where it is."""
        entry = open_task(asked, self.limits.page_size)
        reason = self.holdings.admit_at_once(entry)
        if reason is None:
            self._inbound.add(entry)
            self._start(entry, now)
            self._state.awaited.begin(entry, asked.source, now, timeouts=MOVE_PATIENCE)
        else:
            self._state.out.append(Refused(self.worker, entry.task.id, reason))

    def _let_go(self, asked: MoveOut, now: float) -> None:
        held_len = self._early_grants.take(asked.task, asked.move)
        entry = self._state.find(asked.task, Stage.DECODE)
        if entry is None:
            self._state.out.append(MoveFailed(self.worker, asked.task, asked.move, "not_decoding"))
        else:
            self._state.departures.ask(entry, asked, held_len, now)

    def _stay(self, asked: MoveAbort) -> None:
        """Give a move up, or say that it is too late for that."""
        if self._state.find(asked.task, Stage.DECODE) is not None:
            self._state.out += self._state.departures.stay(asked)
        else:
            self._state.out.append(Refused(self.worker, asked.task, "moved_away"))
