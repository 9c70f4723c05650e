"""Which plane fits decode steps best? Least squares with coefficients that are not negative.

Knows nothing of where the samples come from.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from serving.costs.costs import StepModel


class Sample(NamedTuple):
    """A decode step of `rows` rows over `kv_tokens` tokens, and its time."""

    rows: int
    kv_tokens: int
    seconds: float


def fit_plane(samples: Sequence[Sample]) -> StepModel:
    """Fit `base + per_row * rows + per_token * kv_tokens` with the least relative error.

    Negative coefficients would let a planner gain by adding work, so the best fit among those
    without any is taken: each subset of the three columns is tried (ours; exact for so few).
    Raises ValueError without samples.
    """
    if not samples:
        raise ValueError("a plane needs samples")
    table = np.array(samples, np.float64)
    seconds = table[:, 2]
    columns = np.column_stack((np.ones(len(table)), table[:, :2])) / seconds[:, None]
    ones = np.ones(len(table))
    best, least = np.zeros(3), np.inf
    for count in (3, 2, 1):
        for chosen in combinations(range(3), count):
            coefficients = np.zeros(3)
            part = columns[:, chosen]
            coefficients[list(chosen)] = np.linalg.lstsq(part, ones, rcond=None)[0]
            residual = float(np.sum((columns @ coefficients - 1) ** 2))
            if np.all(coefficients >= 0) and residual < least:
                best, least = coefficients, residual
    base_s, per_row_s, per_token_s = best.tolist()
    return StepModel(base_s, per_row_s, per_token_s)
