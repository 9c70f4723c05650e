"""What has one worker decided by itself, and why? For metrics and the decision log only.

Collected until it is told; nothing here is ever read to decide. Evictions come page by page and are
told together, now and then.
"""

from collections.abc import Mapping
from typing import cast

from serving.core.cached_pages import Group
from serving.core.worker_task import WorkerTask
from serving.messages import Decision, Detail, WorkerId
from serving.request import SessionId


class OwnDecisions:
    """The decisions of one worker that nobody has been told of yet."""

    def __init__(self, worker: WorkerId) -> None:
        """Start with none."""
        self._worker = worker
        self._made: list[Decision] = []
        self._evicted: dict[tuple[Group | None, str], int] = {}

    @property
    def pending(self) -> bool:
        """Whether there is one that can be told now."""
        return bool(self._made)

    @property
    def has_evicted(self) -> bool:
        """Whether evictions were noted that are to be told now and then."""
        return bool(self._evicted)

    def about(
        self, kind: str, task: WorkerTask, reason: str, details: Mapping[str, Detail]
    ) -> None:
        """Note a decision about a task."""
        turn, session = task.task.id.turn, task.task.session
        self._made.append(Decision(kind, turn, session, self._worker, reason, details))

    def evicted(self, session: Group | None, outcome: str) -> None:
        """Note that a session has lost a page; `outcome` says what became of what was in it."""
        key = (session, outcome)
        self._evicted[key] = self._evicted.get(key, 0) + 1

    def tell_evicted(self) -> None:
        """Let the evictions that were noted be told."""
        for (group, outcome), pages in self._evicted.items():
            session = cast("SessionId | None", group)
            details = {"worker": self._worker, "pages": pages}
            self._made.append(Decision("evict", None, session, self._worker, outcome, details))
        self._evicted.clear()

    def take(self) -> list[Decision]:
        """Return what is to be told, in order, and forget it."""
        made, self._made = self._made, []
        return made
