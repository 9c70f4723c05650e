"""What does a head's reading say, beside what earlier ones of the same reply said?

The one place where a reading becomes a stated curve: evaluation and servers both come here. A
belief is kept as it is and never calibrated twice. Knows no heads, rows or messages.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor.conformal import Calibration, Floats, uncalibrated
from predictor.curves import after
from predictor.smoothing import UNSMOOTHED, Smoothing, fold


@dataclass(frozen=True, slots=True)
class Reader:
    """How a head's readings are taken: folded into the past, then calibrated."""

    smoothing: Smoothing
    calibration: Calibration

    @property
    def remembers(self) -> bool:
        """Whether earlier readings count beside a new one."""
        return self.smoothing != UNSMOOTHED

    def believe(self, readings: Floats, past: Floats, came: NDArray[np.int64]) -> Floats:
        """Fold readings [N, E] into what was believed `came[n]` >= 0 tokens ago; `past` [N, E].

        A reply without a past passes its reading as past, and 0.
        """
        if not self.remembers:
            return readings
        first = came == 0
        folded = fold(readings, after(past, came), self.smoothing)
        return np.where(first[:, None], readings, folded)

    def state(self, beliefs: Floats, generated: NDArray[np.int64], tilt: float) -> Floats:
        """Return the curves to be stated of beliefs [N, E] after `generated[n]` reply tokens.

        `tilt` is what was learned of the head since it was calibrated (predictor/conformal).
        """
        return self.calibration.apply(beliefs, generated, tilt)

    def switched(self, *, smoothing: bool, calibration: bool) -> "Reader":
        """Return it with parts switched off."""
        return Reader(
            self.smoothing if smoothing else UNSMOOTHED,
            self.calibration if calibration else uncalibrated(),
        )


PLAIN = Reader(UNSMOOTHED, uncalibrated())
"""Takes every reading as it is."""
