"""What happens to each turn of the deployment? Sessions, placement, routing, failures, the end.

The life of a turn here:

    Arrived -> queued at workers -> PrefillDone (first token) -> Tokens ... -> Finished -> End
                    |  Refused, WorkerLost: a new attempt from the tokens delivered so far
                    |  Cancelled, queue timeout, nobody left to decode: End at once

Every accepted turn gets exactly one End, and its tokens are emitted in order, none twice: what an
earlier attempt still sends is dropped by its attempt number, what comes early waits for its place.
Works per turn; only `Tokens` is per step, and does the least it can. Does no I/O, reads no clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from serving.core.finish import finish_after
from serving.core.fleet import Fleet
from serving.core.live_turn import LiveTurn, PendingMove
from serving.core.sessions import Sessions
from serving.messages import (
    Action,
    Adopted,
    Arrived,
    Cancel,
    Cancelled,
    Completed,
    Decision,
    Decode,
    Drain,
    Dropped,
    Emit,
    EmitPrompt,
    End,
    Event,
    Failed,
    Finished,
    LoadReport,
    MoveAbort,
    MoveFailed,
    MoveOut,
    MoveWanted,
    Outcome,
    Prefill,
    PrefillDone,
    Refused,
    Rejected,
    Role,
    SampledToken,
    Task,
    TaskId,
    Tick,
    Tokens,
    ToWorker,
    WorkerId,
    WorkerJoined,
    WorkerLost,
    WorkerMessage,
)
from serving.policy.place import place
from serving.policy.route import Local, route
from serving.policy.views import TaskView
from serving.request import Turn, TurnId


@dataclass(frozen=True, slots=True)
class CoordinatorLimits:
    """The fixed limits of a deployment, in turns, tokens and seconds."""

    max_model_len: int
    max_queue_size: int
    queue_timeout_s: float | None
    reserve_tokens: int
    max_attempts: int
    move_timeout_s: float


class Coordinator:
    """The only writer of cluster state."""

    def __init__(self, limits: CoordinatorLimits, sessions: Sessions) -> None:
        """Start with no workers and no turns."""
        self.limits = limits
        self.sessions = sessions
        self.fleet = Fleet()
        self._turns: dict[TurnId, LiveTurn] = {}
        self._waiting: dict[TurnId, None] = {}  # no token yet, oldest first
        self._draining = False
        self._out: list[Action] = []

    @property
    def live_turns(self) -> int:
        """Turns that have not ended."""
        return len(self._turns)

    def on(self, event: Event, now: float) -> list[Action]:
        """Take one event; returns what is to be done, in order."""
        match event:
            case Tokens(_, tasks, samples):
                self._on_tokens(tasks, samples, now)
            case PrefillDone() | Finished() | Refused() | Adopted() | MoveFailed():
                self._on_task(event, now)
            case Arrived(turn):
                self._on_arrived(turn, now)
            case Cancelled(turn, reason, kept):
                self._on_cancelled(turn, reason, kept, now)
            case LoadReport(worker):
                if (record := self.fleet.workers.get(worker)) is not None:
                    record.report = event
            case MoveWanted(turn, to, reason):
                self._on_move_wanted(turn, to, reason, now)
            case _:
                self._on_fleet(event, now)
        out, self._out = self._out, []
        return out

    # ---- arrival and the end -------------------------------------------------------------------

    def _on_arrived(self, turn: Turn, now: float) -> None:
        rejected = self._reason_to_reject(turn)
        if rejected is not None:
            self._out.append(End(turn.id, rejected, turn.prompt_len, 0, 0))
            return
        session = self.sessions.join(turn, now)
        growth = min(turn.sampling.max_tokens, self.limits.reserve_tokens)
        live = LiveTurn(
            turn, session, now, turn.prompt_len + growth, list(turn.tokens), TaskId(turn.id, 0)
        )
        self._turns[turn.id] = live
        self._waiting[turn.id] = None
        self._assign(live, now)

    def _reason_to_reject(self, turn: Turn) -> Rejected | None:
        if turn.id in self._turns:
            raise ValueError(f"turn {turn.id} is live already")
        if self._draining:
            return Rejected("draining", "The server is shutting down.")
        limit = self.limits.max_model_len
        if turn.max_total_len > limit:
            return Rejected("too_long", f"Prompt and reply may reach {limit} tokens together.")
        if len(self._waiting) >= self.limits.max_queue_size:
            waiting = len(self._waiting)
            return Rejected("queue_full", f"{waiting} turns are waiting, as many as may.")
        return None

    def _end(self, live: LiveTurn, outcome: Outcome, now: float, *, kept: int) -> None:
        """End a turn, remembering the conversation up to `kept` reply tokens for the next one."""
        if live.move is not None:
            self._to_worker(live.move.to, Cancel(live.task))
        self._unassign(live)
        del self._turns[live.turn.id]
        self._waiting.pop(live.turn.id, None)
        if kept and live.owner is not None:
            # The last token may be written differently in the next prompt (an end-of-reply token,
            # a half character), and its KV is not computed anyway.
            tokens = tuple(live.tokens[: live.turn.prompt_len + max(1, kept - 1)])
            self.sessions.remember(live.session, live.turn.salt, tokens, now)
        else:
            self.sessions.leave(live.session, now)
        self._out.append(
            End(live.turn.id, outcome, live.turn.prompt_len, live.replied, live.cached_len or 0)
        )

    def _on_cancelled(self, turn: TurnId, reason: str, kept: int, now: float) -> None:
        live = self._turns.get(turn)
        if live is not None:
            self._withdraw(live)
            # The next prompt ends somewhere before the stop, and only the text layer knows where:
            # the conversation is known again by its prompt and the first token of the reply.
            self._end(live, Dropped(reason), now, kept=min(kept, live.replied, 1))

    # ---- assignment ----------------------------------------------------------------------------

    def _assign(self, live: LiveTurn, now: float) -> None:
        """Place the session if it has no owner, choose who prefills, and send the task out."""
        session, turn = live.session, live.turn
        owner = session.owner
        if owner is None:
            placement = place(self.fleet.decode_views(self.sessions))
            if placement is None:
                message = "No decode worker is left."
                self._end(live, Failed("no_decode_capacity", message), now, kept=0)
                return
            owner = placement.worker
            self.sessions.own(session, owner)
            self._decide("place", live, owner, placement.reason)
        else:
            self._decide("place", live, owner, "session_owner")
        view = self.fleet.decode_view(owner, self.sessions)
        left = turn.sampling.max_tokens - live.replied
        decision = route(TaskView(len(live.tokens), left), view, self.fleet.prefill_views())
        live.owner = owner
        self.fleet.add_decode(owner, live.expected_len, 1)
        task = _task(live)
        if isinstance(decision, Local):
            self._decide("route", live, owner, decision.reason)
            self._out.append(ToWorker(owner, Prefill(task, None)))
            return
        live.prefill = decision.worker
        live.queued_len = len(task.tokens)
        self.fleet.add_prefill(decision.worker, live.queued_len, 1)
        self._decide("route", live, decision.worker, decision.reason)
        # Prefill goes first: the owner's grant must find the task at the prefill worker.
        self._out.append(ToWorker(decision.worker, Prefill(task, owner)))
        self._out.append(ToWorker(owner, Decode(task, decision.worker, moving=False)))

    def _unassign(self, live: LiveTurn) -> None:
        """Take a turn off the books of its workers."""
        if live.owner is not None:
            self.fleet.add_decode(live.owner, -live.expected_len, -1)
        self._prefill_over(live)
        self._move_over(live)

    def _prefill_over(self, live: LiveTurn) -> None:
        if live.prefill is not None:
            self.fleet.add_prefill(live.prefill, -live.queued_len, -1)
            live.prefill = None

    def _withdraw(self, live: LiveTurn) -> None:
        """Tell the workers of the current attempt to forget it."""
        for worker in live.workers:
            self._to_worker(worker, Cancel(live.task))

    def _retry(self, live: LiveTurn, now: float) -> None:
        """Start a new attempt from the tokens emitted so far, unless they are the whole reply."""
        self._withdraw(live)
        reason = finish_after(live.turn.sampling, live.tokens[-1], live.replied)
        if live.replied and reason is not None:
            self._end(live, Completed(reason), now, kept=live.replied)
            return
        self._unassign(live)
        live.owner = None
        live.task = TaskId(live.turn.id, live.task.attempt + 1)
        live.early.clear()
        live.finish = None
        self._assign(live, now)

    def _to_worker(self, worker: WorkerId, message: WorkerMessage) -> None:
        if worker in self.fleet.workers:
            self._out.append(ToWorker(worker, message))

    def _decide(self, kind: str, live: LiveTurn, choice: str, reason: str) -> None:
        self._out.append(Decision(kind, live.turn.id, choice, reason, live.session.id))

    # ---- progress ------------------------------------------------------------------------------

    def _on_tokens(
        self, tasks: Sequence[TaskId], samples: Sequence[SampledToken], now: float
    ) -> None:
        turns: list[TurnId] = []
        emitted: list[SampledToken] = []
        settled: list[LiveTurn] = []
        for task, sample in zip(tasks, samples, strict=True):
            live = self._turns.get(task.turn)
            if live is None or live.task != task:
                continue
            if sample.reply_index != len(live.tokens) - live.turn.prompt_len:
                live.early[sample.reply_index] = sample
                continue
            live.tokens.append(sample.token)
            turns.append(task.turn)
            emitted.append(sample)
            if live.early or live.finish is not None:
                settled.append(live)
        if turns:
            self._out.append(Emit(turns, emitted))
        for live in settled:
            self._settle(live, now)

    def _settle(self, live: LiveTurn, now: float) -> None:
        """Emit what came early and is due now; end the turn if its last token is out."""
        while (sample := live.early.pop(live.replied, None)) is not None:
            live.tokens.append(sample.token)
            self._out.append(Emit((live.turn.id,), (sample,)))
        if live.finish is not None and live.replied >= live.finish[1]:
            self._end(live, Completed(live.finish[0]), now, kept=live.replied)

    def _on_task(
        self, event: PrefillDone | Finished | Refused | Adopted | MoveFailed, now: float
    ) -> None:
        live = self._turns.get(event.task.turn)
        if live is None or live.task != event.task:
            return
        match event:
            case PrefillDone():
                self._on_prefill_done(live, event, now)
            case Finished(_, _, reason, reply_len):
                live.finish = (reason, reply_len)
                self._settle(live, now)
            case Refused(worker, _, reason):
                if live.move is not None and worker == live.move.to:
                    self._to_worker(live.owner or worker, MoveAbort(live.task))
                elif worker in live.workers:
                    self._on_refused(live, reason, now)
            case Adopted(worker):
                if live.move is not None and worker == live.move.to:
                    self._on_moved(live, live.move)
            case MoveFailed(_, _, reason):
                if live.move is not None:
                    self._on_move_failed(live, live.move, reason)
            case _:
                assert_never(event)

    def _on_prefill_done(self, live: LiveTurn, done: PrefillDone, now: float) -> None:
        self._prefill_over(live)
        self._waiting.pop(live.turn.id, None)
        if live.cached_len is None:
            live.cached_len = max(0, live.turn.prompt_len - done.computed)
        if done.prompt_logprobs is not None:
            self._out.append(EmitPrompt(live.turn.id, done.prompt_logprobs))
        live.early[done.first.reply_index] = done.first
        if done.finish is not None:
            live.finish = (done.finish, done.first.reply_index + 1)
        self._settle(live, now)

    def _on_refused(self, live: LiveTurn, reason: str, now: float) -> None:
        self._decide("retry", live, f"attempt {live.task.attempt + 1}", reason)
        if reason == "transfer_failed":
            live.failures += 1
        if live.failures >= self.limits.max_attempts:
            self._withdraw(live)
            message = f"The turn was given up after {live.failures} failures ({reason})."
            self._end(live, Failed("engine_dead", message), now, kept=0)
            return
        self._retry(live, now)

    # ---- moves ---------------------------------------------------------------------------------

    def _on_move_wanted(self, turn: TurnId, to: WorkerId, reason: str, now: float) -> None:
        """Begin a move if the turn decodes and the worker can take it; else nothing happens."""
        live, record = self._turns.get(turn), self.fleet.workers.get(to)
        if live is None or record is None or record.role is Role.PREFILL:
            return
        decodes = live.replied > 0 and live.prefill is None and live.finish is None
        if not decodes or live.owner is None or live.owner == to or live.move is not None:
            return
        timeout = self.limits.move_timeout_s
        live.move = PendingMove(to, reason, now, now + timeout, overdue=False)
        self.fleet.add_decode(to, live.expected_len, 1)
        self._decide("move", live, to, reason)
        self._to_worker(to, Decode(_task(live), live.owner, moving=True))
        self._to_worker(live.owner, MoveOut(live.task, to))

    def _on_moved(self, live: LiveTurn, move: PendingMove) -> None:
        """The destination decodes: it owns the session from now on, and what was booked for it."""
        if live.owner is not None:
            self.fleet.add_decode(live.owner, -live.expected_len, -1)
        live.owner, live.move = move.to, None
        self.sessions.own(live.session, move.to)
        self._decide("moved", live, move.to, move.reason)

    def _on_move_failed(self, live: LiveTurn, move: PendingMove, reason: str) -> None:
        self._to_worker(move.to, Cancel(live.task))
        self._move_over(live)
        self._decide("move_failed", live, move.to, reason)

    def _move_over(self, live: LiveTurn) -> None:
        if live.move is not None:
            self.fleet.add_decode(live.move.to, -live.expected_len, -1)
            live.move = None

    def _expire_moves(self, now: float) -> None:
        """Ask sources to give up what takes too long; begin anew where even that has no answer."""
        for live in list(self._turns.values()):
            move = live.move
            if move is None or live.owner is None or now < move.deadline:
                continue
            if move.overdue:
                self._decide("retry", live, f"attempt {live.task.attempt + 1}", "move_lost")
                self._retry(live, now)
            else:
                move.overdue, move.deadline = True, now + self.limits.move_timeout_s
                self._to_worker(live.owner, MoveAbort(live.task))

    # ---- the fleet and the clock ---------------------------------------------------------------

    def _on_fleet(self, event: WorkerJoined | WorkerLost | Tick | Drain, now: float) -> None:
        match event:
            case WorkerJoined(worker, role, capacity):
                self.fleet.join(worker, role, capacity)
            case WorkerLost():
                self._on_lost(event, now)
            case Tick():
                self._on_tick(now)
            case Drain():
                self._draining = True
            case _:
                assert_never(event)

    def _on_lost(self, event: WorkerLost, now: float) -> None:
        worker = event.worker
        self.fleet.leave(worker)
        self.sessions.disown(worker)
        self._out += [ToWorker(peer, event) for peer in self.fleet.workers]
        for live in list(self._turns.values()):
            if worker in (live.owner, live.prefill):
                self._decide("retry", live, f"attempt {live.task.attempt + 1}", "worker_lost")
                self._retry(live, now)
            elif live.move is not None and live.move.to == worker and live.owner is not None:
                # Its source knows whether the row is still there.
                self._to_worker(live.owner, MoveAbort(live.task))

    def _on_tick(self, now: float) -> None:
        self.sessions.expire(now)
        self._expire_moves(now)
        limit = self.limits.queue_timeout_s
        if limit is None:
            return
        overdue = [t for t in self._waiting if now - self._turns[t].arrived >= limit]
        for turn in overdue:
            live = self._turns[turn]
            self._withdraw(live)
            rejected = Rejected("queue_timeout", f"The turn waited longer than {limit:g} s.")
            self._end(live, rejected, now, kept=0)


def _task(live: LiveTurn) -> Task:
    """Make the work of a turn's current attempt out of the tokens emitted so far."""
    return Task(live.task, live.turn, tuple(live.tokens), live.replied, live.arrived)
