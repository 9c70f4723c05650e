"""What is a part of the measurement? Points that are measured one by one, and what they come to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarks.h200.rig import Rig

ALL = "all"  # the one point of a part that has no points

Job = Callable[[], Any]
Points = Mapping[str, Any]


def nothing_more(rig: Rig, points: Points) -> dict[str, Any]:
    """Say nothing of the points together."""
    return {}


@dataclass(frozen=True, slots=True)
class Part:
    """`jobs` measures each point by its name, in this order; `summary` is what they say together.

    With `alone` there is one point, ALL, and what it came to are the part's figures.
    """

    jobs: Callable[[Rig], Mapping[str, Job]]
    summary: Callable[[Rig, Points], dict[str, Any]] = nothing_more
    alone: bool = False

    def figures(self, rig: Rig, points: Points) -> dict[str, Any]:
        """Return what is kept of the points that have been measured."""
        if self.alone:
            return dict(points.get(ALL, {}))
        return {"points": dict(points), **self.summary(rig, points)}

    def points(self, figures: Mapping[str, Any]) -> dict[str, Any]:
        """Return the points that `figures` was made of."""
        if self.alone:
            return {ALL: dict(figures)} if figures else {}
        return dict(figures["points"])


def alone(measure: Callable[[Rig], dict[str, Any]]) -> Part:
    """Make a part of one measurement."""
    return Part(lambda rig: {ALL: partial(measure, rig)}, alone=True)
