"""How do repeats become one figure? Medians, percentiles and ratios within a round.

Knows nothing of what was measured.
"""

from collections.abc import Sequence
from statistics import median
from typing import TypedDict


class Figure(TypedDict):
    """Repeats of one measurement: their median and how far they lie apart."""

    median: float
    min: float
    max: float
    repeats: int


def figure(values: Sequence[float]) -> Figure:
    """Summarise repeats. Raises ValueError if there are none."""
    if not values:
        raise ValueError("a figure needs at least one repeat")
    return Figure(median=median(values), min=min(values), max=max(values), repeats=len(values))


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Figure:
    """Summarise the ratios of measurements that were made in the same round.

    A machine that slows down for a while slows both, so the ratio of a round is steadier than the
    ratio of two medians. Raises ValueError if the rounds do not pair up.
    """
    return figure([n / d for n, d in zip(numerators, denominators, strict=True)])


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0 to 1) of the values lie, between neighbours linearly.

    Raises ValueError for no values or a share outside [0, 1].
    """
    if not values or not 0 <= share <= 1:
        raise ValueError(f"no percentile {share} of {len(values)} values")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
