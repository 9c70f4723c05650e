"""How does a worker change its role while turns run? It leaves service first, and loses none.

    serving -> leaving: no new work; its rows move to other workers or end; its sessions are placed
               anew when they return -> idle -> serving in the next role, or resting without one

The last worker that decodes never leaves, and one that does serves on if the others are lost
meanwhile. One that decodes before and after has no row to lose: it changes at once.
"""

from serving.core.fleet import Fleet, WorkerRecord
from serving.core.live_turn import LiveTurn
from serving.core.outbox import Outbox
from serving.core.rebalancer import WantedMove
from serving.core.rules import CoordinatorRules
from serving.core.sessions import Sessions
from serving.messages import Role, SetRole, WorkerId
from serving.policy.roles import RolesView, WorkerRoleView, none


class Roles:
    """The only writer of workers' roles."""

    def __init__(
        self, rules: CoordinatorRules, fleet: Fleet, sessions: Sessions, outbox: Outbox
    ) -> None:
        """Write the records of `fleet`."""
        self._rules = rules
        self._fleet = fleet
        self._sessions = sessions
        self._outbox = outbox
        self._leaving: set[WorkerId] = set()

    def problem(self, change: SetRole) -> str | None:
        """Say in one line why a change cannot be made; None if it can."""
        record = self._fleet.workers.get(change.worker)
        if record is None:
            known = ", ".join(self._fleet.workers) or "none"
            return f"There is no worker {change.worker}; workers: {known}."
        others = [w for w in self._fleet.owners() if w.id != change.worker]
        if change.role in (None, Role.PREFILL) and record.decodes and not others:
            return f"Worker {change.worker} is the last that decodes; give another that role first."
        return None

    def change(self, change: SetRole, now: float, *, why: str) -> None:
        """Begin a change; one that cannot be made is recorded and changes nothing.

        `why`: asked, by an operator, or policy.
        """
        worker = change.worker
        problem = self.problem(change)
        if problem is not None:
            self._outbox.decide_for("role_refused", worker, str(change.role), problem)
            return
        record = self._fleet.workers[worker]
        if change.role is not None and _serves_on(record.role, change.role):
            self._take(record, change.role, why, now)
            return
        record.leaving, record.next_role = True, change.role
        self._fleet.roles_version += 1
        self._leaving.add(worker)
        self._sessions.disown(worker)
        self._outbox.decide_for("drain", worker, _name(change.role), why)
        self.settle(record, now)

    def keep_one(self, now: float) -> None:
        """A worker is lost: let one that leaves serve on, if no other decodes."""
        if self._fleet.owners():
            return
        left = next((w for w in self._fleet.workers.values() if w.decodes), None)
        if left is not None:
            self._take(left, left.role, "last_that_decodes", now)

    def look(self, now: float) -> None:
        """Ask the policy whether a worker should change its role."""
        rules = self._rules
        if rules.roles is none:
            return  # a large fleet has many views
        serving = [record for record in self._fleet.workers.values() if not record.rests]
        workers = tuple(self._view(record, now) for record in serving)
        for wanted in rules.roles(RolesView(workers, rules.slo.ttft_s), rules.roles_config):
            self._outbox.decide_for("role_wanted", wanted.worker, wanted.role.value, wanted.reason)
            self.change(SetRole(wanted.worker, wanted.role), now, why="policy")

    def _view(self, record: WorkerRecord, now: float) -> WorkerRoleView:
        return WorkerRoleView(
            worker=record.id,
            role=record.role,
            prefill_wait_s=record.booked.total.seconds,
            decode_load=record.load / record.capacity if record.decodes else 0.0,
            since_change_s=now - record.changed_at,
            draining=record.leaving,
        )

    def settle(self, record: WorkerRecord, now: float) -> None:
        """Let a worker that leaves and has nothing left take its next role."""
        if not record.leaving or not record.idle or record.next_role is None:
            return
        self._take(record, record.next_role, "drained", now)

    def settle_all(self, now: float) -> None:
        """Settle every worker that leaves; mostly there is none, and every turn's end asks."""
        if not self._leaving:
            return
        for record in self._fleet.workers.values():
            self.settle(record, now)

    def evacuate(self, rows: list[LiveTurn]) -> list[WantedMove]:
        """Send the rows of workers that leave to the least loaded ones, one a worker at a time.

        One for which there was no room does not keep the others: those asked least go first.
        """
        wanted: list[WantedMove] = []
        for record in self._fleet.workers.values():
            if not record.leaving or not record.decodes:
                continue
            movable = [r for r in rows if r.owner == record.id and r.at_owner]
            homes = self._fleet.owners()
            if homes and movable and all(row.move is None for row in movable):
                home = min(homes, key=lambda w: (w.load / w.capacity, w.turns, w.id))
                row = min(movable, key=lambda row: row.moves)
                wanted.append(WantedMove(row.turn.id, WorkerId(home.id), "drain", 0.0))
        return wanted

    def _take(self, record: WorkerRecord, role: Role, reason: str, now: float) -> None:
        if record.leaving or record.role is not role:
            record.role, record.changed_at = role, now
            record.leaving, record.next_role = False, None
            self._fleet.roles_version += 1
            self._leaving.discard(record.id)
            self._outbox.decide_for("role", record.id, _name(role), reason)


def _serves_on(old: Role, new: Role) -> bool:
    """Tell whether a worker may go on with whatever it has: only decoding rows tie it to a role."""
    return old is new or Role.PREFILL not in (old, new)


def _name(role: Role | None) -> str:
    return "none" if role is None else role.value
