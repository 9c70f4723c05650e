"""How likely is a reply to be still running after some more tokens? A survival curve of its length.

Every decision that looks ahead reads one of these and does not know who made it: a histogram of
past replies, or a head on the model's hidden states. Knows no session, worker or clock.

A curve is known at the fixed, log-spaced `EDGES`. Between two of them the chance falls in a
straight line: a reply that ends there is taken to end at any of its tokens alike. (A constant
hazard would favour the first ones: quantiles of sharp curves then come out short; LOG.md.) Behind
the last edge nothing runs.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from math import ceil, inf
from operator import ge, neg

import numpy as np
from numpy.typing import NDArray

from predictor.edges import EDGES, MAX_TOKENS

_EDGES_ARRAY = np.array(EDGES, np.float64)
_AREAS = np.convolve(np.diff(_EDGES_ARRAY), [0.5, 0.5])
"""What each point of a curve adds to the area under it: half of the intervals beside it."""


@dataclass(frozen=True, slots=True)
class Survival:
    """`alive[i]` is the chance that a reply has more than `EDGES[i]` tokens still to come."""

    alive: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError unless this is a curve: within [0, 1], never up, and over at the end."""
        if len(self.alive) != len(EDGES):
            raise ValueError(f"a curve has {len(EDGES)} points, not {len(self.alive)}")
        falls = all(map(ge, self.alive, self.alive[1:]))
        if not falls or self.alive[0] > 1 or self.alive[-1] != 0:
            raise ValueError("a survival curve falls from at most 1 to 0 and never rises")

    def still_running(self, tokens: float) -> float:
        """Return the chance that more than `tokens` tokens are still to come."""
        if tokens >= MAX_TOKENS:
            return 0.0
        right = bisect_right(EDGES, tokens)
        share = (tokens - EDGES[right - 1]) / (EDGES[right] - EDGES[right - 1])
        return _between(self.alive[right - 1], self.alive[right], share)

    def expected(self, horizon: float = inf) -> float:
        """Return the mean of min(remaining tokens, `horizon`): the area under the curve."""
        if horizon == inf:
            return float(np.dot(_AREAS, self.alive))
        area = 0.0
        for i, left in enumerate(EDGES[:-1]):
            before, after = self.alive[i], self.alive[i + 1]
            if left >= horizon or before == 0:
                break
            width = EDGES[i + 1] - left
            seen = min(width, horizon - left)
            area += seen * _mean(before, after, seen / width)
        return area

    def quantile(self, q: float) -> int:
        """Return the fewest tokens that the rest of the reply exceeds with at most chance 1 - q.

        `q` lies in (0, 1).
        """
        limit = 1 - q
        index = bisect_left(self.alive, -limit, key=neg)
        if index == 0:
            return 0
        before, after = self.alive[index - 1], self.alive[index]
        fall = (before - limit) / (before - after)
        width = EDGES[index] - EDGES[index - 1]
        return EDGES[index - 1] + min(width, ceil(fall * width - 1e-9))

    def after(self, generated: int) -> "Survival":
        """Return the curve of what remains once `generated` more tokens have come.

        A reply that has outlived its curve has shown only that it is long: of such replies half
        are taken to go on for as long again, whatever their length (a Pareto tail of index 1).
        """
        if generated == 0:
            return self
        now = self.still_running(generated)
        if now > 0:
            chances = np.interp(_EDGES_ARRAY + generated, _EDGES_ARRAY, self.alive, right=0.0)
            # Rounding must not let a curve rise.
            alive = np.minimum.accumulate(np.minimum(chances / now, 1.0)).tolist()
        else:
            alive = [generated / (generated + edge) for edge in EDGES[:-1]] + [0.0]
        return Survival(tuple(alive))

    def capped(self, most: int) -> "Survival":
        """Return the curve of a reply that is cut after `most` more tokens, to the edges' grain."""
        first = bisect_left(EDGES, most)
        return Survival((*self.alive[:first], *([0.0] * (len(EDGES) - first))))


def alive_on(
    alive: NDArray[np.float64], generated: NDArray[np.int64], grid: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Evaluate many curves at once: [R, len(EDGES)] at `generated[r] + grid[g]` tokens -> [R, G].

    Row r is conditioned on the `generated[r]` tokens that have come since its curve was drawn,
    like `Survival.after`; within an interval of edges the chance is taken to fall in a straight
    line.
    """
    came = generated[:, None].astype(np.float64)
    chances = _interpolate(alive, came + grid)
    now = chances[:, :1] if grid[0] == 0 else _interpolate(alive, came)
    now = np.where(came > 0, now, 1)
    runs = now > 0
    if runs.all():
        return chances / now
    outlived = came / np.maximum(came + grid, 1)
    return np.where(runs, chances / np.where(runs, now, 1), outlived)


def _interpolate(alive: NDArray[np.float64], tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    # By methods and plain indices: a few rows are asked for at every tick, and numpy's helpers for
    # this (`clip`, `take_along_axis`) take longer than all of the arithmetic.
    right = np.minimum(_EDGES_ARRAY.searchsorted(tokens, side="right"), len(EDGES) - 1)
    left, rows = right - 1, np.arange(len(alive))[:, None]
    start = _EDGES_ARRAY[left]
    share = (tokens - start) / (_EDGES_ARRAY[right] - start)
    before = alive[rows, left]
    return np.maximum(before + np.minimum(share, 1) * (alive[rows, right] - before), 0)


def _between(before: float, after: float, share: float) -> float:
    """Return the height at `share` of the way from `before` to `after`."""
    return before + share * (after - before)


def _mean(before: float, after: float, share: float) -> float:
    """Return the mean height over the first `share` of the way, as `_between` draws it."""
    return (before + _between(before, after, share)) / 2
