"""What happens to each turn of the deployment? Sessions, placement, routing, failures, the end.

The life of a turn here:

    Arrived -> queued at workers -> PrefillDone (first token) -> Tokens ... -> Finished -> End
                    |  Refused, WorkerLost: a new attempt from the tokens delivered so far
                    |  Cancelled, queue timeout, nobody left to decode: End at once
                    |  its row may move to another worker meanwhile (core/moves)

Every accepted turn gets exactly one End, and its tokens are emitted in order, none twice
(core/progress). Works per turn; only `Tokens` is per step. Does no I/O, reads no clock.
"""

from typing import assert_never

from serving.core.assignments import Assignments
from serving.core.finish import ended_by_itself, failure_after, finish_after
from serving.core.fleet import Fleet
from serving.core.live_turn import LiveTurn, open_turn
from serving.core.moves import Moves, unfinished
from serving.core.outbox import Outbox
from serving.core.prefix import chain
from serving.core.progress import Progress
from serving.core.rebalancer import Rebalancer, WantedMove
from serving.core.roles import Roles
from serving.core.rules import CoordinatorLimits, CoordinatorRules
from serving.core.sessions import Sessions
from serving.core.steady import SteadySteps
from serving.costs.correction import Corrected, Correction
from serving.forecast.length_model import LengthModel
from serving.messages import (
    COSTS,
    Action,
    Adopted,
    Arrived,
    Cancel,
    Cancelled,
    Completed,
    Drain,
    Dropped,
    EmitPrompt,
    End,
    Event,
    Failed,
    Finished,
    LoadReport,
    MoveFailed,
    MoveGoesOn,
    MoveWanted,
    Outcome,
    PagesChanged,
    PrefillDone,
    Refused,
    Rejected,
    SetRole,
    StepsTimed,
    TaskId,
    Tick,
    Tokens,
    WorkerId,
    WorkerJoined,
    WorkerLost,
    WorkerMeans,
)
from serving.request import Turn, TurnId


class Coordinator:
    """The only writer of cluster state."""

    def __init__(
        self,
        limits: CoordinatorLimits,
        rules: CoordinatorRules,
        sessions: Sessions,
        lengths: LengthModel,
    ) -> None:
        """Start with no workers and no turns. `lengths` forecasts replies, and learns from them."""
        self.limits = limits
        self.sessions = sessions
        self.fleet = Fleet(page_size=limits.page_size, window_s=rules.window_s)
        self._rules = rules
        self._lengths = lengths
        self._turns: dict[TurnId, LiveTurn] = {}
        self._waiting: dict[TurnId, None] = {}  # no token yet, oldest first
        self._draining = False
        self._named: tuple[Turn, list[bytes]] | None = None
        self._outbox = Outbox(self.fleet)
        self._corrections = {role: Correction() for role in rules.costs}
        costs = {
            role: Corrected(base, self._corrections[role]) for role, base in rules.costs.items()
        }
        self._assignments = Assignments(
            rules, costs, self.fleet, sessions, self._turns, self._outbox
        )
        self._rebalancer = Rebalancer(rules, costs, self.fleet, self._turns, limits.page_size)
        self._moves = Moves(self.fleet, sessions, self._outbox, limits.move_timeout_s)
        self._progress = Progress(self._turns, self.fleet, self._moves, self._outbox)
        self._roles = Roles(rules, self.fleet, sessions, self._outbox)

    @property
    def live_turns(self) -> int:
        """Turns that have not ended."""
        return len(self._turns)

    def means(self, now: float) -> list[WorkerMeans]:
        """Return what the policies see of the workers' last seconds."""
        return self.fleet.means(now)

    def role_problem(self, change: SetRole) -> str | None:
        """Say in one line why a worker cannot change its role now; None if it can."""
        return self._roles.problem(change)

    def on(self, event: Event, now: float) -> list[Action]:
        """Take one event; returns what is to be done, in order."""
        match event:
            case Tokens():
                self._on_tokens(event, now)
            case PrefillDone() | Finished() | Refused() | Adopted() | MoveGoesOn() | MoveFailed():
                self._on_task(event, now)
            case StepsTimed() | PagesChanged() | LoadReport():
                self._observe(event)
            case Arrived(turn, accepted):
                self._on_arrived(turn, accepted, now)
            case Cancelled(turn, reason, kept):
                self._on_cancelled(turn, reason, kept, now)
            case MoveWanted(turn, to, reason):
                self._move(WantedMove(turn, to, reason, 0.0), now)
            case _:
                self._on_fleet(event, now)
        return self._outbox.take()

    # ---- arrival and the end -------------------------------------------------------------------

    def _on_arrived(self, turn: Turn, accepted: bool, now: float) -> None:
        rejected = self._reason_to_reject(turn, accepted)
        if rejected is not None:
            self._outbox.add(End(turn.id, rejected, turn.prompt_len, 0, 0))
            return
        self._assignments.arrived(now)
        names, self._named = self._names(turn), None
        session, slo = self.sessions.join(turn, now), turn.slo.or_else(self._rules.slo)
        live = open_turn(turn, session, now, names=names, slo=slo, curve=self._lengths.curve())
        self._turns[turn.id] = live
        self._waiting[turn.id] = None
        self._assign(live, now)

    def concerned_by(self, turn: Turn) -> set[WorkerId] | None:
        """Name the workers whose rows may count for where a turn goes, if it arrived now.

        For drivers that know beforehand when steps end (`go_on`): of all other rows the coordinator
        may hear after the arrival. None: everybody's may count.
        """
        self._named = turn, self._names(turn)
        session = self.sessions.find(turn)
        tpot_s = turn.slo.or_else(self._rules.slo).tpot_s
        return self._assignments.concerned_by(turn, session, self._named[1], tpot_s)

    def _names(self, turn: Turn) -> list[bytes]:
        """Name the pages of a prompt: once, though a driver asks who is concerned before."""
        if self._named is not None and self._named[0] is turn:
            return self._named[1]
        return chain(turn.salt, turn.tokens, self.limits.page_size)

    def _reason_to_reject(self, turn: Turn, accepted: bool) -> Rejected | None:
        if turn.id in self._turns:
            raise ValueError(f"turn {turn.id} is live already")
        if self._draining and not accepted:
            return Rejected("draining", "The server is shutting down.")
        limit = self.limits.max_model_len
        if turn.max_total_len > limit:
            return Rejected("too_long", f"Prompt and reply may reach {limit} tokens together.")
        if not accepted and (waiting := len(self._waiting)) >= self.limits.max_queue_size:
            return Rejected("queue_full", f"{waiting} turns are waiting, as many as may.")
        return None

    def _end(self, live: LiveTurn, outcome: Outcome, now: float, *, kept: int) -> None:
        """End a turn, remembering the conversation up to `kept` reply tokens for the next one."""
        if live.move is not None:
            self._outbox.to_worker(live.move.to, Cancel(live.task))
        self._unassign(live)
        del self._turns[live.turn.id]
        self._waiting.pop(live.turn.id, None)
        if live.replied:
            self._lengths.observe(live.replied, ended_by_itself(outcome))
        if kept and live.owner is not None:
            # The last token may be written differently in the next prompt (an end-of-reply token,
            # a half character), and its KV is not computed anyway.
            tokens = tuple(live.tokens[: live.turn.prompt_len + max(1, kept - 1)])
            self.sessions.remember(live.session, live.names, tokens, now)
        else:
            self.sessions.leave(live.session, now)
        prompt_len, cached_len = live.turn.prompt_len, live.cached_len or 0
        said = live.predictions
        self._outbox.add(End(live.turn.id, outcome, prompt_len, live.replied, cached_len, said))
        self._roles.settle_all(now)

    def _on_cancelled(self, turn: TurnId, reason: str, kept: int, now: float) -> None:
        live = self._turns.get(turn)
        if live is not None:
            self._assignments.withdraw(live)
            # The next prompt ends somewhere before the stop, and only the text layer knows where:
            # the conversation is known again by its prompt and the first token of the reply.
            self._end(live, Dropped(reason), now, kept=min(kept, live.replied, 1))

    # ---- attempts ------------------------------------------------------------------------------

    def _assign(self, live: LiveTurn, now: float) -> None:
        if not self._assignments.assign(live, now):
            failed = Failed("no_decode_capacity", "No decode worker is left.")
            self._end(live, failed, now, kept=0)

    def _unassign(self, live: LiveTurn) -> None:
        self._assignments.unassign(live)
        self._moves.forget(live)

    def _retry(self, live: LiveTurn, reason: str, now: float) -> None:
        """Start a new attempt from the tokens emitted so far, unless they are the whole reply."""
        details = {"replied": live.replied, **unfinished(live)}
        self._outbox.decide("retry", live, f"attempt {live.task.attempt + 1}", reason, details)
        self._assignments.withdraw(live)
        finish = finish_after(live.turn.sampling, live.tokens[-1], live.replied)
        if live.replied and finish is not None:
            self._end(live, Completed(finish), now, kept=live.replied)
            return
        self._unassign(live)
        live.owner = None
        live.task = TaskId(live.turn.id, live.task.attempt + 1)
        live.names = chain(live.turn.salt, live.tokens, self.limits.page_size)
        live.early.clear()
        live.finish = live.resumes_at = None
        self._assign(live, now)

    def _move(self, wanted: WantedMove, now: float) -> None:
        if (live := self._turns.get(wanted.turn)) is not None:
            self._moves.begin(live, wanted, now)

    # ---- progress ------------------------------------------------------------------------------

    def _on_tokens(self, event: Tokens, now: float) -> None:
        for live in self._progress.take(event, now):
            self._settle(live, now)

    def go_on(self, steps: SteadySteps) -> bool:
        """Take at once what `on` would take of each of these steps, if no action hangs on one.

        For drivers that know beforehand when steps end. What has come is the driver's to emit. If
        False, nothing is taken, and each step is to be told by itself.
        """
        return self._progress.take_steady(steps)

    def _settle(self, live: LiveTurn, now: float) -> None:
        """Emit what came early and is due now; end the turn if its last token is out."""
        self._progress.take_early(live, now)
        if live.finish is not None and live.replied >= live.finish[1]:
            self._end(live, Completed(live.finish[0]), now, kept=live.replied)

    def _on_task(
        self,
        event: PrefillDone | Finished | Refused | Adopted | MoveGoesOn | MoveFailed,
        now: float,
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
            case Refused():
                self._on_refused(live, event, now)
            case Adopted():
                live.sender = live.sender if event.move else None
                self._moves.adopted(live, event, now)
                self._settle(live, now)
                self._roles.settle_all(now)
            case MoveGoesOn(_, _, move):
                self._moves.goes_on(live, move, now)
            case MoveFailed(_, _, move, reason):
                self._moves.failed(live, move, reason)
            case _:
                assert_never(event)

    def _on_prefill_done(self, live: LiveTurn, done: PrefillDone, now: float) -> None:
        self._waiting.pop(live.turn.id, None)
        if live.cached_len is None:
            computed = live.computed + done.computed
            live.cached_len = max(0, live.turn.prompt_len - computed)
            live.first_at = now
            self._on_first_token(live, done, now)
        if done.prompt_logprobs is not None:
            self._outbox.add(EmitPrompt(live.turn.id, done.prompt_logprobs))
        if done.forecast is not None:
            live.foresee(done.forecast)
        live.early[done.first.reply_index] = done.first
        if done.finish is not None:
            live.finish = (done.finish, done.first.reply_index + 1)
        self._assignments.prefilled(live)
        self._settle(live, now)

    def _on_first_token(self, live: LiveTurn, done: PrefillDone, now: float) -> None:
        """Note how long the first token took, beside what was predicted."""
        ttft_s = now - live.arrived
        record = self.fleet.workers.get(done.worker)
        if record is not None:
            record.ttft.add(now, ttft_s, 1)
        details = {
            "ttft_s": ttft_s,
            "predicted_ttft_s": live.predicted_ttft_s,
            "prefill_s": done.prefill_s,
            "computed": done.computed,
        }
        self._outbox.decide("first_token", live, done.worker, "observed", details)

    def _on_refused(self, live: LiveTurn, refused: Refused, now: float) -> None:
        worker, reason = refused.worker, refused.reason
        if self._moves.refused(live, worker, reason) or worker not in (*live.workers, live.sender):
            return
        live.computed += refused.computed
        live.failures += reason == "transfer_failed"
        self._retry_or_fail(live, worker, reason, now)

    def _retry_or_fail(self, live: LiveTurn, worker: WorkerId, reason: str, now: float) -> None:
        """Try again, unless this must not be tried or was tried often enough."""
        failed = failure_after(reason, live.failures, self.limits.max_attempts)
        if failed is None:
            self._retry(live, reason, now)
            return
        self._outbox.decide("failed", live, worker, reason, {"replied": live.replied})
        self._assignments.withdraw(live)
        self._end(live, failed, now, kept=0)

    # ---- the fleet and the clock ---------------------------------------------------------------

    def _observe(self, event: StepsTimed | PagesChanged | LoadReport) -> None:
        record = self.fleet.observe(event)
        if record is not None and isinstance(event, LoadReport):
            self._rebalancer.observe(event)
        elif record is not None and isinstance(event, StepsTimed):
            correction = self._corrections[record.role]
            correction.observe_all(event.steps)
            for kind, ratio in correction.beyond():
                self._outbox.decide_for(
                    COSTS, event.worker, kind, "beyond_bounds", ratio=ratio, role=str(record.role)
                )

    def _on_fleet(
        self, event: WorkerJoined | WorkerLost | SetRole | Tick | Drain, now: float
    ) -> None:
        match event:
            case WorkerJoined(worker, role, capacity, timed):
                self.fleet.join(worker, role, capacity, now)
                self._corrections[role].observe_all(timed)
            case WorkerLost():
                self._on_lost(event, now)
            case SetRole():
                self._roles.change(event, now, why="asked")
            case Tick():
                self._on_tick(now)
            case Drain():
                self._draining = True
            case _:
                assert_never(event)

    def _on_lost(self, event: WorkerLost, now: float) -> None:
        worker, overdue_s = event.worker, event.overdue_s
        reason = "broke" if overdue_s is None else "step_overdue"
        self._outbox.decide_for("worker_lost", worker, "", reason, overdue_s=overdue_s)
        self.fleet.leave(worker)
        self.sessions.disown(worker)
        self._roles.keep_one(now)
        for peer in self.fleet.workers:
            self._outbox.to_worker(peer, event)
        for live in list(self._turns.values()):
            if worker in (live.owner, live.prefill) or self._moves.lost(live, worker):
                # It may be the turn that breaks them, and must not break them all.
                live.failures += 1
                self._retry_or_fail(live, worker, "worker_lost", now)

    def _on_tick(self, now: float) -> None:
        self.sessions.expire(now)
        live = list(self._turns.values())
        self._moves.expire(live, now, lambda turn: self._retry(turn, "move_lost", now))
        self._roles.look(now)
        for wanted in [*self._rebalancer.look(now), *self._roles.evacuate(live)]:
            self._move(wanted, now)
        if (limit := self.limits.queue_timeout_s) is not None:
            self._time_out(limit, now)

    def _time_out(self, limit: float, now: float) -> None:
        overdue = [t for t in self._waiting if now - self._turns[t].arrived >= limit]
        for turn in overdue:
            live = self._turns[turn]
            self._assignments.withdraw(live)
            rejected = Rejected("queue_timeout", f"The turn waited longer than {limit:g} s.")
            self._end(live, rejected, now, kept=0)
