"""What does a length head say of one running reply, and from which place in it?

Knows no head and no row.
"""

from dataclasses import dataclass
from typing import NamedTuple

from serving.forecast.survival import Survival


class Prediction(NamedTuple):
    """Numbers for people: reply tokens so far, then mean, median and 90 % quantile of the rest.

    All in tokens, and cut at what the reply may still have.
    """

    generated: int
    mean: float
    median: int
    high: int


class Stated(NamedTuple):
    """A quantile that was stated of a reply, to be held against what comes.

    After `generated` reply tokens, at most `high` more (tokens), with this `chance` by the curve.
    """

    generated: int
    high: int
    chance: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """The curve of the reply tokens that come after the first `generated`.

    `belief` is the chance of more tokens at the first `EDGES` before calibration: what the next
    reading is folded into. It travels with the row.
    """

    generated: int
    curve: Survival
    belief: tuple[float, ...]
    prediction: Prediction
