"""What do an earlier curve and a new reading say together? Bayes' rule, tempered.

Between two readings a row's curve shifts by the tokens that came (predictor/curves.after). The next
reading is then folded in: per interval, belief is proportional to reading ** a times past ** b.
With a = b = 1 that is Bayes' rule for independent readings, and a head's readings of one reply are
anything but independent: a and b are chosen on held-out sessions (train/calibrate). b = 0 is a
reading alone. TRAIL folds likewise, with fixed exponents (papers.md 5.2). Knows no heads.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_MASS = 1e-5
"""What an interval keeps in either curve: no reading is so sure that it forbids a length."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """The exponents of a new reading and of the past."""

    reading: float
    past: float

    def __post_init__(self) -> None:
        """Raise ValueError unless readings count and the past does not count against itself."""
        if not (self.reading > 0 and self.past >= 0):
            raise ValueError(f"exponents are above 0, and for the past at least 0, not {self}")


UNSMOOTHED = Smoothing(1.0, 0.0)


def fold(reading: Floats, past: Floats, how: Smoothing) -> Floats:
    """Return what curves [N, E] say together; `past` is shifted to the same place already."""
    if how == UNSMOOTHED:
        return reading
    log_mass = how.reading * np.log(_masses(reading)) + how.past * np.log(_masses(past))
    mass = np.exp(log_mass - log_mass.max(axis=1, keepdims=True))
    ends = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]
    return ends / ends[:, :1]


def _masses(alive: Floats) -> Floats:
    """Return the chance to end in each interval, and to outlive the last edge: [N, E]."""
    mass = np.concatenate([alive[:, :-1] - alive[:, 1:], alive[:, -1:]], axis=1)
    return np.maximum(mass, LEAST_MASS)
