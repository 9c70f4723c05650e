"""For whom are the last pages of a worker kept? For the row that ends first, if it ends with them.

A row that needs a page when there are few takes what another could have ended with; then both are
short, and one has to give way. Of rows that are all far from their ends nothing is kept for any:
only a forecast that knows them apart, like a length head's, changes anything here. It is the
banker's algorithm (Dijkstra, EWD 108) for the one row that finishes first; whole orders of
finishing hold back too much where forecasts are wide (LOG.md has the figures).
"""

from dataclasses import dataclass

import numpy as np

from predictor.curves import after, quantile
from serving.policy.views import GrowingView

FEW = 2
"""Pages that are kept at most (ours: so nobody waits for longer than these last)."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Row number `row` is likely to end with `pages` pages more, and they are kept for it."""

    row: int
    pages: int


def last_pages(rows: GrowingView, *, available: int, page_size: int, likely: float) -> Kept | None:
    """Say for which of `rows` the `available` pages are kept; None: for nobody.

    For the one that needs the fewest to end with chance `likely`, and of these for the one with the
    fewest tokens to come, then the first; if it needs any, and they are there.
    """
    if not 0 < available <= FEW or not len(rows.pages):
        return None
    left = np.minimum(quantile(after(rows.alive, rows.since), likely), rows.left)
    needs = np.maximum(np.ceil((rows.tokens + left) / page_size).astype(int) - rows.pages, 0)
    first = int(np.lexsort((left, needs))[0])
    return Kept(first, int(needs[first])) if 0 < needs[first] <= available else None
