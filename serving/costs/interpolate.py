"""What lies between measured points? Straight lines; more work never takes less time.

Measurements are noisy, so each point is lifted to the largest of those with no more work. Outside
the points the utilisation is held: a time keeps its ratio to what a reference says. Knows nothing
of steps or files.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product


@dataclass(frozen=True, slots=True)
class Curve:
    """Times over one kind of work: lines between points at `xs` (from 0 on), a slope behind."""

    xs: tuple[int, ...]
    ys: tuple[float, ...]
    slope: float

    def at(self, x: int) -> float:
        """Return the time of `x` units of work."""
        right = bisect_right(self.xs, x)
        if right == len(self.xs):
            return self.ys[-1] + self.slope * (x - self.xs[-1])
        left = right - 1
        share = (x - self.xs[left]) / (self.xs[right] - self.xs[left])
        return self.ys[left] + share * (self.ys[right] - self.ys[left])

    def above(self, smaller: "Curve") -> "Curve":
        """Return this curve lifted to where `smaller` is, which is held behind its last point."""
        last = smaller.xs[-1]
        xs = sorted({*self.xs, *(x for x in smaller.xs if x < self.xs[-1])})
        ys = [max(self.at(x), smaller.at(min(x, last))) for x in xs]
        return Curve(tuple(xs), tuple(ys), self.slope)


def make_curve(points: Mapping[int, float], reference: Callable[[int], float]) -> Curve:
    """Draw a curve through points; `reference` is linear in the work.

    Raises ValueError unless there is a point above 0.
    """
    xs = sorted(points)
    if not xs or xs[-1] <= 0:
        raise ValueError("no point with any work")
    ys = list(accumulate((points[x] for x in xs), max))
    last, there = xs[-1], reference(xs[-1])
    slope = ys[-1] * (reference(2 * last) - there) / (last * there)
    if xs[0] > 0:
        ys.insert(0, ys[0] * reference(0) / reference(xs[0]))
        xs.insert(0, 0)
    return Curve(tuple(xs), tuple(ys), slope)


@dataclass(frozen=True, slots=True)
class Surface:
    """Times over two kinds of work: `zs[i][j]` at `xs[i]`, `ys[j]`, bilinear between."""

    xs: tuple[int, ...]
    ys: tuple[int, ...]
    zs: tuple[tuple[float, ...], ...]
    reference: Callable[[int, int], float]

    def at(self, x: int, y: int) -> float:
        """Return the time of this work."""
        near_x, near_y = _clamped(self.xs, x), _clamped(self.ys, y)
        i, share_x = _place(self.xs, near_x)
        j, share_y = _place(self.ys, near_y)
        low = _between(self.zs[i], j, share_y)
        time = low if share_x == 0 else low + share_x * (_between(self.zs[i + 1], j, share_y) - low)
        if near_x == x and near_y == y:
            return time
        return time * self.reference(x, y) / self.reference(near_x, near_y)


def make_surface(
    points: Mapping[tuple[int, int], float], reference: Callable[[int, int], float]
) -> Surface:
    """Span a surface over points; raises ValueError naming the first that a full grid lacks."""
    xs = tuple(sorted({x for x, _ in points}))
    ys = tuple(sorted({y for _, y in points}))
    for x, y in product(xs, ys):
        if (x, y) not in points:
            raise ValueError(f"no point for {x} new tokens on {y} cached ones")
    rows: list[tuple[float, ...]] = []
    below: Sequence[float] = [0.0] * len(ys)
    for x in xs:
        along = accumulate((points[x, y] for y in ys), max)
        below = tuple(max(a, b) for a, b in zip(along, below, strict=True))
        rows.append(below)
    return Surface(xs, ys, tuple(rows), reference)


def _clamped(axis: Sequence[int], value: int) -> int:
    """Return the value on the axis that is nearest; asked very often, hence no min and max."""
    if value < axis[0]:
        return axis[0]
    return axis[-1] if value > axis[-1] else value


def _place(axis: Sequence[int], value: int) -> tuple[int, float]:
    """Return the point at or before `value`, and how far it is to the next one."""
    left = bisect_right(axis, value) - 1
    if axis[left] == value:
        return left, 0.0
    return left, (value - axis[left]) / (axis[left + 1] - axis[left])


def _between(row: Sequence[float], left: int, share: float) -> float:
    return row[left] if share == 0 else row[left] + share * (row[left + 1] - row[left])
