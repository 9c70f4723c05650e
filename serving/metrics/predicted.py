"""How good are predictions of remaining lengths, on the replies that this server gives?

A 90 % quantile that holds for far fewer replies means that the head does not fit what is served.
Knows nothing of heads.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from serving.forecast.forecast import Prediction
from serving.messages import LoadReport
from serving.metrics.catalog import PLACE_STARTS, PLACES, Catalog
from serving.metrics.engines import Row

REPLIES = 1000
LEAST_COVERAGE = 0.75
LEAST_REPLIES = 100
"""Replies before anything is said about coverage: of a few, chance would speak."""


class Predicted:
    """Compares predictions with the replies that they were made of."""

    def __init__(self, catalog: Catalog, row: Row) -> None:
        """Write to the series of `catalog`; what concerns the whole server goes to `row`."""
        self._values = catalog.values
        self._errors = catalog.histograms["foretoken:predicted_remaining_tokens_abs_error"]
        self._row = row
        self._covered: deque[float] = deque(maxlen=REPLIES)

    def on_head(self, *, serves: bool, missing: bool) -> None:
        """Say whether a head is read, and whether one should be that cannot."""
        self._values["foretoken:length_head_served"].set(self._row, int(serves))
        self._values["foretoken:length_head_unusable"].set(self._row, int(missing))

    def on_reply(self, row: Row, predictions: Sequence[Prediction], reply_len: int) -> None:
        """A reply of `reply_len` tokens is whole, of which this was predicted."""
        if not predictions:
            return
        held = 0
        for generated, _, median, high in predictions:
            remaining = reply_len - generated
            place = PLACES[bisect_right(PLACE_STARTS, generated) - 1]
            self._errors.observe((*row, place), abs(remaining - median), 1)
            held += remaining <= high
        self._covered.append(held / len(predictions))
        coverage = sum(self._covered) / len(self._covered)
        self._values["foretoken:predicted_q90_coverage"].set(self._row, coverage)
        misses = len(self._covered) >= LEAST_REPLIES and coverage < LEAST_COVERAGE
        self._values["foretoken:length_head_misses"].set(self._row, int(misses))

    def on_report(self, row: Row, report: LoadReport) -> None:
        """A worker tells how its head reads."""
        self._values["foretoken:length_head_tilt"].set(row, report.tilt)
        self._values["foretoken:length_head_unreadable"].set(row, report.unreadable)
