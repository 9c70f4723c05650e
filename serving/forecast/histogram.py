"""How long are replies, as far as past ones tell? A running estimate that forgets.

Kaplan and Meier's estimator over the intervals between `EDGES`: of the replies that reached an
interval, which share ended in it? A reply that was cut off (its limit, a cancellation) counts as
having reached what it reached, and says nothing of what would have come. One cut within an
interval counts for the part of it that it ran (the actuarial estimate, with the known part in place
of half).

Older replies weigh less by a constant factor a reply. A geometric distribution of a given mean
stands in for the replies not seen yet, as so many of them. Knows no session, worker or clock.
"""

from bisect import bisect_left

import numpy as np

from serving.forecast.survival import EDGES, MAX_TOKENS, Survival

LARGEST_WEIGHT = 2.0**64
"""New replies outweigh old ones; past this weight all are scaled down together."""


class LengthHistogram:
    """Reply lengths so far, and the survival curve that they suggest.

    A reply has at least one token. Curves are of replies that nothing cuts off: whoever knows a
    limit applies it with `Survival.capped`.
    """

    def __init__(self, *, prior_mean: float, prior_weight: float, memory: float) -> None:
        """Start from the prior alone.

        `prior_mean`: tokens (above 1). `prior_weight`: how many replies the prior counts as (above
        0). `memory`: how many replies the past counts as in the long run (above 1). Raises
        ValueError for values outside these.
        """
        if prior_mean <= 1 or prior_weight <= 0 or memory <= 1:
            raise ValueError("a prior has a mean above 1 token, and weighs more than nothing")
        self._growth = 1 / (1 - 1 / memory)
        self._weight = 1.0
        self._ended = [0.0] * (len(EDGES) - 1)
        self._cut = [0.0] * (len(EDGES) - 1)
        self._ran = [0.0] * (len(EDGES) - 1)
        edges = np.array(EDGES, np.float64)
        alive = (1 - 1 / prior_mean) ** edges
        self._prior_reached = prior_weight * alive[:-1]
        self._prior_ended = prior_weight * (alive[:-1] - alive[1:])
        self._curve: Survival | None = None

    def observe(self, length: int, ended: bool) -> None:
        """Take a reply of `length` tokens that ended by itself, or else was cut off there.

        Raises ValueError for a negative length.
        """
        if length < 0:
            raise ValueError(f"a reply cannot have {length} tokens")
        if length == 0 and not ended:
            return
        length = min(max(length, 1), MAX_TOKENS)
        index = bisect_left(EDGES, length) - 1
        if ended:
            self._ended[index] += self._weight
        else:
            width = EDGES[index + 1] - EDGES[index]
            self._cut[index] += self._weight
            self._ran[index] += self._weight * (length - EDGES[index]) / width
        self._weight *= self._growth
        self._curve = None
        if self._weight > LARGEST_WEIGHT:
            self._scale_down()

    def curve(self) -> Survival:
        """Return the survival curve of a reply that begins now."""
        if self._curve is None:
            self._curve = self._estimate()
        return self._curve

    def _scale_down(self) -> None:
        for counts in (self._ended, self._cut, self._ran):
            counts[:] = [count / self._weight for count in counts]
        self._weight = 1.0

    def _estimate(self) -> Survival:
        newest = self._weight / self._growth
        ended = np.array(self._ended) / newest
        cut = np.array(self._cut) / newest
        ran = np.array(self._ran) / newest
        later = np.cumsum((ended + cut)[::-1])[::-1] - (ended + cut)
        reached = later + ended + ran + self._prior_reached
        deaths = ended + self._prior_ended
        # Where not even the prior reaches, its hazard no longer fits a float: everything ends.
        hazard = np.where(reached > 0, deaths / np.where(reached > 0, reached, 1), 1)
        alive = np.cumprod(1 - np.clip(hazard, 0, 1))
        return Survival((1.0, *alive[:-1].tolist(), 0.0))
