"""How do the coordinator, the workers' threads and the clients meet? In one event loop.

The coordinator runs in the event loop's thread, so `submit` and `cancel` are plain calls. Workers
post what leaves them in order: events are handed to the event loop, messages for another worker go
straight into its inbox. Since an event is handed over before the message behind it, the
coordinator hears of a first token before the owner can produce a second one.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import assert_never

from serving.core.coordinator import Coordinator
from serving.costs.correction import HIGHEST, LOWEST
from serving.engine.followers import Followers
from serving.engine.observer import Observer
from serving.engine.reply import LoopReply
from serving.engine.watchdog import Watchdog, waited_s
from serving.engine.worker import Leaving, Moved, WarmWorker, Worker
from serving.messages import (
    COSTS,
    SHUTDOWN,
    Action,
    Arrived,
    Cancelled,
    Decision,
    Drain,
    DropCached,
    Dropped,
    Emit,
    EmitPrompt,
    End,
    EngineState,
    Event,
    LoadReport,
    Outcome,
    Role,
    SetRole,
    StepsTimed,
    Tick,
    ToWorker,
    WorkerId,
    WorkerJoined,
    WorkerLost,
    WorkerMeans,
    WorkerStatus,
)
from serving.request import Turn, TurnId

LOG = logging.getLogger(__name__)
TICK_S = 0.25
STOP_S = 10.0
"""How long a worker's thread may take for its last round. Turns have ended by then; a step of most
models takes well below a second."""


class EngineLoop:
    """The engine as the endpoint sees it. Everything here runs in the event loop's thread."""

    def __init__(
        self,
        coordinator: Coordinator,
        observer: Observer,
        clock: Callable[[], float],
        *,
        flexible_roles: bool,
        step_timeout_s: float,
    ) -> None:
        """Start without workers: turns are rejected until `start`.

        Without `flexible_roles` a worker has the programs of its first role only. One whose step
        has not come back after `step_timeout_s` seconds is given up.
        """
        self._coordinator = coordinator
        self._flexible_roles = flexible_roles
        self._observer = observer
        self._clock = clock
        self._watchdog = Watchdog(step_timeout_s)
        self._workers: dict[WorkerId, Worker] = {}
        self._given_up: list[Worker] = []
        self._replies: dict[TurnId, LoopReply] = {}
        self._followers = Followers()
        self._state = EngineState.STARTING
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ticker: asyncio.Task[None] | None = None
        self._idle: asyncio.Event = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> EngineState:
        """Where the engine stands now. Where nobody decodes it is dead, until somebody does."""
        serves = self._state in (EngineState.READY, EngineState.DRAINING)
        return EngineState.DEAD if serves and not self._coordinator.fleet.owners() else self._state

    @property
    def live_turns(self) -> int:
        """Turns that have not ended."""
        return len(self._replies)

    def reports(self) -> Sequence[LoadReport]:
        """Return the last report of every worker, in the workers' stable order."""
        return [worker.report for worker in self._workers.values()]

    def step_ages(self) -> Mapping[WorkerId, float]:
        """Return for how long (seconds) every worker's oldest step has been out; 0: none is."""
        now = self._clock()
        return {name: waited_s(w.owes_since, 0.0, now) for name, w in self._workers.items()}

    def means(self) -> Sequence[WorkerMeans]:
        """Return what the policies see of the workers' last seconds."""
        return self._coordinator.means(self._clock())

    def workers(self) -> Sequence[WorkerStatus]:
        """Return what every worker does now, in their stable order."""
        return [
            WorkerStatus(
                worker=record.id,
                role=record.role,
                leaving=record.leaving,
                next_role=record.next_role,
                turns=record.turns,
                tokens=record.load,
                capacity=record.capacity,
            )
            for record in self._coordinator.fleet.workers.values()
        ]

    def set_role(self, worker: WorkerId, role: Role | None) -> str | None:
        """Let a worker take another role, or none, once it has drained.

        Returns in one line why it cannot, and then changes nothing; None if it will.
        """
        change = SetRole(worker, role)
        problem = self._coordinator.role_problem(change) or self._not_compiled(change)
        if problem is None:
            self._take(change)
        return problem

    def _not_compiled(self, change: SetRole) -> str | None:
        """Say why a worker lacks the programs of a role; None if it has them."""
        own = {status.worker: status.role for status in self.workers()}[change.worker]
        if self._flexible_roles or change.role in (None, own):
            return None
        return (
            f"Worker {change.worker} is compiled as {own} alone: start the server with "
            "--flexible-roles to change roles, or drain the worker with null."
        )

    def post(self, leaving: Sequence[Leaving]) -> None:
        """Take what leaves a worker, in order. Called from the workers' threads."""
        events: list[Event | Moved | Decision] = []
        for item in leaving:
            if isinstance(item, ToWorker):
                self._hand_over(events)
                events = []
                self._forward(item)
            else:
                events.append(item)
        self._hand_over(events)

    async def start(self, workers: Sequence[WarmWorker]) -> None:
        """Take warm workers, and open for turns."""
        self._loop = asyncio.get_running_loop()
        self._workers = {warm.worker.id: warm.worker for warm in workers}
        for worker, role, capacity, timed in workers:
            self._take(WorkerJoined(worker.id, role, capacity, timed))
            worker.start()
        self._ticker = asyncio.create_task(self._tick())
        self._state = EngineState.READY

    async def drain(self, grace_s: float) -> None:
        """Refuse new turns and wait for those that run, at most `grace_s`; then cancel the rest."""
        if self._state is EngineState.READY:
            self._state = EngineState.DRAINING
            self._take(Drain())
        try:
            await asyncio.wait_for(self._idle.wait(), grace_s)
        except TimeoutError:
            for turn in tuple(self._replies):
                self.cancel(turn, SHUTDOWN)

    async def stop(self) -> list[WorkerId]:
        """End the workers' threads; returns those whose threads hang and go on.

        Such a thread keeps its device, and may keep the interpreter from ending.
        """
        self._state = EngineState.DEAD
        if self._ticker is not None:
            self._ticker.cancel()
        workers = [*self._workers.values(), *self._given_up]
        ended = await asyncio.gather(*(asyncio.to_thread(w.stop, STOP_S) for w in workers))
        return [worker.id for worker, has in zip(workers, ended, strict=True) if not has]

    def submit(self, turn: Turn) -> LoopReply:
        """Start a turn. A refused turn's reply begins with its `End`.

        One that follows another starts with that one's first token, and is refused only with it.
        It counts from now on: a drain waits for it.
        """
        reply = self._replies[turn.id] = LoopReply(turn.id)
        self._idle.clear()
        if turn.follows is not None and turn.follows in self._replies:
            self._followers.add(turn, turn.follows)
        else:
            self._arrive(turn, accepted=False)
        return reply

    def cancel(self, turn: TurnId, reason: str) -> None:
        """Stop a turn in any state; its reply still ends with one `End`. Unknown: no effect."""
        if (waiting := self._followers.leave(turn)) is not None:
            self._close(_unstarted(waiting, Dropped(reason)))
        elif (reply := self._replies.get(turn)) is not None:
            self._take(Cancelled(turn, reason, reply.taken))

    def _arrive(self, turn: Turn, *, accepted: bool) -> None:
        self._observer.on_arrival(turn, self._clock())
        self._take(Arrived(turn, accepted))

    def _start_followers(self, leader: TurnId) -> None:
        for turn in self._followers.pop(leader):
            self._arrive(turn, accepted=True)

    def reset_prefix_cache(self) -> None:
        """Let every worker forget the pages that no turn holds, before it sees any later turn."""
        for worker in self._workers.values():
            worker.deliver(DropCached())

    async def _tick(self) -> None:
        fails = False
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self._look_for_hung()
                for worker in self._workers.values():
                    worker.deliver(Tick())
                    self._take(worker.report)
                self._take(Tick())
            except Exception:
                # Without ticks no deadline ends and no hung worker is found: they must go on.
                if not fails:
                    LOG.exception("a tick failed; those that follow are tried, and told no more")
                fails = True
            else:
                fails = False

    def _look_for_hung(self) -> None:
        """Give up on workers whose devices do not answer.

        What a worker posted before is taken first: its loss is posted like everything else.
        """
        owed = {name: worker.owes_since for name, worker in self._workers.items()}
        for name, overdue_s in self._watchdog.look(owed, self._clock()).items():
            LOG.error(
                "worker %s is lost: its step has been out for %.1f s (--step-timeout-seconds %g);"
                " its turns go on elsewhere",
                *(name, overdue_s, self._watchdog.timeout_s),
            )
            self._given_up.append(self._workers[name])
            self._workers[name].give_up(overdue_s)

    def _hand_over(self, events: Sequence[Event | Moved | Decision]) -> None:
        if events and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._take_all, events)

    def _take_all(self, events: Sequence[Event | Moved | Decision]) -> None:
        for event in events:
            match event:
                case Moved(sender, to, num_bytes):
                    self._observer.on_moved(sender, to, num_bytes)
                case Decision():
                    self._observer.on_decision(event, self._clock())
                case _:
                    self._take(event)

    def _take(self, event: Event) -> None:
        """Let the coordinator decide, and carry its actions out."""
        now = self._clock()
        if isinstance(event, WorkerLost):
            self._workers.pop(event.worker, None)
        elif isinstance(event, StepsTimed):
            self._observer.on_steps(event)
        for action in self._coordinator.on(event, now):
            self._act(action, now)
        if isinstance(event, WorkerLost) and self.state is EngineState.DEAD:
            LOG.error("no worker is left that decodes: turns and /health get 503; restart")

    def _act(self, action: Action, now: float) -> None:
        match action:
            case Emit(turns, samples):
                for turn, sample in zip(turns, samples, strict=True):
                    self._replies[turn].push(sample)
                self._observer.on_tokens(turns, now)
                if self._followers:
                    self._let_follow(turns)
            case ToWorker():
                self._forward(action)
            case End(turn):
                self._observer.on_end(action, now)
                if action.reply_len:
                    self._let_follow((turn,))
                else:
                    for follower in self._followers.pop(turn):
                        self._close(_unstarted(follower, action.outcome))
                self._close(action)
            case EmitPrompt(turn, logprobs):
                self._replies[turn].push_prompt(logprobs)
            case Decision():
                self._tell(action, now)
            case _:
                assert_never(action)

    def _tell(self, decision: Decision, now: float) -> None:
        self._observer.on_decision(decision, now)
        if decision.kind == COSTS:
            LOG.warning("%s", _wrong_costs(decision))

    def _let_follow(self, leaders: Sequence[TurnId]) -> None:
        """Start followers, but not before all is taken that came with their leader's token.

        Then the coordinator knows who holds the prompt's pages.
        """
        loop = asyncio.get_running_loop()
        for leader in leaders:
            if leader in self._followers:
                loop.call_soon(self._start_followers, leader)

    def _close(self, end: End) -> None:
        self._replies.pop(end.turn).close(end)
        if not self._replies:
            self._idle.set()

    def _forward(self, addressed: ToWorker) -> None:
        worker = self._workers.get(addressed.worker)
        if worker is not None:
            worker.deliver(addressed.message)


def _wrong_costs(decision: Decision) -> str:
    """Say to an operator what routes and reserves suffer from."""
    ratio = decision.details["ratio"]
    return (
        f"{decision.choice} steps take {ratio:.2g} times what is predicted, and predictions follow "
        f"by {LOWEST:g} to {HIGHEST:g} times: measure this machine with `foretoken profile` and "
        "pass its file with --costs"
    )


def _unstarted(turn: Turn, outcome: Outcome) -> End:
    """Return the end of a turn that the coordinator was never told of."""
    return End(turn.id, outcome, turn.prompt_len, 0, 0)
