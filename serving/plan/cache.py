"""Which sessions' KV does memory keep between their turns? Those that come back soon.

Memory that drops what was used longest ago keeps every session for about the same time, the one at
which what is kept just fills it (Che's approximation of such caches). With sessions that hold
`tokens` for `think_s` between turns, at rate scale r and kept for up to t:

    filled(t) = r rests/s E[tokens min(think_s, t)]
    found(t)  = share of the tokens whose think_s <= t

The server evicts by what it believes of returns, which is no worse. Caches of prefill workers and
host memory are not counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import inf
from operator import attrgetter
from typing import NamedTuple

MOST_LINES = 24


class Rest(NamedTuple):
    """What a session holds between two turns, and for how long."""

    think_s: float
    tokens: int


class Bound(NamedTuple):
    """found <= constant + per_token * (room / r), for room in tokens and rate scale r."""

    constant: float
    per_token: float


@dataclass(frozen=True, slots=True)
class Rests:
    """All rests of a workload, and how many of them begin a second at rate scale 1."""

    rests: tuple[Rest, ...]
    per_s: float

    @property
    def idle_tokens(self) -> float:
        """Tokens that sessions hold between turns at any time, if all are kept (Little's law)."""
        return self._filled(inf)

    def found(self, keep_s: float) -> float:
        """Return the share of what was held that is there again, kept for so long."""
        total = sum(rest.tokens for rest in self.rests)
        return sum(r.tokens for r in self.rests if r.think_s <= keep_s) / total if total else 1.0

    def keep_s(self, room: float, rate: float) -> float:
        """Return for how long `room` tokens keep every session at a rate scale; inf: for ever."""
        if self.idle_tokens * rate <= room:
            return inf
        rests = sorted(self.rests)
        # With the first `i` rests over, the others (of `tokens`) still hold what they hold.
        ended, tokens = 0.0, sum(rest.tokens for rest in rests)
        share = rate * self.per_s / len(rests)
        for rest in rests:
            if share * (ended + tokens * rest.think_s) > room:
                return (room / share - ended) / tokens
            ended += rest.tokens * rest.think_s
            tokens -= rest.tokens
        return inf

    def bounds(self) -> list[Bound]:
        """Return lines above `found` as a function of the room per rate: its concave hull.

        Rests of no length, of which there are none in a workload without later turns, need none.
        """
        if not self.idle_tokens:
            return []
        hull = [(0.0, self.found(0.0))]  # what comes back at once takes no room
        for point in self._curve():
            while len(hull) > 1 and _slope(hull[-2], point) >= _slope(hull[-2], hull[-1]):
                hull.pop()
            if point[0] > hull[-1][0]:
                hull.append(point)
        lines: list[Bound] = []
        for left, right in pairwise(hull):
            slope = _slope(left, right)
            lines.append(Bound(left[1] - slope * left[0], slope))
        # Of lines that all lie above, any few do.
        return [*lines[: -1 : -(-len(lines) // MOST_LINES)], lines[-1]]

    def _curve(self) -> Iterator[tuple[float, float]]:
        """Yield what is filled and found at each time after which some come back, both rising."""
        total = left = sum(rest.tokens for rest in self.rests)
        share, ended = self.per_s / len(self.rests), 0.0
        for think_s, alike in groupby(sorted(self.rests), key=attrgetter("think_s")):
            tokens = sum(rest.tokens for rest in alike)
            left -= tokens
            ended += tokens * think_s
            yield share * (ended + left * think_s), (total - left) / total

    def _filled(self, keep_s: float) -> float:
        if not self.rests:
            return 0.0
        held = sum(rest.tokens * min(rest.think_s, keep_s) for rest in self.rests)
        return self.per_s * held / len(self.rests)


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    width = right[0] - left[0]
    return (right[1] - left[1]) / width if width else inf
