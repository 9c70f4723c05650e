"""How does one worker run? A thread that carries out what its batcher says, on its own mesh.

One round: take the messages that have come, plan and dispatch a step, then read the step before
it. The device always has the next step queued while the host reads the last one's tokens, but while
a row is about to arrive from another worker: it shall ride in the very next step, which is queued
as soon as the row is here. The thread sleeps only when nothing is queued, nothing runs, no message
waits and the last round changed nothing, or for the moment in which the batcher holds a step back
for such a row.

A thread whose device never answers cannot be ended. It is given up: what it held is lost as if it
had broken, and nothing leaves it any more, should its step come back one day.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Condition, Lock, Thread
from typing import Any, NamedTuple, assert_never

from serving.core.batcher import MAX_LAUNCHED, Batcher
from serving.core.plan import (
    DropTransfer,
    FetchPages,
    Launch,
    LoadSlot,
    OffloadPages,
    Output,
    ReceivePages,
    SendPages,
    StepPlan,
)
from serving.engine.connectors.connector import Connector, Payload
from serving.engine.executor_protocol import Executor
from serving.engine.from_host import FromHost
from serving.messages import (
    Decision,
    Event,
    LoadReport,
    PagesReady,
    Role,
    StepTime,
    ToWorker,
    TransferFailed,
    TransferId,
    WorkerId,
    WorkerLost,
    WorkerMessage,
)

LOG = logging.getLogger(__name__)
REPORT_EVERY_S = 0.02
POLL_S = 1e-4  # how late the end of a step may be seen while a row is about to arrive


@dataclass(frozen=True, slots=True)
class Moved:
    """Pages left a worker, for the metrics."""

    sender: WorkerId
    to: WorkerId
    num_bytes: int


Leaving = Event | ToWorker | Moved | Decision
"""What comes out of a worker: for the coordinator, a peer, or the observers alone."""
Post = Callable[[Sequence[Leaving]], None]


class WarmWorker(NamedTuple):
    """A worker that is ready to start: its pool in tokens, and what steps took as it warmed up."""

    worker: "Worker"
    role: Role
    capacity: int
    timed: Sequence[StepTime]


class Worker:
    """One batcher, one executor, one thread."""

    def __init__(
        self,
        batcher: Batcher,
        executor: Executor,
        connector: Connector,
        post: Post,
        clock: Callable[[], float],
    ) -> None:
        """`post` takes what leaves this worker, in order, and is called from its thread."""
        self.id = batcher.worker
        self.batcher = batcher
        self._executor = executor
        self._connector = connector
        self._post = post
        self._clock = clock
        self._inbox: deque[WorkerMessage] = deque()
        self._wake = Condition()
        self._stopping = False
        self._leaving = Lock()  # held while anything leaves: nothing does once it is lost
        self._lost = False
        self._owes_since: float | None = None
        self._launched: deque[tuple[StepPlan, Any]] = deque()
        self._from_host = FromHost(self.id)
        self._arrived: dict[TransferId, Any] = {}  # taken, not yet written
        self._unannounced: set[TransferId] = set()  # sent, and their receivers not told yet
        self._report: LoadReport = batcher.report()
        self._reported_at = clock()
        self._thread = Thread(target=self._run, name=str(self.id), daemon=True)

    @property
    def report(self) -> LoadReport:
        """What the worker held a moment ago; exact once it is idle. Safe from any thread."""
        return self._report

    @property
    def owes_since(self) -> float | None:
        """Since when (seconds) its oldest step, or what else its round waits for, has been owed.

        None while it waits for nothing but messages. Safe from any thread.
        """
        return self._owes_since

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def deliver(self, message: WorkerMessage) -> None:
        """Give the worker a message. Safe from any thread.

        It hears of pages when they are here: what its device has to wait for, its rows wait for.
        The last ones of a row that moves are few: once they are computed it waits for their copy
        itself, because a thread that does would hold up the row for longer.
        """
        if not isinstance(message, PagesReady):
            self._put(message)
        else:
            self._way(message.transfer).when_here(
                message.transfer, lambda: self._put(message), computed=_lets_go(message)
            )

    def _way(self, transfer: TransferId) -> Connector | FromHost:
        """Return by which way a transfer has come here: what it sent itself is from host memory."""
        return self._from_host if transfer.sender == self.id else self._connector

    def _put(self, message: WorkerMessage) -> None:
        with self._wake:
            self._inbox.append(message)
            self._wake.notify()

    def stop(self, timeout_s: float) -> bool:
        """End the thread after its current round; whether it has ended within `timeout_s`."""
        self._end_soon()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def give_up(self, overdue_s: float) -> None:
        """Declare it lost although its thread goes on: its device has not answered for so long.

        No effect if it is lost already. Safe from any thread.
        """
        self._end_soon()
        self._leave(overdue_s)

    def _end_soon(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def _run(self) -> None:
        try:
            worked = False
            while self._wait(worked):
                worked = self.round()
        except Exception:
            # Whatever broke, this worker's pages and rows are gone: the coordinator must know.
            if not self._lost:
                LOG.exception("worker %s broke and is lost; its turns go on elsewhere", self.id)
                self._leave(None)
                return
        finally:
            self._arrived.clear()
        if self._lost:
            LOG.warning("worker %s was given up; its step has come to an end, unused", self.id)

    def _wait(self, worked: bool) -> bool:
        """Sleep until there is something to do; False when the worker is to end.

        Not if the last round `worked`: what it completed may let somebody run who could not before.
        """
        with self._wake:
            while not (worked or self._inbox or self._launched or self._stopping):
                if not self._wake.wait(self._pause_s()):
                    break  # no message came for which the next step was held back
            return not self._stopping

    def _pause_s(self) -> float | None:
        """Say how long to sleep; None for as long as no message comes."""
        until = self.batcher.held_until
        return None if until is None else max(0.0, until - self._clock())

    def _leave(self, overdue_s: float | None) -> None:
        """Let go of payloads that nobody will take; what was announced and is there still is."""
        with self._leaving:
            if self._lost:
                return
            self._lost = True
            self._connector.lose(self.id)
            for transfer in tuple(self._unannounced):
                self._connector.drop(transfer)
            self._post([WorkerLost(self.id, overdue_s)])

    def round(self) -> bool:
        """Do one round; returns whether anything was done. Public for drivers without threads."""
        if self._owes_since is None:
            self._owes_since = self._clock()
        worked = self._round()
        if not self._launched:
            self._owes_since = None
        return worked

    def _round(self) -> bool:
        worked = bool(self._inbox)
        leaving: list[Leaving] = []
        while self._inbox:
            message = self._with_payload(self._inbox.popleft())
            self._carry_out(self.batcher.on(message, self._clock()), leaving)
        queued = len(self._launched)
        most = 1 if self.batcher.expects_row else MAX_LAUNCHED
        if queued < most:
            self._carry_out(self.batcher.step(self._clock()), leaving)
        self._tell(leaving)  # behind the launch: whom it wakes wants the interpreter too
        launched = len(self._launched) > queued
        if most == 1 and self._message_comes_first():
            return True
        if self._launched and (len(self._launched) >= most or not launched):
            plan, pending = self._launched.popleft()
            result = self._executor.collect(pending)
            if self._lost:  # meanwhile: nobody waits for it any more
                return True
            self._owes_since = self._clock()
            told: list[Leaving] = []
            self._carry_out(self.batcher.complete(plan, result, self._clock()), told)
            self._tell(told)
            worked = True
        self._refresh_report()
        return worked or launched

    def _message_comes_first(self) -> bool:
        """Wait for the oldest step or a message; whether a message has come before its end."""
        with self._wake:
            while not self._inbox:
                if self._stopping or not self._launched:
                    return False
                if self._executor.has_run(self._launched[0][1]):
                    return False
                self._wake.wait(POLL_S)
            return True

    def _refresh_report(self) -> None:
        now = self._clock()
        if not self._launched or now - self._reported_at >= REPORT_EVERY_S:
            self._report, self._reported_at = self.batcher.report(), now

    def _carry_out(self, outputs: Sequence[Output], leaving: list[Leaving]) -> None:
        """Carry outputs out in their order, and add what leaves the worker, in the same order."""
        todo = deque(outputs)
        while todo:
            output = todo.popleft()
            match output:
                case Launch(plan):
                    self._launched.append((plan, self._executor.launch(plan)))
                case LoadSlot():
                    self._executor.load_slot(output)
                case OffloadPages(pages, slots):
                    self._executor.offload(pages, slots)
                case FetchPages() | SendPages() | ReceivePages() | DropTransfer():
                    todo.extend(self._move(output, leaving))
                case _:
                    leaving.append(output)

    def _tell(self, leaving: Sequence[Leaving]) -> None:
        """Post what leaves the worker, in one go and in order."""
        if not leaving:
            return
        with self._leaving:
            if not self._lost:
                self._post(leaving)
        if self._unannounced:
            self._unannounced.difference_update(_announced(leaving))

    def _with_payload(self, message: WorkerMessage) -> WorkerMessage:
        """Take announced pages before the batcher hears of them: what it names is then there.

        It may let go of a task, and keep its pages for the next turn, as soon as it hears.
        """
        if not isinstance(message, PagesReady):
            return message
        try:
            self._arrived[message.transfer] = self._way(message.transfer).take(message.transfer)
        except (RuntimeError, KeyError) as error:
            return TransferFailed(message.task, message.transfer, str(error))
        return message

    def _move(
        self,
        command: FetchPages | SendPages | ReceivePages | DropTransfer,
        leaving: list[Leaving],
    ) -> list[Output]:
        """Move pages. A copy that fails ends the task's attempt, not the worker."""
        match command:
            case FetchPages(transfer, task, slots):
                try:
                    self._from_host.add(transfer, self._executor.fetch(slots))
                except (RuntimeError, KeyError) as error:
                    failed = TransferFailed(task, transfer, str(error))
                    return self.batcher.on(failed, self._clock())
            case SendPages(transfer, task, pages, to, slot):
                self._unannounced.add(transfer)
                try:
                    trace = None if slot is None else self._executor.read_trace(slot)
                    payload = Payload(self._executor.gather(pages), trace)
                    moved = self._connector.send(transfer, payload, to)
                except (RuntimeError, KeyError) as error:
                    self._unannounced.discard(transfer)
                    failed = TransferFailed(task, transfer, str(error))
                    return self.batcher.on(failed, self._clock())
                leaving.append(Moved(self.id, to, moved))
            case ReceivePages(transfer, _, pages, slot):
                self._write(self._arrived.pop(transfer), pages, slot)
            case DropTransfer(transfer):
                self._arrived.pop(transfer, None)
                self._unannounced.discard(transfer)
                # It may have come here by either way, or was to leave.
                self._from_host.drop(transfer)
                self._connector.drop(transfer)
            case _:
                assert_never(command)
        return []

    def _write(self, arrived: Any, pages: Sequence[int], slot: int | None) -> None:
        """Write what has come from another worker, or from host memory."""
        if not isinstance(arrived, Payload):
            self._executor.write(arrived, pages)
            return
        self._executor.scatter(arrived.pages, pages)
        if slot is not None and arrived.trace is not None:
            self._executor.write_trace(slot, arrived.trace)


def _announced(leaving: Sequence[Leaving]) -> list[TransferId]:
    messages = [item.message for item in leaving if isinstance(item, ToWorker)]
    return [message.transfer for message in messages if isinstance(message, PagesReady)]


def _lets_go(ready: PagesReady) -> bool:
    """Tell whether nothing is left of a row's move but the copy of its last pages, which are few.

    It stands still until they have come.
    """
    return ready.move is not None and ready.reply is not None and ready.computed
