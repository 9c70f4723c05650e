"""Which worker becomes the owner of a session? The coordinator's books as views of homes."""

from collections.abc import Mapping, Sequence

from serving.core.fleet import Fleet
from serving.core.homes import Homes
from serving.core.sessions import Sessions
from serving.costs.costs import Costs
from serving.messages import Role
from serving.policy.place import Placement, PlacePolicy
from serving.request import SessionId


class Placer:
    """Asks the placement policy."""

    def __init__(
        self,
        policy: PlacePolicy,
        fleet: Fleet,
        sessions: Sessions,
        costs: Mapping[Role, Costs],
        *,
        peers: bool,
    ) -> None:
        """Read `fleet` and `sessions`, which belong to the coordinator; `costs` by role.

        `peers`: workers that do both prefill for each other.
        """
        self._policy = policy
        self._fleet = fleet
        self._sessions = sessions
        self._costs = costs
        self._homes = Homes(fleet, peers=peers)

    def place(
        self, session: SessionId, names: Sequence[bytes], tpot_s: float | None
    ) -> Placement | None:
        """Choose an owner for a session; None if nobody decodes.

        `names` are those of its prompt's pages, `tpot_s` is what its turn may take for a token.
        """
        cached, owned = self._fleet.pages.cached_lens(names), self._sessions.owned()
        models = {role: costs.step_model() for role, costs in self._costs.items()}
        return self._policy(session, self._homes.view(cached, owned, models, tpot_s))
