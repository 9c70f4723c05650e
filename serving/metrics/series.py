"""How are numbers kept until they are scraped? Plain lists behind a prometheus_client collector.

Knows nothing of what is measured. The client library's own metric objects take a lock and more than
a microsecond per observation; here a count is a list item, and one thread writes. Another one may
read: it sees each number as it is or as it was a moment ago.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from typing import Literal

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric

Kind = Literal["counter", "gauge"]


class Values:
    """A counter or gauge: one number per combination of label values, all known from the start."""

    def __init__(
        self, kind: Kind, name: str, help: str, labels: Sequence[str], rows: Sequence[Sequence[str]]
    ) -> None:
        self._kind: Kind = kind
        self._name = name
        self._help = help
        self._labels = labels
        self._values: dict[tuple[str, ...], float] = {tuple(row): 0.0 for row in rows}

    def add(self, row: tuple[str, ...], value: int | float) -> None:
        """Add to the number of one combination; raises KeyError for an unknown one."""
        self._values[row] += value

    def set(self, row: tuple[str, ...], value: int | float) -> None:
        """Replace the number of one combination."""
        self._values[row] = value

    def rename(self, row: tuple[str, ...], new: tuple[str, ...]) -> None:
        """Give one combination other label values; it keeps its number."""
        self._values[new] = self._values.pop(row)

    def family(self) -> Metric:
        """Return what a scrape shows."""
        build = CounterMetricFamily if self._kind == "counter" else GaugeMetricFamily
        family = build(self._name, self._help, labels=self._labels)
        for row, value in list(self._values.items()):
            family.add_metric(row, value)
        return family


class Histogram:
    """Counts per bucket, per combination of label values; a value on a bound belongs below it."""

    def __init__(
        self,
        name: str,
        help: str,
        bounds: Sequence[float],
        labels: Sequence[str],
        rows: Sequence[Sequence[str]],
    ) -> None:
        self._name = name
        self._help = help
        self._bounds = tuple(bounds)
        self._labels = labels
        self._counts = {tuple(row): [0] * (len(bounds) + 1) for row in rows}
        self._sums = {tuple(row): 0.0 for row in rows}

    def observe(self, row: tuple[str, ...], value: int | float, count: int) -> None:
        """Count a value `count` times."""
        self._counts[row][bisect_left(self._bounds, value)] += count
        self._sums[row] += value * count

    def family(self) -> Metric:
        """Return what a scrape shows."""
        return self._family(self._name, self._help, self._bounds)

    def coarser(self, name: str, help: str, bounds: Sequence[float]) -> "Coarser":
        """Return the same observations under another name, with some of the bounds."""
        return Coarser(lambda: self._family(name, help, bounds))

    def _family(self, name: str, help: str, bounds: Sequence[float]) -> Metric:
        family = HistogramMetricFamily(name, help, labels=self._labels)
        for row, counts in self._counts.items():
            below = dict(zip((*self._bounds, inf), accumulate(counts), strict=True))
            buckets = [(repr(float(bound)), float(below[bound])) for bound in bounds]
            family.add_metric(row, [*buckets, ("+Inf", float(below[inf]))], self._sums[row])
        return family


@dataclass(frozen=True, slots=True)
class Coarser:
    """A second view of a histogram; nothing is counted twice."""

    family: Callable[[], Metric]


Series = Values | Histogram | Coarser


class Collector:
    """All series, as prometheus_client wants them."""

    def __init__(self, series: Mapping[str, Series]) -> None:
        self._series = series

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for one in self._series.values():
            yield one.family()
