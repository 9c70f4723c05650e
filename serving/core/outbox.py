"""What has the coordinator decided to do? The actions of one event, in order."""

from collections.abc import Mapping

from serving.core.fleet import Fleet
from serving.core.live_turn import LiveTurn
from serving.messages import Action, Decision, Detail, ToWorker, WorkerId, WorkerMessage


class Outbox:
    """Collects actions until they are taken."""

    def __init__(self, fleet: Fleet) -> None:
        """Start empty; messages go to workers of `fleet` only."""
        self._fleet = fleet
        self._actions: list[Action] = []

    def add(self, action: Action) -> None:
        """Do this next."""
        self._actions.append(action)

    def to_worker(self, worker: WorkerId, message: WorkerMessage) -> None:
        """Deliver a message, unless the worker is lost."""
        if worker in self._fleet.workers:
            self._actions.append(ToWorker(worker, message))

    def decide(
        self, kind: str, live: LiveTurn, choice: str, reason: str, details: Mapping[str, Detail]
    ) -> None:
        """Record a decision about a turn."""
        self._actions.append(Decision(kind, live.turn.id, live.session.id, choice, reason, details))

    def decide_for(
        self, kind: str, worker: WorkerId, choice: str, reason: str, **details: Detail
    ) -> None:
        """Record a decision about a worker."""
        about = {"worker": worker, **details}
        self._actions.append(Decision(kind, None, None, choice, reason, about))

    def take(self) -> list[Action]:
        """Return what has gathered, and start anew."""
        actions, self._actions = self._actions, []
        return actions
