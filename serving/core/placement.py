"""Which worker becomes the owner of a session? The coordinator's books as views of homes."""

from collections.abc import Mapping, Sequence

from serving.core.fleet import Fleet
from serving.core.sessions import Sessions
from serving.costs.costs import Costs
from serving.messages import Role
from serving.policy.place import Placement, PlacePolicy
from serving.policy.views import DecodeView
from serving.request import SessionId


class Placer:
    """Asks the placement policy. Changes nothing."""

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
        self._peers = peers
        self._policy = policy
        self._fleet = fleet
        self._sessions = sessions
        self._costs = costs

    def place(
        self, session: SessionId, names: Sequence[bytes], tpot_s: float | None
    ) -> Placement | None:
        """Choose an owner for a session; None if nobody decodes.

        `names` are those of its prompt's pages, `tpot_s` is what its turn may take for a token.
        What a worker's live turns are expected to grow to stands for its load over the horizon.
        """
        cached = self._fleet.pages.cached_lens(names)
        models = {role: costs.step_model() for role, costs in self._costs.items()}
        return self._policy(
            session,
            [
                DecodeView(
                    worker=record.id,
                    load=record.load,
                    turns=record.turns,
                    sessions=self._sessions.owned_by(record.id),
                    capacity=record.capacity,
                    cached_len=cached.get(record.id, 0),
                    expected_tokens=float(record.load),
                    expected_rows=float(record.turns),
                    kv_tokens=record.kv_tokens,
                    step_model=models[record.role],
                    tpot_s=tpot_s,
                    peer=self._peers and record.role is Role.BOTH,
                    draining=record.leaving,
                )
                for record in self._fleet.workers.values()
                if record.decodes and not record.rests
            ],
        )
