"""What do many curves say? Means and quantiles of remaining lengths, as arrays.

The same answers as serving/forecast/survival gives for one curve: between two of `EDGES` the chance
falls in a straight line.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictor.edges import EDGES

Floats = NDArray[np.float64]
_EDGES = np.array(EDGES, np.float64)
_WIDTHS = np.diff(_EDGES)


def mean_up_to(alive: Floats, limit: NDArray[np.int32]) -> Floats:
    """Return the mean of min(remaining, `limit`) for curves [N, K + 1]: the area under each."""
    last = alive.shape[1] - 1
    before, after = alive[:, :-1], alive[:, 1:]
    width = _WIDTHS[:last]
    seen = np.minimum(np.maximum(limit[:, None] - _EDGES[:last], 0), width)
    reached = _between(before, after, seen / width)
    return np.add.reduce(seen * (before + reached) / 2, axis=1)


def quantile(alive: Floats, q: float) -> Floats:
    """Return the fewest tokens that each reply exceeds with at most chance 1 - q; q in (0, 1).

    A curve that does not fall so far says its last edge.
    """
    return quantiles(alive, (q,))[:, 0]


def quantiles(alive: Floats, qs: Sequence[float]) -> Floats:
    """Return `quantile` for each of some `qs`: [N, Q]."""
    points = alive.shape[1]
    limit = 1 - np.array(qs)
    # 0 where it never falls so far: answered for below.
    index = (alive[:, None, 1:] <= limit[:, None]).argmax(axis=2)
    # By `take` of plain numbers: a few curves are asked at a time, and indexing by rows and columns
    # takes longer than all of the arithmetic.
    place = index + np.arange(0, alive.size, points)[:, None]
    before, after = alive.take(place), alive.take(place + 1)
    # A curve that begins below the limit and stays there has no fall: its share is 0 in any case.
    drop = np.where(before > after, before - after, 1.0)
    share = np.minimum(np.maximum((before - limit) / drop, 0), 1)
    tokens = _EDGES.take(index) + np.ceil(share * _WIDTHS.take(index) - 1e-9)
    return np.where(alive[:, points - 1 :] <= limit, tokens, _EDGES[points - 1])


def _between(before: Floats, after: Floats, share: Floats) -> Floats:
    return before + share * (after - before)


def after(alive: Floats, came: NDArray[np.int64]) -> Floats:
    """Return the curves [N, E] of what remains once `came[n]` more tokens have come, [N, E].

    `E` may be any number of `EDGES`; behind the last one curves stay at their height. Where a reply
    has outlived its curve, the answer is that of serving/forecast/survival: half of such replies
    go on for as long again.
    """
    edges = _EDGES[: alive.shape[1]]
    at = came[:, None].astype(np.float64) + edges[None, :]
    chances = height(alive, at)
    now = chances[:, :1]
    outlived = at[:, :1] / np.maximum(at, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        kept = np.where(now > 0, np.minimum(chances / now, 1), outlived)
    return np.minimum.accumulate(kept, axis=1)


def height(alive: Floats, tokens: Floats) -> Floats:
    """Return the chance of more than `tokens` [N, M] still to come, by curves [N, E]."""
    edges = _EDGES[: alive.shape[1]]
    right = np.clip(np.searchsorted(edges, tokens, side="right"), 1, len(edges) - 1)
    left = right - 1
    share = np.clip((tokens - edges[left]) / (edges[right] - edges[left]), 0, 1)
    before = np.take_along_axis(alive, left, axis=1)
    height = _between(before, np.take_along_axis(alive, right, axis=1), share)
    return np.where(tokens >= edges[-1], np.minimum(height, alive[:, -1:]), height)
