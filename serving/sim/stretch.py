"""Which of a worker's next steps merely go on, and how many of them are over by now?

Rows that decode mostly do nothing else for many steps, and in virtual time it is known beforehand
when each of these ends. They are done at once, when somebody next looks at the worker or tells it
something: as many as are over by then, and each as of its own time. Nothing else differs.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from math import inf
from typing import overload

from serving.sim.agenda import Moment

LEAST_STEPS = 3
"""Fewer steps are not worth looking ahead for (ours)."""


class Ends(Sequence[Moment]):
    """When steps end that follow each other.

    Moments are made when they are asked for: mostly nobody asks for more than the first.
    """

    __slots__ = ("_ranks", "_since", "times")

    def __init__(
        self, times: Sequence[float], since: Sequence[float], ranks: Sequence[int]
    ) -> None:
        """Steps end at `times` [N], entered at `since` [N] with `ranks` [N]."""
        self.times = times
        self._since = since
        self._ranks = ranks

    def __len__(self) -> int:
        """Count the steps."""
        return len(self.times)

    @overload
    def __getitem__(self, index: int) -> Moment: ...
    @overload
    def __getitem__(self, index: slice) -> "Ends": ...
    def __getitem__(self, index: int | slice) -> "Moment | Ends":
        """Return the end of one step, or those of several."""
        if isinstance(index, slice):
            return Ends(self.times[index], self._since[index], self._ranks[index])
        return Moment(self.times[index], self._since[index], self._ranks[index])


class Stretch:
    """Steps that end one after another, the launched ones first.

    At each end but the last two another step is launched behind the one that is queued. `ends`:
    when the first step ends that is not taken with the others; `next_end`: when the next one does,
    taken with the others or not.
    """

    def __init__(self, launched: Sequence[Moment], seconds: Sequence[float]) -> None:
        """`launched` are the ends of the two steps on the device; `seconds` those to come take."""
        running, queued = launched
        times = [running.time, *accumulate(seconds, initial=queued.time)]
        since = [running.since, queued.since, *times[:-2]]
        ranks = [running.rank, *([queued.rank] * (len(times) - 1))]
        self._ends = Ends(times, since, ranks)
        self._seconds = seconds
        self._over = 0  # steps that were taken
        self._timed = 0  # and steps that were timed, which may be more
        self.ends = self._ends[len(seconds)]
        self.next_end = running

    def time(self, reached: Moment) -> Ends:
        """Return the ends of the steps that are over by now, but for those timed or taken."""
        first = self._timed
        self._timed = self._over_by(reached, first)
        return self._ends[first : self._timed]

    def take(self, reached: Moment) -> tuple[Ends, Sequence[float]]:
        """Return the ends of the steps that are over by now, and what those launched then take."""
        first = self._over
        self._over = over = self._over_by(reached, first)
        self._timed = max(self._timed, over)
        self.next_end = self._ends[over]
        return self._ends[first:over], self._seconds[first:over]

    def _over_by(self, reached: Moment, first: int) -> int:
        """Count the steps that are over by now, of which there are so many at least."""
        most = len(self._seconds)
        over = bisect_left(self._ends.times, reached.time, first, most)
        while over < most and self._ends[over] < reached:  # those that end right now
            over += 1
        return over

    def end_of(self, steps: int) -> float:
        """Return when so many steps more than were timed are over; never, if not taken together."""
        last = self._timed + steps - 1
        return self._ends.times[last] if last < len(self._seconds) else inf

    @property
    def launched(self) -> tuple[Moment, Moment]:
        """The ends of the steps that are on the device after those taken."""
        return self._ends[self._over], self._ends[self._over + 1]
