"""Do stated quantiles hold? Curves are bent until they did on held-out sessions.

A reply's score is the chance that its curve gave to ending sooner than it did. For right curves
scores are spread evenly over [0, 1]; where they are not, their distribution is the map that makes
them so: stated chance u becomes the share of held-out replies with scores up to u. One map serves
all quantiles at once, and there is one for each stretch of a reply, because heads are too sure of
themselves in some and not in others (conformal predictive systems; Kuleshov, arXiv 1807.00263).

A reply that was cut off has a score above that of its cut: Kaplan and Meier's estimator takes it so
(papers.md 5.3). Knows no heads and no smoothing.
"""

from bisect import bisect_right
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.curves import height

Floats: TypeAlias = NDArray[np.float64]

STRETCHES = (0, 1, 20, 50, 100, 200, 400)
"""Where stretches of a reply begin, in tokens."""
LEVELS = 65
"""Chances at which a map is kept, evenly spaced, from 0 to 1."""
LEAST_REPLIES = 100
"""Replies that a stretch needs for a map of its own; else that of the one before it serves."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Maps of chances, one for each stretch: `maps[i][j]` is what chance j / (LEVELS - 1) means."""

    maps: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        """Raise ValueError unless there is a rising map from 0 to 1 for every stretch."""
        rising = all(
            len(m) == LEVELS and m[0] == 0 and m[-1] == 1 and list(m) == sorted(m)
            for m in self.maps
        )
        if len(self.maps) != len(STRETCHES) or not rising:
            raise ValueError("a calibration has a rising map from 0 to 1 for every stretch")

    def apply(self, alive: Floats, generated: NDArray[np.int64], tilt: float = 0.0) -> Floats:
        """Return the curves [N, E] to be stated of replies with `generated[n]` tokens so far.

        `tilt` shifts the log-odds of running on, for all of them: what was learned since.
        """
        levels = np.linspace(0, 1, LEVELS)
        out = np.empty_like(alive)
        stretches = np.searchsorted(np.array(STRETCHES), generated, side="right") - 1
        for stretch in np.unique(stretches):
            own = stretches == stretch
            out[own] = 1 - np.interp(1 - alive[own], levels, np.array(self.maps[stretch]))
        if tilt:
            odds = np.exp(tilt) * out
            out = odds / (1 - out + odds)
        out[:, 0] = 1.0
        return np.minimum.accumulate(out, axis=1)


def uncalibrated() -> Calibration:
    """Return the calibration that leaves curves as they are."""
    return Calibration((tuple(np.linspace(0, 1, LEVELS).tolist()),) * len(STRETCHES))


def stretch_of(generated: int) -> int:
    """Return the number of the stretch in which a place of a reply lies."""
    return bisect_right(STRETCHES, generated) - 1


def scores(alive: Floats, remaining: NDArray[np.int32], censored: NDArray[np.bool_]) -> Floats:
    """Return each reply's score; of one that was cut off, the score that its own is above.

    Stated quantile q covers a reply just if its score lies below q (predictor/curves.quantile).
    """
    came = np.where(censored, remaining, remaining - 1)
    return 1 - height(alive, came[:, None].astype(np.float64))[:, 0]


def calibrate(
    alive: Floats,
    generated: NDArray[np.int32],
    remaining: NDArray[np.int32],
    censored: NDArray[np.bool_],
    reply: NDArray[np.int32],
) -> Calibration:
    """Fit the maps to curves [N, E] of held-out replies and what came of them."""
    found = scores(alive, remaining, censored)
    maps: list[tuple[float, ...]] = []
    for stretch, start in enumerate(STRETCHES):
        stop = (*STRETCHES, np.inf)[stretch + 1]
        own = (generated >= start) & (generated < stop)
        if len(np.unique(reply[own])) >= LEAST_REPLIES:
            maps.append(_distribution(found[own], censored[own]))
        else:
            maps.append(maps[-1] if maps else uncalibrated().maps[0])
    return Calibration(tuple(maps))


def _distribution(found: Floats, censored: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return the share of scores below each level."""
    order = np.lexsort((censored, found))
    at_risk = np.arange(len(found), 0, -1)
    outlive = np.cumprod(np.where(censored[order], 1.0, 1 - 1 / at_risk))
    levels = np.linspace(0, 1, LEVELS)
    below = np.searchsorted(found[order], levels, side="left")
    share = 1 - np.concatenate([[1.0], outlive])[below]
    share[0], share[-1] = 0.0, 1.0
    return tuple(np.maximum.accumulate(share).tolist())
