"""Does a whole deployment do what it should? One coordinator, some batchers, no threads, no clock.

Messages come in order for each pair of sender and receiver, pages when they come (`channels`).
Which pair is served next, which worker plans a step and whose results arrive is chosen by a seeded
generator, so one seed is one history. Steps are launched ahead of their results as an engine does.
After every call the accounts of the worker are checked and its free pages poisoned; every emitted
token is compared with the oracle at once.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from serving.core.batcher import Batcher
from serving.core.booked import NOTHING
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
    StepResult,
)
from serving.messages import (
    Ack,
    Action,
    Arrived,
    Cancelled,
    Completed,
    Decision,
    Decode,
    DropCached,
    Emit,
    EmitPrompt,
    End,
    Event,
    MoveWanted,
    PagesReady,
    Prefill,
    Role,
    SetRole,
    Tick,
    ToWorker,
    TransferFailed,
    WorkerId,
    WorkerJoined,
    WorkerLost,
    WorkerMessage,
)
from serving.request import Turn, TurnId
from tests.support.channels import Channels, Way
from tests.support.fake_client import Reply
from tests.support.fake_executor import Connector, FakeExecutor
from tests.support.findable import check_contents, check_mirror
from tests.support.shape import Shape

COORDINATOR = "coordinator"
CLIENT = "client"
CLOCK = "clock"
STEP_SECONDS = 0.001
QUICK_SHARE = 0.97


@dataclass
class FakeWorker:
    """A batcher, its device, and the steps whose results are not in yet."""

    batcher: Batcher
    executor: FakeExecutor
    launched: deque[tuple[StepPlan, StepResult]] = field(default_factory=deque)
    may_step: bool = True
    sent: list[SendPages] = field(default_factory=list)


class FakeFleet:
    """Drives one deployment in virtual time; `rules` override single ones of its coordinator."""

    def __init__(self, shape: Shape, *, seed: int = 0, **rules: Any) -> None:
        self.shape = shape
        self.random = random.Random(seed)
        self.now = 0.0
        self.coordinator = shape.coordinator(**rules)
        self.workers: dict[WorkerId, FakeWorker] = {}
        self.connector = Connector()
        self.channels = Channels()
        self.held: set[Way] = set()  # channels whose messages stay on their way
        self.slow: frozenset[Way] = frozenset()  # those that lag behind the others
        self.pages_lag = 0.0  # if set, the share of rounds in which no pages come
        self.replies: dict[TurnId, Reply] = {}
        self.decisions: list[Decision] = []
        self.log: list[str] | None = None
        self.rounds = 0
        self.on_end: Callable[[Reply], None] = lambda reply: None
        self.break_transfer: Callable[[SendPages], str | None] = lambda send: None
        self.break_fetch: Callable[[], bool] = lambda: False
        self.twice = False  # whether transfers and what confirms them are announced twice
        self.lose_ack: Callable[[Ack], bool] = lambda ack: False
        for i in range(shape.prefill_workers):
            self.join(WorkerId(f"p{i}"), Role.PREFILL)
        decode_role = Role.DECODE if shape.prefill_workers else Role.BOTH
        for i in range(shape.decode_workers):
            self.join(WorkerId(f"d{i}"), decode_role)

    @classmethod
    def started(cls, shape: Shape, *, seed: int = 0) -> "FakeFleet":
        """A fleet whose workers have joined."""
        fleet = cls(shape, seed=seed)
        fleet.run()
        return fleet

    # ---- what a test does ----------------------------------------------------------------------

    def complete_all(self) -> None:
        """Run to the end: every turn completes, and nothing is held afterwards."""
        self.run()
        self.check_empty()
        for reply in self.replies.values():
            assert reply.end is not None
            assert isinstance(reply.end.outcome, Completed), reply.end.outcome

    def submit(self, turn: Turn) -> Reply:
        reply = self.replies[turn.id] = Reply.to(turn)
        self._post(CLIENT, COORDINATOR, Arrived(turn))
        return reply

    def cancel(self, turn: TurnId, *, kept: int = 0) -> None:
        self._post(CLIENT, COORDINATOR, Cancelled(turn, "client_left", kept))

    def move(self, turn: TurnId, to: WorkerId) -> None:
        self._post(CLIENT, COORDINATOR, MoveWanted(turn, to, "test"))

    def set_role(self, worker: WorkerId, role: Role | None) -> None:
        self._post(CLIENT, COORDINATOR, SetRole(worker, role))

    def join(self, worker: WorkerId, role: Role) -> None:
        limits = self.shape.limits(role)
        batcher = self.shape.batcher(worker, role)
        executor = FakeExecutor(
            worker,
            self.connector,
            pages=limits.num_pages,
            page_size=limits.page_size,
            slots=limits.max_rows,
            holders=lambda page: batcher.holdings.pool._holders[page],
        )
        self.workers[worker] = FakeWorker(batcher, executor)
        capacity = (limits.num_pages - 1) * limits.page_size
        self._post("fleet", COORDINATOR, WorkerJoined(worker, role, capacity))

    def lose(self, worker: WorkerId, *, silently: bool = True) -> None:
        """A worker dies, and with it what was on the way to it; `silently`: from it as well."""
        del self.workers[worker]
        for sender, receiver in list(self.channels):
            if receiver == worker or (silently and sender == worker):
                del self.channels[sender, receiver]
        self.connector.forget(worker, self.channels.announced())
        self._post("fleet", COORDINATOR, WorkerLost(worker))

    def drop(self, sender: str, receiver: str) -> None:
        """Whatever is on the way from one to the other never comes, nor do the payloads."""
        for message in self.channels.pop((sender, receiver), ()):
            if isinstance(message, PagesReady):
                self.connector.drop(message.transfer)

    def drop_cached(self) -> None:
        """Let every worker forget the pages that no task holds."""
        for worker in self.workers:
            self._post("fleet", worker, DropCached())

    def tell(self, event: Event) -> None:
        """Post an event to the coordinator."""
        self._post("fleet", COORDINATOR, event)

    def advance(self, seconds: float) -> None:
        """Let time pass; every clock ticks."""
        self.now += seconds
        for worker in self.workers.values():
            self._post(CLOCK, COORDINATOR, worker.batcher.report())
        self.tick(COORDINATOR, *self.workers)

    def tick(self, *receivers: str) -> None:
        """Let these look at their deadlines."""
        for receiver in receivers:
            self._post(CLOCK, receiver, Tick())

    def run(self, *, max_rounds: int | None = None) -> None:
        """Go on until nothing can happen any more; AssertionError if that takes too long."""
        if max_rounds is None:
            work = sum(reply.turn.max_total_len + 20 for reply in self.replies.values())
            max_rounds = 1000 + 200 * work
        for _ in range(max_rounds):
            if not self.round():
                return
        raise AssertionError(f"no end after {max_rounds} rounds")

    def run_until(self, done: Callable[[], bool]) -> None:
        """Go on until `done`; AssertionError if nothing can happen before that."""
        while not done():
            assert self.round(), "everything came to rest too early"

    def round(self) -> bool:
        """Do one thing that can be done now; False if there is none."""
        every = self.shape.tick_rounds
        if every and self.rounds % every == 0 and self._is_busy():
            self.advance(0.0)
        choices = self._choices()
        if not choices:
            return False
        if self.pages_lag:
            come = self.random.random() >= self.pages_lag
            choices = [c for c in choices if (c[0] == self._arrive) == come] or choices
        if self.slow and self.random.random() < QUICK_SHARE:
            choices = [c for c in choices if c[1:] not in self.slow] or choices
        self.rounds += 1
        self.now += STEP_SECONDS
        act, *args = choices[self.random.randrange(len(choices))]
        act(*args)
        return True

    # ---- one thing after another ---------------------------------------------------------------

    def _choices(self) -> list[tuple[Callable[..., None], *tuple[str, ...]]]:
        ways = self.channels.ways(self.held)
        choices: list = [(self._arrive if pages else self._deliver, *way) for way, pages in ways]
        for name, worker in self.workers.items():
            if worker.may_step and len(worker.launched) < self.shape.depth:
                choices.append((self._step, name))
            if worker.launched:
                choices.append((self._complete, name))
        return choices

    def _is_busy(self) -> bool:
        """Tell whether something but a tick is under way: time alone keeps nothing going."""
        if any(sender == CLOCK for sender, _ in self.channels):
            return False  # one tick at a time
        steps = any(worker.launched for worker in self.workers.values())
        return steps or any(channel not in self.held for channel in self.channels)

    def _post(self, sender: str, receiver: str, message: Event | WorkerMessage) -> None:
        self.channels.post(sender, receiver, message)

    def _deliver(self, sender: str, receiver: str) -> None:
        message = self.channels.take((sender, receiver), pages=False)
        if receiver == COORDINATOR:
            self._note(COORDINATOR, message)
            self._act(self.coordinator.on(message, self.now))  # type: ignore[arg-type]
            return
        self._call(self.workers[WorkerId(receiver)], message)  # type: ignore[arg-type]

    def _arrive(self, sender: str, receiver: str) -> None:
        """Pages have come, or the word that they never will."""
        message = self.channels.take((sender, receiver), pages=True)
        assert isinstance(message, PagesReady)
        if message.transfer not in self.connector.payloads:
            message = TransferFailed(message.task, message.transfer, "no payload")
        self._call(self.workers[WorkerId(receiver)], message)

    def _step(self, name: str) -> None:
        worker = self.workers[WorkerId(name)]
        before = len(worker.launched)
        self._note(name, "step")
        self._carry_out(worker, worker.batcher.step(self.now))
        held = worker.batcher.held_until is not None
        worker.may_step = len(worker.launched) > before or held

    def _complete(self, name: str) -> None:
        worker = self.workers[WorkerId(name)]
        plan, result = worker.launched.popleft()
        worker.may_step = True
        self._note(name, "complete", plan, result)
        self._carry_out(worker, worker.batcher.complete(plan, result, self.now))

    def _note(self, actor: str, *what: object) -> None:
        if self.log is not None:
            self.log.append(f"{self.now:.3f} {actor} <- {what!r}")

    # ---- consequences --------------------------------------------------------------------------

    def _carry_out(self, worker: FakeWorker, outputs: list[Output]) -> None:
        worker.batcher.check()
        name = worker.batcher.worker
        todo = deque(outputs)
        while todo:
            output = todo.popleft()
            self._note(name, "->", output)
            match output:
                case Launch(plan):
                    worker.launched.append((plan, worker.executor.launch(plan)))
                case SendPages():
                    todo.extend(self._send(worker, output))
                case FetchPages(transfer, task):
                    worker.executor.execute(output)
                    if self.break_fetch():
                        self.connector.drop(transfer)
                        self.connector.failed.add(transfer)
                        failed = TransferFailed(task, transfer, "out of memory")
                        todo.extend(self._failed(worker, failed))
                case LoadSlot() | ReceivePages() | DropTransfer() | OffloadPages():
                    worker.executor.execute(output)
                case ToWorker(to, message):
                    lost = isinstance(message, Ack) and self.lose_ack(message)
                    copies = (
                        0 if lost else 1 + (self.twice and isinstance(message, PagesReady | Ack))
                    )
                    for _ in range(copies if to in self.workers else 0):
                        self._post(name, to, message)
                case Decision():
                    self.decisions.append(output)
                case _:
                    self._post(name, COORDINATOR, output)
        worker.executor.poison(worker.batcher.holdings.pool._free)

    def _send(self, worker: FakeWorker, send: SendPages) -> list[Output]:
        worker.sent.append(send)
        broken = self.break_transfer(send)
        if send.to not in self.workers:
            broken = "sender"
        if broken is None:
            worker.executor.execute(send)
            return []
        self.connector.failed.add(send.transfer)
        if broken == "receiver":
            return []
        return self._failed(worker, TransferFailed(send.task, send.transfer, "link_down"))

    def _failed(self, worker: FakeWorker, failed: TransferFailed) -> list[Output]:
        """Tell the batcher at once; what it answers comes behind what it said before."""
        self._note(worker.batcher.worker, failed)
        worker.may_step = True
        return worker.batcher.on(failed, self.now)

    def _call(self, worker: FakeWorker, message: WorkerMessage) -> None:
        self._note(worker.batcher.worker, message)
        worker.may_step = True
        self._carry_out(worker, worker.batcher.on(message, self.now))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            self._note(COORDINATOR, "->", action)
            match action:
                case ToWorker(worker, message):
                    self._check_role(worker, message)
                    if worker in self.workers:
                        self._post(COORDINATOR, worker, message)
                case Emit(turns, samples):
                    for turn, sample in zip(turns, samples, strict=True):
                        self.replies[turn].take(sample)
                case EmitPrompt(turn, logprobs):
                    self.replies[turn].take_prompt(logprobs)
                case End(turn):
                    self.replies[turn].close(action)
                    self.on_end(self.replies[turn])
                case Decision():
                    self.decisions.append(action)

    def _check_role(self, worker: WorkerId, message: WorkerMessage) -> None:
        """Work goes to workers that serve, and what decodes to those that decode."""
        if isinstance(message, Prefill | Decode):
            record = self.coordinator.fleet.workers[worker]
            decodes = isinstance(message, Decode) or message.owner is None
            assert record.takes_work, f"{worker} leaves and gets work"
            assert record.role is not (Role.PREFILL if decodes else Role.DECODE), "a wrong role"

    # ---- the end -------------------------------------------------------------------------------

    def check_empty(self) -> None:
        """Raise AssertionError unless everything ended and nothing is held anywhere."""
        open_turns = [turn for turn, reply in self.replies.items() if reply.end is None]
        assert not open_turns, f"turns without an end: {open_turns}"
        assert self.coordinator.live_turns == 0
        for record in self.coordinator.fleet.workers.values():
            books = (record.load, record.turns, record.booked.total, len(record.booked))
            assert books == (0, 0, NOTHING, 0), f"{record.id} is still booked: {books}"
            assert (record.kv_tokens, record.decoding) == (0, {}), f"{record.id} still decodes"
            assert record.next_role is None, f"{record.id} has not changed its role"
        for name, worker in self.workers.items():
            holdings = worker.batcher.holdings
            assert not holdings.tasks, f"{name} still knows {list(holdings.tasks)}"
            assert holdings.pool.num_held == 0, f"{name} holds pages"
            assert holdings.rows.num_free == self.shape.max_rows, f"{name} holds slots"
            assert not worker.launched
            assert not worker.batcher.departures, f"a row leaves {name} for ever"
        assert not self.connector.payloads, "payloads nobody took"
        holdings = {name: worker.batcher.holdings for name, worker in self.workers.items()}
        executors = {name: worker.executor for name, worker in self.workers.items()}
        check_mirror(self.coordinator.fleet, holdings)
        check_contents(holdings, executors)
