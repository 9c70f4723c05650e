"""What do a head's readings of one worker's rows say, and how well did earlier ones hold?

Readings of all rows of a step are taken at once, as arrays. The stated 90 % quantiles of replies
that end here are compared with what came: the tilt of the curves follows by a little each time
(adaptive conformal inference, Gibbs and Candes, arXiv 2106.00170), so that a head which is wrong on
live traffic is corrected without being trained again. Lengths are whole numbers, and a quantile of
a length that is nearly certain holds far more often than in 90 % of all cases: what is compared is
how often quantiles hold and how often, by their own curves, they should. Knows no steps, pages or
messages.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from predictor.curves import height, mean_up_to, quantiles
from predictor.edges import EDGES
from predictor.reading import Reader
from serving.core.worker_task import WorkerTask
from serving.forecast.forecast import Forecast, Prediction, Stated
from serving.forecast.survival import Survival

MEDIAN, HIGH = 0.5, 0.9
TILT_RATE = 0.02
"""Shift of the log-odds that a reply brings which is above quantiles stated as certain (ours)."""
MOST_TILT = 4.0


class Foresight:
    """The forecasts of one worker. `tilt` is what it has learned since its head was calibrated."""

    def __init__(self, reader: Reader) -> None:
        """Start with the head as it was calibrated."""
        self._reader = reader
        self.tilt = 0.0
        self.unreadable = 0

    def read(
        self, rows: Sequence[WorkerTask], generated: Sequence[int], readings: NDArray[np.float32]
    ) -> list[Forecast | None]:
        """Take the readings [N, E] of rows that had `generated[n]` reply tokens then.

        Sets and returns the rows' forecasts. One that begins at 0 is none, and one that is no curve
        is dropped and counted in `unreadable`: the row keeps what was believed before, if anything
        was.
        """
        alive = np.minimum.accumulate(np.asarray(readings, np.float64), axis=1)
        at, sound = np.array(generated, np.int64), np.isfinite(np.add.reduce(alive, axis=1))
        self.unreadable += len(rows) - int(np.count_nonzero(sound))
        sound &= alive[:, 0] != 0
        kept = rows
        if not sound.all():
            kept = [row for row, ok in zip(rows, sound, strict=True) if ok]
            at, alive = at[sound], alive[sound]
        if kept:
            self._set(kept, at, alive)
        return [row.forecast if ok else None for row, ok in zip(rows, sound, strict=True)]

    def learn(self, row: WorkerTask) -> None:
        """A row's reply is over: compare what was stated of it with what came.

        A quantile that the reply's limit cuts holds in any case, and teaches nothing. Neither does
        one of a place where the reply was not free to end.
        """
        stated, row.stated = row.stated, []
        sampling = row.task.turn.sampling
        stated = [one for one in stated if sampling.may_end_after(one.generated)]
        if not stated:
            return
        missed = [one.chance - (row.replied - one.generated <= one.high) for one in stated]
        tilt = self.tilt + TILT_RATE * sum(missed) / len(stated)
        self.tilt = min(max(tilt, -MOST_TILT), MOST_TILT)

    def _set(
        self, rows: Sequence[WorkerTask], at: NDArray[np.int64], alive: NDArray[np.float64]
    ) -> None:
        beliefs = self._folded(rows, at, alive) if self._reader.remembers else alive
        stated = self._reader.state(beliefs, at, self.tilt)
        left = np.array([row.task.turn.sampling.max_tokens for row in rows], np.int32) - at
        means = mean_up_to(stated, left.astype(np.int32)).tolist()
        lengths = np.minimum(quantiles(stated, (MEDIAN, HIGH)), left[:, None])
        medians, highs = lengths.T.astype(int).tolist()
        chances = 1 - height(stated, lengths[:, 1:])[:, 0]
        chances = np.where(lengths[:, 1] < left, chances, 1.0).tolist()
        curves = stated[:, : len(EDGES) - 1].tolist()
        nothing = [0.0] * (len(EDGES) - len(curves[0]))
        said = zip(curves, beliefs.tolist(), means, medians, highs, chances, strict=True)
        for row, generated, own in zip(rows, at.tolist(), said, strict=True):
            curve, belief, mean, median, high, chance = own
            prediction = Prediction(generated, mean, median, high)
            survival = Survival((*curve, *nothing))
            row.forecast = Forecast(generated, survival, tuple(belief), prediction)
            row.stated.append(Stated(generated, high, chance))

    def _folded(
        self, rows: Sequence[WorkerTask], at: NDArray[np.int64], alive: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Fold readings into what was believed of their rows before."""
        past, came = alive.copy(), np.zeros(len(rows), np.int64)
        for i, row in enumerate(rows):
            if row.forecast is not None and row.forecast.generated < at[i]:
                past[i] = row.forecast.belief
                came[i] = at[i] - row.forecast.generated
        return self._reader.believe(alive, past, came)
