"""Will an idle session come back, and when? Learned from the gaps between the turns of sessions.

A session that is idle returns at a rate that depends on how long it has been idle: constant within
each of a row of log-spaced bins of seconds (a piecewise exponential model, fitted by returns over
time at risk, which is the maximum-likelihood estimate also when gaps are cut short). A session that
was evicted or forgotten without return was at risk for as long as it was watched and counts for
that. Sessions that have come more often come back more often: by how much, of sessions with equally
many turns, is learned beside it (proportional hazards). Knows no session, page or clock.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import exp, expm1, log
from typing import NamedTuple

BINS_PER_DOUBLING = 2
_BINS = range(-2 * BINS_PER_DOUBLING, 18 * BINS_PER_DOUBLING + 1)
EDGES_S = (0.0, *(2 ** (k / BINS_PER_DOUBLING) for k in _BINS))
"""Where the bins of idle time begin, in seconds: 0, then from a quarter second to three days.
Behind the last edge nobody returns."""
MOST_TURNS = 6
"""Sessions with more turns than this count with those that have so many."""
TIMES_WEIGHT = 4.0
"""As so many returns of a session like all others counts what is believed before any of sessions
with a number of turns was seen (chosen with `MOST_TURNS` on parts of traces that no result is of;
LOG.md)."""


@dataclass(frozen=True, slots=True)
class ReturnPrior:
    """What is believed before anything was observed, worth as much as `weight` watched sessions.

    The share `returns` of sessions comes back at all, half of those within `median_s`; the gap has
    the heavy tail of `t / (t + median_s)` (ours: people pause for seconds or for the night).
    """

    returns: float
    median_s: float
    weight: float

    def __post_init__(self) -> None:
        """Raise ValueError unless these are a chance in (0, 1), a time and a weight above 0."""
        if not 0 < self.returns < 1 or self.median_s <= 0 or self.weight <= 0:
            raise ValueError(
                f"a prior has a chance within (0, 1) and a median and weight above 0, not {self}"
            )

    def idle_still(self, idle_s: float) -> float:
        """Return the share of sessions that have not come back after `idle_s`."""
        return 1 - self.returns * idle_s / (idle_s + self.median_s)


class ReturnModel:
    """Counts gaps. What was observed `half_life` observations ago counts half; the prior stays.

    `turns` are those that a session has had when it becomes idle, 1 at least.
    """

    def __init__(self, *, prior: ReturnPrior, half_life: float) -> None:
        """Start from the prior. Raises ValueError unless `half_life` is above 0; inf is allowed."""
        if not half_life > 0:
            raise ValueError(f"a half-life is above 0, not {half_life}")
        self._keep = 0.5 ** (1 / half_life)
        self._prior = [_prior_bin(prior, i) for i in range(len(EDGES_S) - 1)]
        self._returned = [0.0] * (len(EDGES_S) - 1)
        self._watched_s = [0.0] * (len(EDGES_S) - 1)
        self._came = [0.0] * MOST_TURNS  # by turns: returns, and how many all sessions' hazard
        self._expected = [0.0] * MOST_TURNS  # would have brought
        # Of any session: the hazard up to each edge, and its index there; None: to be made again.
        self._hazard: tuple[float, ...] | None = None
        self._best: tuple[float, ...] | None = None

    def observe(self, gap_s: float, returned: bool, turns: int) -> None:
        """Learn that a session was idle for `gap_s` and then came back, or was lost sight of.

        Raises ValueError if the gap is negative.
        """
        if gap_s < 0:
            raise ValueError(f"a gap is not negative: {gap_s}")
        keep = self._keep
        index = bisect_right(EDGES_S, gap_s) - 1
        came = returned and index < len(self._returned)
        self._came = [count * keep for count in self._came]
        self._expected = [count * keep for count in self._expected]
        alike = _alike(turns)
        self._came[alike] += came
        self._expected[alike] += _at(self._summed(), gap_s)
        self._returned = [count * keep for count in self._returned]
        self._watched_s = [seconds * keep for seconds in self._watched_s]
        for i in range(min(index + 1, len(self._watched_s))):
            self._watched_s[i] += min(gap_s, EDGES_S[i + 1]) - EDGES_S[i]
        if came:
            self._returned[index] += 1
        self._hazard = self._best = None

    def chance(self, idle_s: float, horizon_s: float, turns: int) -> float:
        """Return the chance that a session idle for `idle_s` comes back within `horizon_s` more."""
        total = self._summed()
        until = _at(total, idle_s + horizon_s) - _at(total, idle_s)
        return -expm1(-self._times(turns) * max(0.0, until))

    def rate(self, idle_s: float, turns: int) -> float:
        """Return how often keeping a session's KV pays, per second that it is kept: its index.

        The most, over all times at which one would give up, of the chance that it comes back until
        then over the mean time that it is kept until either: Gittins' index (1979) of the choice to
        go on waiting, which hit density (Beckmann et al., LHD, NSDI 2018) approximates. Where the
        hazard only falls it is the hazard now. Taken of all sessions, from the last edge on that
        has been reached, and then times what those with so many turns come back more often.
        """
        if self._best is None:
            self._best = _best_rates([self._bin_hazard(i) for i in range(len(self._prior))])
        index = bisect_right(EDGES_S, idle_s) - 1
        return self._times(turns) * self._best[index] if index < len(self._best) else 0.0

    def _summed(self) -> tuple[float, ...]:
        if self._hazard is None:
            bins = map(self._bin_hazard, range(len(self._prior)))
            self._hazard = tuple(accumulate(bins, initial=0.0))
        return self._hazard

    def _times(self, turns: int) -> float:
        alike = _alike(turns)
        return (TIMES_WEIGHT + self._came[alike]) / (TIMES_WEIGHT + self._expected[alike])

    def _bin_hazard(self, i: int) -> float:
        returned, watched_s = self._prior[i]
        rate = (returned + self._returned[i]) / (watched_s + self._watched_s[i])
        return rate * (EDGES_S[i + 1] - EDGES_S[i])


def _alike(turns: int) -> int:
    return min(turns, MOST_TURNS) - 1


class _Stretch(NamedTuple):
    """Some bins on end, of sessions idle still where they begin.

    `back` is the share that returns within them, `still` the share that does not, and `kept_s` for
    how long one is kept there on average, in seconds.
    """

    back: float
    still: float
    kept_s: float


def _best_rates(hazards: Sequence[float]) -> tuple[float, ...]:
    """Return the index from each edge but the last on, of the hazard of each bin.

    Who gives up at an edge has so many returns for the time kept until then: the slope of a chord
    of returns over time kept. The steepest from each edge leads along the hull of the edges behind
    it: over its bin, and the stretches behind as long as they are steeper. Each stretch counts by
    itself, from a share of 1 on: where nearly all come back soon, the others' returns would be lost
    beside theirs.
    """
    hull: list[_Stretch] = []  # the nearest last
    best: list[float] = []
    for i in range(len(hazards) - 1, -1, -1):
        hazard, width = hazards[i], EDGES_S[i + 1] - EDGES_S[i]
        back, still = -expm1(-hazard), exp(-hazard)
        # Within a bin the hazard is constant: its integral is what is lost there over the hazard.
        kept_s = width * back / hazard
        while hull and hull[-1].back * kept_s >= back * hull[-1].kept_s:
            behind = hull.pop()
            back += still * behind.back
            kept_s += still * behind.kept_s
            still *= behind.still
        hull.append(_Stretch(back, still, kept_s))
        best.append(back / kept_s)
    return tuple(reversed(best))


def _prior_bin(prior: ReturnPrior, i: int) -> tuple[float, float]:
    """Return what `weight` watched sessions would have shown in a bin: returns, seconds at risk."""
    before, after = prior.idle_still(EDGES_S[i]), prior.idle_still(EDGES_S[i + 1])
    returned = prior.weight * (before - after)
    rate = log(before / after) / (EDGES_S[i + 1] - EDGES_S[i])
    return returned, returned / rate


def _at(hazard: tuple[float, ...], seconds: float) -> float:
    """Return the hazard summed up to `seconds`, in a straight line within a bin."""
    if seconds >= EDGES_S[-1]:
        return hazard[-1]
    i = bisect_right(EDGES_S, seconds) - 1
    share = (seconds - EDGES_S[i]) / (EDGES_S[i + 1] - EDGES_S[i])
    return hazard[i] + share * (hazard[i + 1] - hazard[i])
