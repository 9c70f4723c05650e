"""What was the mean over the last seconds? Sums that forget what is too old. Reads no clock."""

from collections import deque
from collections.abc import Iterable


class Window:
    """Observations of the last `span_s` seconds; times must not run backwards."""

    def __init__(self, span_s: float) -> None:
        """Start empty."""
        self.span_s = span_s
        self._kept: deque[tuple[float, float, int]] = deque()
        self._total = 0.0
        self._count = 0

    def add(self, now: float, total: float, count: int) -> None:
        """Take `count` observations that sum up to `total`."""
        self._kept.append((now, total, count))
        self._total += total
        self._count += count
        if self._kept[0][0] <= now - self.span_s:
            self._forget(now)

    def add_all(self, entries: Iterable[tuple[float, float, int]]) -> None:
        """Take what `add` would of each of these."""
        kept, span_s, total, count = self._kept, self.span_s, self._total, self._count
        for entry in entries:
            kept.append(entry)
            total += entry[1]
            count += entry[2]
            oldest = entry[0] - span_s
            while kept and kept[0][0] <= oldest:  # a short span is lost in a late time
                _, old_total, old_count = kept.popleft()
                total -= old_total
                count -= old_count
        self._total, self._count = total, count

    def mean(self, now: float) -> float | None:
        """Return the mean observation of the window; None if there is none."""
        self._forget(now)
        return self._total / self._count if self._count else None

    def rate(self, now: float) -> float:
        """Return observations per second."""
        self._forget(now)
        return self._count / self.span_s

    def _forget(self, now: float) -> None:
        while self._kept and self._kept[0][0] <= now - self.span_s:
            _, total, count = self._kept.popleft()
            self._total -= total
            self._count -= count
        if not self._kept:
            self._total = 0.0  # what rounding left behind
