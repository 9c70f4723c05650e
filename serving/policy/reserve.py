"""How many pages will the rows of a worker need at once, beyond those they hold?

Of all rows together: they grow by one token a step each, and while some grow others end and leave
their pages. Each may be the long one, but hardly all of them are, so what is set aside for every
row by itself keeps a pool half empty (LOG.md: 58 % of turns in time, where this keeps 89 %).
"""

from itertools import pairwise
from math import ceil
from statistics import NormalDist

import numpy as np

from serving.forecast.survival import EDGES, alive_on
from serving.policy.views import GrowingView

_GRID = np.unique([*EDGES, *((a + b) // 2 for a, b in pairwise(EDGES))]).astype(np.float64)
_FROM, _TO = _GRID[:-1], _GRID[1:]


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
    left = rows.left[:, None]
    alive = np.where(left > _FROM, alive_on(rows.alive, rows.since, _FROM), 0.0)
    pages = np.ceil((rows.tokens[:, None] + np.minimum(_TO, left)) / page_size)
    running = alive * pages
    deviation = np.sqrt((running * (pages - running)).sum(axis=0))
    likely = running.sum(axis=0) + NormalDist().inv_cdf(quantile) * deviation
    most = np.where(alive > 0, pages, 0.0).sum(axis=0)
    return max(0, ceil(float(np.minimum(likely, most).max())) - int(rows.pages.sum()))
