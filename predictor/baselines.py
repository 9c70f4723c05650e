"""What does a length head have to beat? Predictors that never look at the model.

Each is fitted to the records that the head is trained on, and gives curves like a head's, so that
all of them are measured alike.
"""

import numpy as np
from numpy.typing import NDArray

from predictor.edges import EDGES, intervals_up_to
from predictor.records import Records

Floats = NDArray[np.float64]


def replies_of(records: Records) -> Records:
    """Return one record of each reply, the first."""
    _, first = np.unique(records.reply, return_index=True)
    return records[first]


def constant_median(records: Records, asked: Records) -> Floats:
    """Say the median remaining length of all records, always."""
    return np.full(len(asked), np.median(records.remaining))


def median_by_position(records: Records, asked: Records) -> Floats:
    """Say the median remaining length of records at a like place of their reply.

    Places are alike between two of `EDGES`; where there was none, the next one before it speaks.
    """
    places = _places(records.generated)
    medians = np.zeros(len(EDGES))
    last = float(np.median(records.remaining))
    for place in range(len(EDGES)):
        own = records.remaining[places == place]
        last = medians[place] = float(np.median(own)) if len(own) else last
    return medians[_places(asked.generated)]


def survivors(records: Records, asked: Records, horizon: int) -> Floats:
    """Return curves [N, K + 1] of what replies of past lengths had left at each place.

    Of the replies that had reached it, what share went on for more (Past-Future, papers.md 5.1)?
    Replies that were cut off count as long as they are known to run (Kaplan and Meier).
    """
    replies = replies_of(records)
    length = replies.generated + replies.remaining
    most = max(int(length.max()), int(asked.generated.max())) + horizon + 1
    ended = np.bincount(length[~replies.censored], minlength=most + 1).astype(np.float64)
    reached = np.cumsum(np.bincount(length, minlength=most + 1)[::-1])[::-1]
    stays = np.where(reached > 0, 1 - ended / np.maximum(reached, 1), 1.0)
    alive = np.cumprod(stays)  # alive[t]: the chance to have more than t tokens
    ahead = np.array(EDGES[: intervals_up_to(horizon) + 1])
    at = np.minimum(asked.generated[:, None] + ahead[None, :], most)
    now = np.maximum(alive[asked.generated][:, None], 1e-12)
    curves = np.minimum(alive[at] / now, 1.0)
    curves[:, 0] = 1.0
    return np.minimum.accumulate(curves, axis=1)


def _places(generated: NDArray[np.int32]) -> NDArray[np.int64]:
    return np.searchsorted(np.array(EDGES), generated, side="right") - 1
