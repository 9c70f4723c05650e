"""How long do pages take from worker to worker, when others are on their way too?

Each worker has one way out and one way in of the link's rate. A transfer takes both for as long as
its bytes last; those that want the same way follow one another in the order they were sent. Latency
is not shared. Knows nothing of pages.
"""

from collections import defaultdict

from serving.costs.costs import Link
from serving.messages import WorkerId


class Links:
    """The only writer of when each way is free again (seconds)."""

    def __init__(self, link: Link) -> None:
        """All ways are alike, and free."""
        self._link = link
        self._out: defaultdict[WorkerId, float] = defaultdict(float)
        self._in: defaultdict[WorkerId, float] = defaultdict(float)
        self.bytes_moved = 0

    def send(self, sender: WorkerId, to: WorkerId, num_bytes: int, ready: float) -> float:
        """Send bytes that are there from time `ready` on; returns when the last one has come."""
        self.bytes_moved += num_bytes
        starts = max(ready, self._out[sender], self._in[to])
        over = starts + num_bytes / self._link.bytes_per_s
        self._out[sender] = self._in[to] = over
        return over + self._link.latency_s
