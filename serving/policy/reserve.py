"""How many pages will the rows of a worker need at once, beyond those they hold?

Of all rows together: they grow by one token a step each, and while some grow others end and leave
their pages. Each may be the long one, but hardly all of them are, so what is set aside for every
row by itself keeps a pool half empty (LOG.md: 58 % of turns in time, where this keeps 89 %).
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from serving.forecast.survival import EDGES, alive_on
from serving.policy.views import GrowingView

_GRID = np.unique([*EDGES, *((a + b) // 2 for a, b in pairwise(EDGES))]).astype(np.float64)
_FROM, _TO = _GRID[:-1], _GRID[1:]

Reals = NDArray[np.float64]


def growth(rows: GrowingView, *, page_size: int, quantile: float) -> int:
    """Return the pages to set aside for the growth of `rows`, of `page_size` tokens each. Ours.

    In k steps a row that still runs, with chance a(k), has the pages of k more tokens, and one that
    has ended has none. Taken as independent, their sum has a mean and a variance at each k; it
    stays below mean + z * deviation with chance `quantile`, in (0, 1), where z is the normal
    distribution's. Between two points of a grid, twice as fine as `EDGES`, the chance at the first
    and the tokens at the second are taken. What is returned is the largest of these sums, less what
    the rows hold now.
    """
    if not len(rows.pages):
        return 0
    likely = _Likely.of(rows, page_size)
    most = likely.at(quantile, likely.mean, likely.variance, likely.most)
    return max(0, ceil(most.max()) - int(rows.pages.sum()))


@dataclass(frozen=True, slots=True)
class Relief:
    """What each row's leaving would do for the others [R].

    `suffices`: whether they would more likely than not have pages enough from then on.
    `away_steps`: after how many steps it would be admitted again.
    """

    suffices: NDArray[np.bool_]
    away_steps: NDArray[np.float64]


def relief(rows: GrowingView, *, page_size: int, quantile: float, num_pages: int) -> Relief:
    """Say what each of `rows`, one at least, would bring by leaving; they share `num_pages`.

    Like `growth`, of the others: their mean says whether one that leaves is enough, and `quantile`,
    that of admissions, when it comes back. The pages that it needs then are the most that it would
    have now, on average.
    """
    likely = _Likely.of(rows, page_size)
    mean, most = likely.mean - likely.running, likely.most - likely.pages
    rest = likely.at(quantile, mean, np.maximum(likely.variance - likely.spread, 0), most)
    # The most that they will need from each point of the grid on.
    still = np.maximum.accumulate(rest[:, ::-1], axis=1)[:, ::-1]
    back = still + likely.running.max(axis=1, keepdims=True) <= num_pages
    back[:, -1] = True
    return Relief(
        suffices=mean.max(axis=1) <= num_pages,
        away_steps=np.maximum(_FROM[back.argmax(axis=1)], 1.0),
    )


@dataclass(frozen=True, slots=True)
class _Likely:
    """The pages of rows at each point of the grid [G]: of each [R, G], and of all together."""

    pages: Reals
    running: Reals
    spread: Reals
    mean: Reals
    variance: Reals
    most: Reals

    @classmethod
    def of(cls, rows: GrowingView, page_size: int) -> Self:
        left = rows.left[:, None]
        alive = np.where(left > _FROM, alive_on(rows.alive, rows.since, _FROM), 0.0)
        full = np.ceil((rows.tokens[:, None] + np.minimum(_TO, left)) / page_size)
        running = alive * full
        spread = running * (full - running)
        pages = np.where(alive > 0, full, 0.0)
        return cls(
            pages, running, spread, running.sum(axis=0), spread.sum(axis=0), pages.sum(axis=0)
        )

    @staticmethod
    def at(quantile: float, mean: Reals, variance: Reals, most: Reals) -> Reals:
        """Return the sums that are not exceeded with chance `quantile`."""
        return np.minimum(mean + _deviations(quantile) * np.sqrt(variance), most)


@lru_cache(maxsize=16)
def _deviations(quantile: float) -> float:
    """Return by how many deviations a normal distribution's quantile lies above its mean."""
    return NormalDist().inv_cdf(quantile)
