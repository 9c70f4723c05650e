"""Do stated quantiles hold? Curves are bent until they did on held-out sessions.

A reply's score is the chance that its curve gave to ending sooner than it did. For right curves
scores are spread evenly over [0, 1]; where they are not, their distribution is the map that makes
them so: stated chance u becomes the share of held-out replies with scores up to u. One map serves
all quantiles at once (conformal predictive systems; Kuleshov, arXiv 1807.00263). Heads are too sure
of themselves in some places and not in others, so there are maps by stretch of the reply and by
how wide the curve is (Mondrian categories).

Lengths are whole numbers, so a curve that is sure of one gives it a chance of its own, and the
score is drawn from within that: else right curves would be bent, as if all had ended early.

A reply that was cut off has a score above that of its cut: Kaplan and Meier's estimator takes it so
(papers.md 5.3). Knows no heads and no smoothing.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from predictor.curves import height, quantile

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]

STRETCHES = (0, 1, 20, 50, 100, 200, 400)
"""Where stretches of a reply begin, in tokens."""
WIDTHS = (0.0, 0.25, 0.75)
"""Where classes of curves begin, by the distance from median to 90 % quantile over the median."""
CLASSES = len(STRETCHES) * len(WIDTHS)
LEVELS = 129
"""Chances at which a map is kept, evenly spaced, from 0 to 1."""
PLAIN_MAP: tuple[float, ...] = tuple(np.linspace(0, 1, LEVELS).tolist())
"""The map that leaves chances as they are."""
SEED = 0
"""Of the draws of scores: equal replies are calibrated alike."""
LEAST_REPLIES = 100
"""Replies that a class needs for a map of its own; else all curves of like width share one."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Maps of chances, one for each class: `maps[i][j]` is what chance j / (LEVELS - 1) means."""

    maps: tuple[tuple[float, ...], ...]
    is_plain: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise ValueError unless there is a rising map from 0 to 1 for every class."""
        rising = all(
            len(m) == LEVELS and m[0] == 0 and m[-1] == 1 and all(a <= b for a, b in pairwise(m))
            for m in self.maps
        )
        if len(self.maps) != CLASSES or not rising:
            raise ValueError("a calibration has a rising map from 0 to 1 for every class")
        object.__setattr__(self, "is_plain", all(m == PLAIN_MAP for m in self.maps))

    def apply(self, alive: Floats, generated: Ints, tilt: float) -> Floats:
        """Return the curves [N, E] to be stated of replies with `generated[n]` tokens so far.

        `tilt` shifts the log-odds of running on, for all of them: what was learned since.
        """
        out = alive if self.is_plain else self._mapped(alive, generated)
        if tilt:
            odds = np.exp(tilt) * out
            out = odds / (1 - out + odds)
        out = out.copy()
        out[:, 0] = 1.0
        return np.minimum.accumulate(out, axis=1)

    def _mapped(self, alive: Floats, generated: Ints) -> Floats:
        levels = np.linspace(0, 1, LEVELS)
        out = np.empty_like(alive)
        own = classes(alive, generated)
        for one in np.unique(own):
            mask = own == one
            out[mask] = 1 - np.interp(1 - alive[mask], levels, np.array(self.maps[one]))
        return out


def uncalibrated() -> Calibration:
    """Return the calibration that leaves curves as they are."""
    return Calibration((PLAIN_MAP,) * CLASSES)


def classes(alive: Floats, generated: Ints) -> Ints:
    """Return the class [N] of each curve [N, E]."""
    stretch = np.searchsorted(np.array(STRETCHES), generated, side="right") - 1
    return stretch * len(WIDTHS) + _width_class(alive)


def _width_class(alive: Floats) -> Ints:
    middle, high = quantile(alive, 0.5), quantile(alive, 0.9)
    width = (high - middle) / np.maximum(middle, 1)
    return np.searchsorted(np.array(WIDTHS), width, side="right") - 1


def scores(alive: Floats, remaining: NDArray[np.int32], censored: NDArray[np.bool_]) -> Floats:
    """Return each reply's score, drawn from the chance of its length.

    Of one that was cut off it is the chance to have ended by then, which its own score is above.
    """
    latest = 1 - height(alive, remaining[:, None].astype(np.float64))[:, 0]
    earliest = 1 - height(alive, (remaining[:, None] - 1).astype(np.float64))[:, 0]
    share = np.random.default_rng(SEED).random(len(alive))
    return np.where(censored, latest, earliest + share * (latest - earliest))


def calibrate(
    alive: Floats,
    generated: NDArray[np.int32],
    remaining: NDArray[np.int32],
    censored: NDArray[np.bool_],
    reply: NDArray[np.int32],
) -> Calibration:
    """Fit the maps to curves [N, E] of held-out replies and what came of them."""
    found = scores(alive, remaining, censored)
    own, width = classes(alive, generated.astype(np.int64)), _width_class(alive)
    maps: list[tuple[float, ...]] = []
    for one in range(CLASSES):
        mask = own == one
        for wider in (width == one % len(WIDTHS), np.ones(len(own), np.bool_)):
            if len(np.unique(reply[mask])) < LEAST_REPLIES:
                mask = wider
        maps.append(_distribution(found[mask], censored[mask]))
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
