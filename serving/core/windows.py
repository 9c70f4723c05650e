"""What was the mean over the last seconds? Sums that forget what is too old. Reads no clock."""

from array import array
from collections.abc import Iterable

SPARE = 1024
"""Entries that are over and still in the columns: as many as are not, but no fewer than this."""


class Window:
    """Observations of the last `span_s` seconds; times must not run backwards.

    Kept as numbers in columns: each entry is looked at once more, when it is forgotten. Steps of a
    large fleet as objects of their own would drive all else from the processor's caches by then.
    """

    def __init__(self, span_s: float) -> None:
        """Start empty."""
        self.span_s = span_s
        self._times, self._totals, self._counts = array("d"), array("d"), array("q")
        self._over = 0  # entries of the columns that are forgotten
        self._total = 0.0
        self._count = 0

    def add(self, now: float, total: float, count: int) -> None:
        """Take `count` observations that sum up to `total`."""
        self.add_all(((now, total, count),))

    def add_all(self, entries: Iterable[tuple[float, float, int]]) -> None:
        """Take what `add` would of each of these."""
        times, totals, counts = self._times, self._totals, self._counts
        over, span_s, total, count = self._over, self.span_s, self._total, self._count
        for now, added, number in entries:
            times.append(now)
            totals.append(added)
            counts.append(number)
            total += added
            count += number
            oldest = now - span_s
            while over < len(times) and times[over] <= oldest:  # a late time swallows a short span
                total -= totals[over]
                count -= counts[over]
                over += 1
        self._over, self._total, self._count = over, total, count
        self._tidy()

    def mean(self, now: float) -> float | None:
        """Return the mean observation of the window; None if there is none."""
        self._forget(now)
        return self._total / self._count if self._count else None

    def rate(self, now: float) -> float:
        """Return observations per second."""
        self._forget(now)
        return self._count / self.span_s

    def _forget(self, now: float) -> None:
        times, oldest = self._times, now - self.span_s
        while self._over < len(times) and times[self._over] <= oldest:
            self._total -= self._totals[self._over]
            self._count -= self._counts[self._over]
            self._over += 1
        if self._over == len(times):
            self._total = 0.0  # what rounding left behind
        self._tidy()

    def _tidy(self) -> None:
        if self._over > SPARE and 2 * self._over > len(self._times):
            for column in (self._times, self._totals, self._counts):
                del column[: self._over]
            self._over = 0
