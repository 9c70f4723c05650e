"""Which of a worker's next steps merely go on, and how many of them are over by now?

Rows that decode mostly do nothing else for many steps, and in virtual time it is known beforehand
when each of these ends. They are done at once, when somebody next looks at the worker or tells it
something: as many as are over by then, and each as of its own time. Nothing else differs.
"""

from collections.abc import Sequence

from serving.sim.agenda import Moment

LEAST_STEPS = 3
"""Fewer steps are not worth looking ahead for (ours)."""


class Stretch:
    """Steps that end one after another, the launched ones first.

    At each end but the last two another step is launched behind the one that is queued.
    """

    def __init__(self, launched: Sequence[Moment], seconds: Sequence[float]) -> None:
        """`launched` are the ends of the two steps on the device; `seconds` those to come take."""
        running, queued = launched
        self._ends = [running, queued]
        self._seconds = seconds
        self._over = 0
        time = queued.time
        for i, step_s in enumerate(seconds):
            time += step_s
            self._ends.append(Moment(time, self._ends[i].time, queued.rank))

    @property
    def ends(self) -> Moment:
        """When the first step ends that is not taken with the others."""
        return self._ends[-2]

    @property
    def next_end(self) -> Moment:
        """When the next step ends, taken with the others or not."""
        return self._ends[self._over]

    def take(self, reached: Moment) -> tuple[Sequence[Moment], Sequence[float]]:
        """Return the ends of the steps that are over by now, and what those launched then take."""
        first, most = self._over, len(self._seconds)
        while self._over < most and self._ends[self._over] < reached:
            self._over += 1
        return self._ends[first : self._over], self._seconds[first : self._over]

    @property
    def launched(self) -> tuple[Moment, Moment]:
        """The ends of the steps that are on the device after those taken."""
        return self._ends[self._over], self._ends[self._over + 1]
