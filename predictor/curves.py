"""What do many curves say? Means and quantiles of remaining lengths, as arrays.

The same answers as serving/forecast/survival gives for one curve: within an interval of `EDGES` the
chance falls geometrically, or in a straight line where it falls to nothing.
"""

import numpy as np
from numpy.typing import NDArray

from predictor.edges import EDGES

Floats = NDArray[np.float64]


def mean_up_to(alive: Floats, limit: NDArray[np.int32]) -> Floats:
    """Return the mean of min(remaining, `limit`) for curves [N, K + 1]: the area under each."""
    left, right = _edges(alive)
    before, after = alive[:, :-1], alive[:, 1:]
    width = right - left
    seen = np.clip(limit[:, None] - left, 0, width)
    reached = _between(before, after, seen / width)
    straight = (before + reached) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        fall = np.log(reached) - np.log(before)
        curved = np.where(fall < -1e-12, (reached - before) / fall, before)
    height = np.where(after > 0, curved, straight)
    return (seen * np.where(before > 0, height, 0)).sum(axis=1)


def quantile(alive: Floats, q: float) -> Floats:
    """Return the fewest tokens that each reply exceeds with at most chance 1 - q; q in (0, 1).

    A curve that does not fall so far says its last edge.
    """
    left, right = _edges(alive)
    limit = 1 - q
    falls_to = alive[:, 1:] <= limit
    index = np.where(falls_to.any(axis=1), falls_to.argmax(axis=1), alive.shape[1] - 2)
    rows = np.arange(len(alive))
    before, after = alive[rows, index], alive[rows, index + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        curved = (np.log(before) - np.log(limit)) / (np.log(before) - np.log(after))
        straight = (before - limit) / before
    share = np.clip(np.where(after > 0, curved, straight), 0, 1)
    tokens = left[index] + np.ceil(share * (right - left)[index] - 1e-9)
    return np.where(falls_to.any(axis=1), tokens, right[-1])


def _edges(alive: Floats) -> tuple[Floats, Floats]:
    edges = np.array(EDGES[: alive.shape[1]], np.float64)
    return edges[:-1], edges[1:]


def _between(before: Floats, after: Floats, share: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        curved = before * (after / before) ** share
    straight = before * (1 - share)
    return np.where(before > 0, np.where(after > 0, curved, straight), 0)
