"""Will an idle session come back, and when? Learned from the gaps between the turns of sessions.

A session that is idle returns at a rate that depends on how long it has been idle: constant within
each of a row of log-spaced bins of seconds (a piecewise exponential model, fitted by returns over
time at risk, which is the maximum-likelihood estimate also when gaps are cut short). A session that
was evicted or forgotten without return was at risk for as long as it was watched and counts for
that. Knows no session, page or clock.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import exp, log

BINS_PER_DOUBLING = 2
_BINS = range(-2 * BINS_PER_DOUBLING, 18 * BINS_PER_DOUBLING + 1)
EDGES_S = (0.0, *(2 ** (k / BINS_PER_DOUBLING) for k in _BINS))
"""Where the bins of idle time begin, in seconds: 0, then from a quarter second to three days.
Behind the last edge nobody returns."""


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
    """Counts gaps. What was observed `half_life` observations ago counts half; the prior stays."""

    def __init__(self, *, prior: ReturnPrior, half_life: float) -> None:
        """Start from the prior. Raises ValueError unless `half_life` is above 0; inf is allowed."""
        if not half_life > 0:
            raise ValueError(f"a half-life is above 0, not {half_life}")
        self._keep = 0.5 ** (1 / half_life)
        self._prior = [_prior_bin(prior, i) for i in range(len(EDGES_S) - 1)]
        self._returned = [0.0] * (len(EDGES_S) - 1)
        self._watched_s = [0.0] * (len(EDGES_S) - 1)
        self._hazard: tuple[float, ...] | None = None  # up to each edge; None: to be summed again

    def observe(self, gap_s: float, returned: bool) -> None:
        """Learn that a session was idle for `gap_s` and then came back, or was lost sight of.

        Raises ValueError if the gap is negative.
        """
        if gap_s < 0:
            raise ValueError(f"a gap is not negative: {gap_s}")
        keep = self._keep
        self._returned = [count * keep for count in self._returned]
        self._watched_s = [seconds * keep for seconds in self._watched_s]
        index = bisect_right(EDGES_S, gap_s) - 1
        for i in range(min(index + 1, len(self._watched_s))):
            self._watched_s[i] += min(gap_s, EDGES_S[i + 1]) - EDGES_S[i]
        if returned and index < len(self._returned):
            self._returned[index] += 1
        self._hazard = None

    def chance(self, idle_s: float, horizon_s: float) -> float:
        """Return the chance that a session idle for `idle_s` comes back within `horizon_s` more."""
        if self._hazard is None:
            bins = map(self._bin_hazard, range(len(self._prior)))
            self._hazard = tuple(accumulate(bins, initial=0.0))
        until = _at(self._hazard, idle_s + horizon_s) - _at(self._hazard, idle_s)
        return 1 - exp(-max(0.0, until))

    def _bin_hazard(self, i: int) -> float:
        returned, watched_s = self._prior[i]
        rate = (returned + self._returned[i]) / (watched_s + self._watched_s[i])
        return rate * (EDGES_S[i + 1] - EDGES_S[i])


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
