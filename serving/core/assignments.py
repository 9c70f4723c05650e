"""Who works on a turn's current attempt? Assignment to workers, and the books of it.

    assigned: placed with an owner, routed, booked, told -> unassigned: off all books

Knows nothing of tokens or of how turns end.
"""

from collections.abc import Mapping, Sequence

from serving.core.fleet import Fleet
from serving.core.live_turn import LiveTurn
from serving.core.outbox import Outbox
from serving.core.placement import Placer
from serving.core.router import Router
from serving.core.rules import CoordinatorRules
from serving.core.sessions import Session, Sessions
from serving.core.windows import Window
from serving.costs.costs import Costs
from serving.messages import Cancel, Decode, Prefill, Role, WorkerId
from serving.request import Turn, TurnId


class Assignments:
    """The only writer of what is booked for the work of turns."""

    def __init__(
        self,
        rules: CoordinatorRules,
        costs: Mapping[Role, Costs],
        fleet: Fleet,
        sessions: Sessions,
        turns: Mapping[TurnId, LiveTurn],
        outbox: Outbox,
    ) -> None:
        """Book in `fleet`, own in `sessions`; `turns` are all that are live, `costs` by role."""
        self._fleet = fleet
        self._sessions = sessions
        self._outbox = outbox
        self._arrivals = Window(rules.window_s)
        self._placer = Placer(rules.place, fleet, sessions, costs, peers=rules.peers)
        self._router = Router(rules, costs, fleet, turns)

    def arrived(self, now: float) -> None:
        """A turn has come: policies look at the rate."""
        self._arrivals.add(now, 0.0, 1)

    def assign(self, live: LiveTurn, now: float) -> bool:
        """Place the session if it has no owner, choose who prefills, and send the task out.

        False if nobody is left to decode.
        """
        owner = live.session.owner
        if owner is None:
            placement = self._placer.place(live.session.id, live.names, live.slo.tpot_s)
            if placement is None:
                return False
            owner, reason, clear = placement.worker, placement.reason, placement.clear
            self._sessions.own(live.session, owner)
        else:
            reason, clear = "session_owner", ()
        self._outbox.decide("place", live, owner, reason, {"clear": list(clear)} if clear else {})
        routed = self._router.route(live, owner, now, self._arrivals.rate(now))
        live.owner = owner
        self._fleet.add_load(owner, live.expected_len, 1)
        live.queued_at = routed.prefill or owner
        self._fleet.book(live.queued_at, live.turn.id, routed.work, live.due)
        if live.predicted_ttft_s is None and routed.predicted_ttft_s is not None:
            live.predicted_ttft_s = now - live.arrived + routed.predicted_ttft_s
        self._outbox.decide("route", live, live.queued_at, routed.reason, routed.details)
        live.sender = routed.prefill
        task = live.make_task()
        if routed.prefill is None:
            self._outbox.to_worker(owner, Prefill(task, None, pull=False, reuse=True, waits=True))
            return True
        live.prefill = routed.prefill
        # Prefill goes first: the owner's grant must find the task at the prefill worker.
        prefill = Prefill(task, owner, pull=routed.pull, reuse=routed.reuse, waits=routed.waits)
        self._outbox.to_worker(routed.prefill, prefill)
        decode = Decode(task, routed.prefill, move=None, reuse=routed.reuse)
        self._outbox.to_worker(owner, decode)
        return True

    def concerned_by(
        self, turn: Turn, session: Session | None, names: Sequence[bytes], tpot_s: float | None
    ) -> set[WorkerId] | None:
        """Name the workers whose rows may count for where a turn of this session goes.

        None: everybody's may. `names` are those of its prompt's pages.
        """
        owner = None if session is None else session.owner
        if owner is None:
            id = self._sessions.next_id if session is None else session.id
            placement = self._placer.place(id, names, tpot_s)
            if placement is None:
                return set()
            if placement.by_rows:
                return None
            owner = placement.worker
        return {owner, *self._router.concerned_by(turn.prompt_len, owner)}

    def prefilled(self, live: LiveTurn) -> None:
        """A turn's prompt is computed: its row decodes at its owner from now on."""
        self._prefill_over(live)
        if live.owner is not None:
            live.decoding = True
            self._fleet.begin_decode(live.owner, live.turn.id, len(live.tokens))

    def unassign(self, live: LiveTurn) -> None:
        """Take a turn off the books of its workers."""
        if live.owner is not None:
            self._fleet.add_load(live.owner, -live.expected_len, -1)
            self._fleet.end_decode(live.owner, live.turn.id, len(live.tokens))
        live.decoding = False
        self._prefill_over(live)

    def withdraw(self, live: LiveTurn) -> None:
        """Tell the workers of the current attempt to forget it."""
        for worker in live.workers:
            self._outbox.to_worker(worker, Cancel(live.task))

    def _prefill_over(self, live: LiveTurn) -> None:
        if live.queued_at is not None:
            self._fleet.unbook(live.queued_at, live.turn.id)
            live.queued_at = None
        live.prefill = None
