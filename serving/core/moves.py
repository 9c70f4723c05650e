"""Which rows are on their way to another worker? The coordinator's side of live moves.

    wanted -> the destination makes room, the source copies -> adopted (the session has a new owner)
                  |  refused, failed, overdue: the source is asked to keep the row
                  |  it cannot any more: the turn begins a new attempt

The source alone decides whether a move is still to be had; nobody else ever resumes a row.
"""

from collections.abc import Callable, Iterable, Mapping

from serving.core.fleet import Fleet
from serving.core.live_turn import LiveTurn, PendingMove
from serving.core.outbox import Outbox
from serving.core.rebalancer import WantedMove
from serving.core.sessions import Sessions
from serving.messages import (
    Adopted,
    Cancel,
    Decode,
    Detail,
    MoveAbort,
    MoveOut,
    SampledToken,
    WorkerId,
)


def unfinished(live: LiveTurn) -> Mapping[str, Detail]:
    """Say for a record where a row was going, and why it was called back; nothing if it stood."""
    if live.move is None:
        return {}
    return {"moving_to": live.move.to, "called_back": live.move.called_back}


class Moves:
    """The only writer of pending moves."""

    def __init__(self, fleet: Fleet, sessions: Sessions, outbox: Outbox, timeout_s: float) -> None:
        """A source that says nothing of a move for `timeout_s` is asked to keep the row."""
        self._fleet = fleet
        self._sessions = sessions
        self._outbox = outbox
        self._timeout_s = timeout_s

    def begin(self, live: LiveTurn, wanted: WantedMove, now: float) -> bool:
        """Begin a move if the row can leave and the worker can take it; else nothing happens.

        A row whose owner has yet to take its pages is nowhere to leave from: its owner would say
        that it is gone, as of one that has left already, and the turn would begin anew.
        """
        record = self._fleet.workers.get(wanted.to)
        if record is None or not record.decodes or not record.takes_work:
            return False
        if not live.at_owner or live.finish is not None or live.move is not None:
            return False
        if live.owner is None or live.owner == wanted.to:
            return False
        live.moves += 1
        live.move = PendingMove(
            number=live.moves,
            to=wanted.to,
            reason=wanted.reason,
            gain_s=wanted.gain_s,
            began=now,
            deadline=now + self._timeout_s,
        )
        self._fleet.add_load(wanted.to, live.expected_len, 1)
        details = {
            "from": live.owner,
            "kv_len": len(live.tokens),
            "replied": live.replied,
            "gain_s": wanted.gain_s,
        }
        self._outbox.decide("move", live, wanted.to, wanted.reason, details)
        decode = Decode(live.make_task(), live.owner, live.moves, reuse=True)
        self._outbox.to_worker(wanted.to, decode)
        self._outbox.to_worker(live.owner, MoveOut(live.task, wanted.to, live.moves))
        return True

    def adopted(self, live: LiveTurn, adopted: Adopted, now: float) -> None:
        """A worker decodes a task now; if that ends a move, it owns the session from now on.

        If that one leaves, the session is not its own: it is placed anew, or stays where it was.
        What the source has told of the reply may still be on its way, or lost with it. Tokens
        without log-probabilities need not wait for it. Of a worker that is lost by now nothing is
        believed: the source, which was asked to keep the row, will say that it is gone.
        """
        move, worker, reply = live.move, adopted.worker, adopted.reply
        record = self._fleet.workers.get(worker)
        if move is None or adopted.move != move.number or live.owner is None or record is None:
            return
        self._fleet.add_load(live.owner, -live.expected_len, -1)
        self._fleet.end_decode(live.owner, live.turn.id, len(live.tokens))
        self._fleet.begin_decode(worker, live.turn.id, len(live.tokens))
        source, live.owner, live.move, live.moved_at = live.owner, worker, None, now
        live.untold[source] = len(reply)
        live.resumes_at, live.resumes_from = len(reply), source
        if live.turn.sampling.logprobs is None:
            for index in range(live.replied, len(reply)):
                live.early[index] = SampledToken(index, reply[index], None)
        if record.takes_work:
            self._sessions.own(live.session, worker)
        details = {
            "from": source,
            "kv_len": len(live.tokens),
            "replied": live.replied,
            "took_s": now - move.began,
            "gain_s": move.gain_s,
        }
        self._outbox.decide("moved", live, worker, move.reason, details)

    def resumed(self, live: LiveTurn, now: float) -> None:
        """The first token from where a row moved to goes out: note how long its client waited."""
        live.resumes_at = None
        if live.owner is None or live.last_at is None:
            return
        details = {
            "from": live.resumes_from,
            "stop_s": now - live.last_at,
            "replied": live.replied,
        }
        self._outbox.decide("resumed", live, live.owner, "observed", details)

    def goes_on(self, live: LiveTurn, number: int, now: float) -> None:
        """The destination has made room, or taken pages: no deadline is over while more come."""
        if live.move is not None and live.move.number == number and not live.move.overdue:
            live.move.deadline = now + self._timeout_s

    def failed(self, live: LiveTurn, number: int, reason: str) -> None:
        """The source keeps the row."""
        if live.move is None or live.move.number != number:
            return
        self._outbox.to_worker(live.move.to, Cancel(live.task))
        self._outbox.decide("move_failed", live, live.move.to, reason, {"from": live.owner})
        self.forget(live)

    def refused(self, live: LiveTurn, worker: WorkerId, reason: str) -> bool:
        """Tell whether it is the destination that refuses; then the source is to keep the row."""
        if live.move is None or live.move.to != worker:
            return False
        self._ask_back(live, reason)
        return True

    def lost(self, live: LiveTurn, worker: WorkerId) -> bool:
        """A worker is lost; returns whether tokens were lost with it, so that a turn begins anew.

        A row on its way there may still be at its source, which knows.
        """
        if live.move is not None and live.move.to == worker:
            live.move.booked = False  # another may join under its name
            self._ask_back(live, "worker_lost")
        return live.replied < live.untold.pop(worker, 0)

    def forget(self, live: LiveTurn) -> None:
        """Take a move off the books."""
        if live.move is not None and live.move.booked:
            self._fleet.add_load(live.move.to, -live.expected_len, -1)
        live.move = None

    def expire(
        self, turns: Iterable[LiveTurn], now: float, begin_anew: Callable[[LiveTurn], None]
    ) -> None:
        """Ask sources to keep what nothing is heard of; begin anew where that has no answer."""
        for live in turns:
            move = live.move
            if move is None or now < move.deadline:
                continue
            if move.overdue:
                begin_anew(live)
            else:
                move.overdue, move.deadline = True, now + self._timeout_s
                self._ask_back(live, "timeout")

    def _ask_back(self, live: LiveTurn, reason: str) -> None:
        if live.owner is not None and live.move is not None:
            live.move.called_back = reason
            self._outbox.to_worker(live.owner, MoveAbort(live.task, live.move.number, reason))
