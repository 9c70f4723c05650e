"""Which worker becomes the owner of a session? The coordinator's books as views of homes."""

from collections.abc import Mapping

from serving.core.fleet import Fleet
from serving.core.live_turn import LiveTurn
from serving.core.sessions import Sessions
from serving.costs.costs import Costs
from serving.messages import Role
from serving.policy.place import Placement, place
from serving.policy.views import DecodeView


class Placer:
    """Asks the placement policy. Changes nothing."""

    def __init__(self, fleet: Fleet, sessions: Sessions, costs: Mapping[Role, Costs]) -> None:
        """Read `fleet` and `sessions`, which belong to the coordinator; `costs` by role."""
        self._fleet = fleet
        self._sessions = sessions
        self._costs = costs

    def place(self, live: LiveTurn) -> Placement | None:
        """Choose an owner for a turn's session; None if nobody decodes."""
        del live
        return place(
            [
                DecodeView(
                    worker=record.id,
                    load=record.load,
                    turns=record.turns,
                    sessions=self._sessions.owned_by(record.id),
                    capacity=record.capacity,
                )
                for record in self._fleet.owners()
            ]
        )
