"""How long does a step take on the machine where it was measured? Grids of points, interpolated.

Decode: for each bucket of rows a curve over the tokens that the rows attend to; a step is priced in
the bucket that pads it. Prefill: a surface over new and cached tokens; its points stand at both
ends of each bucket, so that padding shows. Mixed: such a surface for each bucket of rows that
chunks ride with, measured over short contexts, plus what the rows' KV adds to a decode step (the
marginal rule, as in aiconfigurator). Without that surface, the prefill of the chunk and the rows
takes its place.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from serving.costs.costs import Costs, Estimate, Link, StepModel
from serving.costs.interpolate import Curve, Surface, make_curve, make_surface
from serving.costs.measured import Grid, StepPoint, TransferPoint
from serving.costs.plane import Sample, fit_plane

LEAST_ERROR = 0.03  # of interpolation alone: 1.6 to 3 % on held-out steps of an 8B model
NOTHING = Estimate(0.0, 0.0)


class Profile:
    """`Costs` of one worker from its grid.

    `reference` prices what was not measured at all (decode steps of a prefill worker, transfers of
    a colocated one) and carries times beyond the grid.
    """

    def __init__(self, grid: Grid, reference: Costs) -> None:
        """Interpolate a grid; raises ValueError naming what an unfinished one lacks."""
        self._reference = reference
        self._decode_points = [p for p in grid.steps if not p.new_len]
        self._decode = _decode_curves(self._decode_points, reference)
        self._buckets = sorted(self._decode)
        chunks = [p for p in grid.steps if p.new_len]
        self._chunks = _chunk_surfaces(chunks, reference)
        self._mixed_buckets = sorted(rows for rows in self._chunks if rows)
        if 0 not in self._chunks:
            raise ValueError("steps: no prefill was measured")
        self._floors = {p.rows: p.kv_tokens for p in chunks}
        self._transfers = _transfer_curve(grid.transfers)
        self._decode_error = _error(self._decode_points)
        self._chunk_error = _error(chunks)
        self._transfer_error = _error(grid.transfers)

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token position takes."""
        return self._reference.kv_bytes_per_token

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        """Predict a step that only prefills `new_len` tokens on top of `cached_len`."""
        if not new_len:
            return NOTHING
        return Estimate(self._chunks[0].at(new_len, cached_len), self._chunk_error)

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        """Predict a step of `rows` decode rows that attend to `kv_tokens` tokens together."""
        if not rows:
            return NOTHING
        if not self._buckets:
            return self._reference.decode(rows, kv_tokens)
        return Estimate(self._decode_seconds(rows, kv_tokens), self._decode_error)

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        """Predict so many decode steps one after another, in seconds: each row grows by a token."""
        return [self.decode(rows, kv_tokens + i * rows).seconds for i in range(steps)]

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        """Predict a decode step with a chunk of `new_len` tokens on top of `cached_len` in it."""
        if not new_len:
            return self.decode(rows, kv_tokens)
        alone_s = self._chunks[0].at(new_len, cached_len)
        if not rows:
            return Estimate(alone_s, self._chunk_error)
        index = bisect_left(self._mixed_buckets, rows)
        if index < len(self._mixed_buckets):
            bucket = self._mixed_buckets[index]
            floor, chunk_s = self._floors[bucket], self._chunks[bucket].at(new_len, cached_len)
        else:
            floor, chunk_s = 0, self._chunks[0].at(new_len + rows, cached_len)
        decode_s = self._decode_seconds(rows, kv_tokens)
        added_s = max(0.0, decode_s - self._decode_seconds(rows, floor))
        return Estimate(max(chunk_s + added_s, decode_s, alone_s), self._chunk_error)

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        """Predict moving KV: as measured, whatever the link, where transfers were measured."""
        if num_bytes == 0:
            return NOTHING
        if self._transfers is None:
            return self._reference.transfer(num_bytes, link)
        return Estimate(self._transfers.at(num_bytes), self._transfer_error)

    def step_model(self) -> StepModel:
        """Return the plane that fits the measured decode steps best."""
        if not self._decode_points:
            return self._reference.step_model()
        return fit_plane([Sample(p.rows, p.kv_tokens, p.seconds) for p in self._decode_points])

    def _decode_seconds(self, rows: int, kv_tokens: int) -> float:
        if not self._buckets:
            return self._reference.decode(rows, kv_tokens).seconds
        index = bisect_left(self._buckets, rows)
        if index < len(self._buckets):
            return self._decode[self._buckets[index]].at(kv_tokens)
        largest = self._buckets[-1]
        within = self._reference.decode(largest, kv_tokens).seconds
        beyond = self._reference.decode(rows, kv_tokens).seconds
        return self._decode[largest].at(kv_tokens) * beyond / within


def _decode_curves(points: Sequence[StepPoint], reference: Costs) -> dict[int, Curve]:
    """Draw each bucket's curve, none below that of a smaller bucket."""
    by_rows: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for point in points:
        by_rows[point.rows][point.kv_tokens] = point.seconds
    curves: dict[int, Curve] = {}
    smaller: Curve | None = None
    for rows in sorted(by_rows):
        curve = make_curve(
            by_rows[rows], lambda kv_tokens, rows=rows: reference.decode(rows, kv_tokens).seconds
        )
        smaller = curves[rows] = curve if smaller is None else curve.above(smaller)
    return curves


def _chunk_surfaces(points: Sequence[StepPoint], reference: Costs) -> dict[int, Surface]:
    """Span a surface for each number of decode rows that chunks were measured with."""
    by_rows: defaultdict[int, dict[tuple[int, int], float]] = defaultdict(dict)
    for point in points:
        by_rows[point.rows][point.new_len, point.cached_len] = point.seconds

    def span(rows: int) -> Surface:
        try:
            return make_surface(
                by_rows[rows], lambda new, cached: reference.mixed(rows, 0, new, cached).seconds
            )
        except ValueError as error:
            raise ValueError(f"steps: {error} beside {rows} decode rows") from None

    return {rows: span(rows) for rows in by_rows}


def _transfer_curve(points: Sequence[TransferPoint]) -> Curve | None:
    if not points:
        return None
    times = {point.num_bytes: point.seconds for point in points}
    least = min(times)
    # The smallest transfer is all latency; behind the largest, what a byte took there is held.
    return make_curve({0: times[least], **times}, lambda num_bytes: float(num_bytes))


def _error(points: Sequence[StepPoint] | Sequence[TransferPoint]) -> float:
    return max(LEAST_ERROR, median(p.error for p in points)) if points else LEAST_ERROR
