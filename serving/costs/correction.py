"""By how much is a latency model off lately? Ratios of observed to predicted times, per bucket.

A bucket is a kind of step and its size, by doublings. Each keeps the ratios of its last `WINDOW`
observations; their median, clamped, corrects the model, and their spread says how far a corrected
prediction can be trusted. A bucket that has seen little takes its kind's ratios.

Transfers are not corrected, because nobody sees one alone. A copy starts behind the steps launched
at its sender, is announced before it has come, runs into the receiver's next step, and is confirmed
when the receiver's round hears of it: what can be timed is mostly waiting (ten times the copy in a
simulation; LOG.md), and would be priced as if it were the link's.

`predicted_s` is always what the model itself says: feeding corrected predictions back would undo
the correction. Pure state: no clock, no I/O, and `observe` does no more than keep two lists.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from math import hypot
from operator import itemgetter
from typing import TypeAlias

from serving.costs.costs import Costs, Estimate, Link, StepModel
from serving.messages import StepTime

WINDOW = 64  # ratios of a median: a few seconds of steps (ours)
LEAST = 8  # ratios before a bucket is believed (ours)
LOWEST, HIGHEST = 1 / 8, 8.0
"""Bounds of a factor (ours): a median beyond them shows a wrong model, or a machine in trouble. A
described CPU is off by 0.35 to 3 times, by what else runs there (LOG.md)."""
BACK = 2.0
"""How far within a bound a median is back, so that one near it is not told every few seconds (ours;
on two busy cores one was, 13 times in four minutes)."""
SIGMA_SHARE = 0.1587  # of a normal distribution lies below one standard deviation under its mean


_SIZE = itemgetter(0, 1)  # of a step's time: its rows and new tokens


class Kind(StrEnum):
    """What a step does. Hashed for every prediction: as a plain string."""

    DECODE = "decode"
    PREFILL = "prefill"
    MIXED = "mixed"


Bucket: TypeAlias = tuple[Kind, int, int]
"""Steps of like size: rows and new tokens in doublings, rounded up."""


def step_bucket(rows: int, new_len: int) -> Bucket:
    """Return the bucket of a step of `rows` decode rows and `new_len` new prompt tokens."""
    doublings = (rows - 1).bit_length() if rows else 0
    if not new_len:
        return (Kind.DECODE, doublings, 0)
    kind = Kind.MIXED if rows else Kind.PREFILL
    return (kind, doublings, (new_len - 1).bit_length())


@dataclass(slots=True)
class _Ratios:
    """The last ratios, in the order they came.

    What they say is worked out when it is first asked for after a new one: most steps end without
    anyone asking, and a route asks often.
    """

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    said: tuple[float, float] | None = None  # the verdict, until another ratio comes
    unseen: int = 0  # ratios since `Correction.beyond` has looked
    beyond: bool = False  # as it was then

    @property
    def verdict(self) -> tuple[float, float]:
        """The factor, which is their median within bounds, and the relative error it leaves.

        That error is their spread, and what the bounds have left uncorrected.
        """
        if self.said is None:
            ordered = sorted(self.recent)
            median = _median(ordered)
            factor = min(max(median, LOWEST), HIGHEST)
            self.said = factor, hypot(_spread(ordered, median), median / factor - 1)
        return self.said


def _median(ordered: list[float]) -> float:
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[~middle]) / 2


def _spread(ordered: list[float], median: float) -> float:
    """Return the relative standard deviation, from the middle two thirds: no outliers."""
    low = int(SIGMA_SHARE * (len(ordered) - 1) + 0.5)
    return (ordered[~low] - ordered[low]) / 2 / median


class Correction:
    """What was observed of one kind of worker."""

    def __init__(self) -> None:
        """Start with nothing observed: every factor is 1."""
        self._buckets: dict[Bucket, _Ratios] = {}
        self._kinds: dict[Kind, _Ratios] = {}

    def observe(self, bucket: Bucket, predicted_s: float, observed_s: float) -> None:
        """Take one observation. Times that are not positive say nothing and are left out."""
        if predicted_s > 0 and observed_s > 0:
            self._take(bucket, (observed_s / predicted_s,))

    def observe_all(self, steps: Iterable[StepTime]) -> None:
        """Take what `observe` would of each of these steps; neighbours are mostly alike."""
        for (rows, new_len), alike in groupby(steps, _SIZE):
            ratios = [
                observed_s / predicted_s
                for _, _, _, predicted_s, observed_s in alike
                if predicted_s > 0 and observed_s > 0
            ]
            if ratios:
                self._take(step_bucket(rows, new_len), ratios)

    def _take(self, bucket: Bucket, ratios: Sequence[float]) -> None:
        own = self._buckets.get(bucket)
        if own is None:
            own = self._buckets[bucket] = _Ratios()
            self._kinds.setdefault(bucket[0], _Ratios())
        kind = self._kinds[bucket[0]]
        own.recent.extend(ratios)
        kind.recent.extend(ratios)
        own.said = kind.said = None
        kind.unseen += len(ratios)

    def beyond(self) -> list[tuple[Kind, float]]:
        """Return the kinds whose steps have lately come to be further off than is corrected.

        Each with its median ratio, once a time: what is told again was well within bounds since.
        """
        found: list[tuple[Kind, float]] = []
        for kind, ratios in self._kinds.items():
            if ratios.unseen < WINDOW:
                continue
            was, median = ratios.beyond, _median(sorted(ratios.recent))
            within = BACK if was else 1.0
            ratios.unseen, ratios.beyond = 0, not within * LOWEST <= median <= HIGHEST / within
            if ratios.beyond and not was:
                found.append((kind, median))
        return found

    def factor(self, bucket: Bucket) -> float:
        """Return what to multiply a prediction by: 1 until enough was observed."""
        return _factor(self._of(bucket))

    def kind_factor(self, kind: Kind) -> float:
        """Return the factor of a kind as a whole."""
        return _factor(self._of_kind(kind))

    def correct(self, bucket: Bucket, estimate: Estimate) -> Estimate:
        """Return a prediction corrected, with the error that the correction leaves."""
        ratios = self._of(bucket)
        if ratios is None:
            return estimate
        factor, error = ratios.verdict
        return Estimate(estimate.seconds * factor, error)

    def _of(self, bucket: Bucket) -> _Ratios | None:
        """Return the ratios that speak for a bucket."""
        own = self._buckets.get(bucket)
        if own is not None and len(own.recent) >= LEAST:
            return own
        return self._of_kind(bucket[0])

    def _of_kind(self, kind: Kind) -> _Ratios | None:
        ratios = self._kinds.get(kind)
        return ratios if ratios is not None and len(ratios.recent) >= LEAST else None


def _factor(ratios: _Ratios | None) -> float:
    return 1.0 if ratios is None else ratios.verdict[0]


@dataclass(frozen=True, slots=True)
class Corrected:
    """`Costs` of a model and its correction. The correction goes on learning behind it."""

    base: Costs
    correction: Correction
    _plane: StepModel = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Fit the base's plane once: placing and rebalancing ask for it again and again."""
        object.__setattr__(self, "_plane", self.base.step_model())

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token position takes."""
        return self.base.kv_bytes_per_token

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        """Predict a step that only prefills `new_len` tokens on top of `cached_len`."""
        estimate = self.base.prefill(new_len, cached_len)
        return self.correction.correct(step_bucket(0, new_len), estimate)

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        """Predict a step of `rows` decode rows that attend to `kv_tokens` tokens together."""
        estimate = self.base.decode(rows, kv_tokens)
        return self.correction.correct(step_bucket(rows, 0), estimate)

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        """Predict so many decode steps one after another, in seconds: each row grows by a token."""
        factor = self.correction.factor(step_bucket(rows, 0))
        return [s * factor for s in self.base.decode_ahead(rows, kv_tokens, steps)]

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        """Predict a decode step with a chunk of `new_len` tokens on top of `cached_len` in it."""
        estimate = self.base.mixed(rows, kv_tokens, new_len, cached_len)
        return self.correction.correct(step_bucket(rows, new_len), estimate)

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        """Predict moving KV over a link, as the model does: transfers are not corrected."""
        return self.base.transfer(num_bytes, link)

    def step_model(self) -> StepModel:
        """Return the model's plane, scaled as decode steps are as a whole."""
        plane, factor = self._plane, self.correction.kind_factor(Kind.DECODE)
        return StepModel(
            plane.base_s * factor, plane.per_row_s * factor, plane.per_token_s * factor
        )
