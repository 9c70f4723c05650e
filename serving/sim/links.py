"""How long do pages take from worker to worker, when others are on their way too?

Each worker has one way out and one way in of the link's rate. A transfer takes both for as long as
its bytes last, as soon as they are there and both ways are free for so long: one that waits for the
step that computes its pages keeps no way from those that are ready. Latency is not shared. Knows
nothing of pages.
"""

from bisect import insort
from collections import defaultdict
from heapq import merge

from serving.costs.costs import Link
from serving.messages import WorkerId

Span = tuple[float, float]


class Links:
    """The only writer of when each way is taken (seconds)."""

    def __init__(self, link: Link) -> None:
        """All ways are alike, and free."""
        self._link = link
        self._out: defaultdict[WorkerId, list[Span]] = defaultdict(list)
        self._in: defaultdict[WorkerId, list[Span]] = defaultdict(list)
        self.bytes_moved = 0

    def send(
        self, sender: WorkerId, to: WorkerId, num_bytes: int, *, ready: float, now: float
    ) -> float:
        """Send bytes that are there from time `ready` on; returns when the last one has come."""
        self.bytes_moved += num_bytes
        lasts = num_bytes / self._link.bytes_per_s
        out, into = _ahead(self._out[sender], now), _ahead(self._in[to], now)
        starts = ready
        for begins, ends in merge(out, into):
            if starts + lasts <= begins:
                break
            starts = max(starts, ends)
        over = starts + lasts
        if lasts:
            insort(out, (starts, over))
            insort(into, (starts, over))
        return over + self._link.latency_s


def _ahead(spans: list[Span], now: float) -> list[Span]:
    """Forget what is over, in place. Spans of one way do not overlap: they end in order too."""
    while spans and spans[0][1] <= now:
        del spans[0]
    return spans
