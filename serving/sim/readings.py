"""What would a length head say in a simulation? Curves around the truth, as far off as asked.

`Oracle` is never wrong (but for the grain of the curves). `ErringHead` errs by a factor: the
logarithm of what it takes the rest of a reply to be is normal around the truth, and its curve says
so, which makes it calibrated. An error stays for the whole of a reply but for a tenth that is new
at every reading, because a head that misjudges a reply does so again a moment later.

How far a head of a large model errs was not measured here: the default spread is ours.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from predictor.edges import EDGES
from serving.sim.replies import Replies

Floats = NDArray[np.float32]
NEW_SHARE = 0.1
LASTING, PASSING = math.sqrt(1 - NEW_SHARE), math.sqrt(NEW_SHARE)
_EDGES = np.array(EDGES[:-1], np.float64)
_LOG_EDGES = np.log(np.maximum(_EDGES, 0.5))


class Readings(Protocol):
    """Reads the rest of replies, as a head in the step does."""

    def read(self, numbers: Sequence[int], reply_index: Sequence[int]) -> Floats:
        """Return curves [N, E - 1] for turns that sample their token `reply_index` now."""
        ...


class Oracle:
    """Knows."""

    def __init__(self, replies: Replies) -> None:
        """`replies` holds the truth."""
        self._replies = replies

    def read(self, numbers: Sequence[int], reply_index: Sequence[int]) -> Floats:
        """Return curves [N, E - 1] that fall at the true end."""
        left = _left(self._replies, numbers, reply_index)
        return (left[:, None] > _EDGES).astype(np.float32)


class ErringHead:
    """Errs by a log-normal factor of spread `sigma`, seeded by turn."""

    def __init__(self, replies: Replies, *, sigma: float, seed: int) -> None:
        """`replies` holds the truth; raises ValueError unless `sigma` is positive."""
        if not sigma > 0:
            raise ValueError(f"a head errs by more than {sigma}")
        self._replies = replies
        self._sigma = sigma
        self._seed = seed
        self._lasting: dict[int, float] = {}  # errors that stay for the whole of a reply

    def read(self, numbers: Sequence[int], reply_index: Sequence[int]) -> Floats:
        """Return curves [N, E - 1] around what is left times an error."""
        error = [self._error(n, i) for n, i in zip(numbers, reply_index, strict=True)]
        centre = np.log(_left(self._replies, numbers, reply_index)) + self._sigma * np.array(error)
        score = (_LOG_EDGES - centre[:, None]) / (self._sigma * math.sqrt(2))
        alive = 0.5 * (1 - erf(score))
        alive[:, 0] = 1.0
        return alive.astype(np.float32)

    def _error(self, number: int, index: int) -> float:
        lasting = self._lasting.get(number)
        if lasting is None:
            lasting = self._lasting[number] = LASTING * _normal(self._seed, number, 0)
        return lasting + PASSING * _normal(self._seed, number, 1 + index)


def _left(
    replies: Replies, numbers: Sequence[int], reply_index: Sequence[int]
) -> NDArray[np.float64]:
    """Count the tokens to come [N], the one sampled now included."""
    pairs = zip(numbers, reply_index, strict=True)
    return np.array([replies.length(n) - i for n, i in pairs], np.float64)


def _normal(seed: int, number: int, index: int) -> float:
    """Draw a normal number that depends on these three alone (SplitMix64, then Box-Muller)."""
    first = _mixed(_mixed(_mixed(seed) ^ number) ^ index)
    second = _mixed(first)
    radius = math.sqrt(-2 * math.log((first + 1) / 2**64))
    return radius * math.cos(2 * math.pi * second / 2**64)


def _mixed(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)
