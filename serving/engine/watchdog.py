"""Whose device does not answer any more? Who has owed a step for too long, by the times alone.

Knows nothing of threads or devices: whoever looks says since when each worker has owed one.
"""

from collections.abc import Mapping

from serving.messages import WorkerId

LATE_S = 5.0
"""A look that comes so long after the one before was kept from coming, not late: the process stood
still (a stopped process, a paused machine), and so did its devices' threads. Looks come four times
a second."""


def waited_s(since: float | None, awake_since: float, now: float) -> float:
    """Return for how long a step has been owed while the process was awake; 0.0 if none is."""
    return 0.0 if since is None else max(0.0, now - max(since, awake_since))


class Watchdog:
    """Says who is overdue. What was owed when the process stood still counts anew from then on."""

    def __init__(self, timeout_s: float) -> None:
        """A step that is owed for `timeout_s` seconds never comes."""
        self.timeout_s = timeout_s
        self._looked_at: float | None = None
        self._awake_since = 0.0

    def look(self, owed: Mapping[WorkerId, float | None], now: float) -> dict[WorkerId, float]:
        """Return those who are overdue, and for how long (seconds) they have owed their step.

        `owed[worker]` is since when; None: nothing is. To be called again and again.
        """
        if self._looked_at is None or now - self._looked_at > LATE_S:
            self._awake_since = now
        self._looked_at = now
        waited = {worker: waited_s(since, self._awake_since, now) for worker, since in owed.items()}
        return {worker: long for worker, long in waited.items() if long >= self.timeout_s}
