"""What happens when, in virtual time? Things to do by their time, equal times as entered."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

Do = Callable[[], None]


class Moment(NamedTuple):
    """A time, and a place among all that is done then: what was entered before goes before.

    `since` is when it was entered, `rank` tells apart what was entered at one time.
    """

    time: float
    since: float
    rank: int


class Agenda:
    """The only clock of a simulation. Times in seconds; they never run back."""

    def __init__(self) -> None:
        """Start at time zero with nothing to do."""
        self.now = 0.0
        self.reached = Moment(0.0, 0.0, 0)
        self._entries: list[tuple[Moment, int, Do]] = []
        self._ranks = 0
        self._entered = 0

    def __len__(self) -> int:
        """Count what is still to be done."""
        return len(self._entries)

    def moment(self, time: float) -> Moment:
        """Return the place of what is entered now; raises ValueError for a time that has passed."""
        if not time >= self.now:
            raise ValueError(f"it is {self.now} s, so nothing can be done at {time} s")
        self._ranks += 1
        return Moment(time, self.now, self._ranks)

    def at(self, time: float, do: Do) -> None:
        """Enter something to do; raises ValueError for a time that has passed."""
        self.enter(self.moment(time), do)

    def enter(self, moment: Moment, do: Do) -> None:
        """Enter something whose place has been known for a while; it must not be reached yet."""
        self._entered += 1
        heappush(self._entries, (moment, self._entered, do))

    def next(self) -> Do | None:
        """Turn the clock to the next thing to do and return it; None if there is none."""
        if not self._entries:
            return None
        self.reached, _, do = heappop(self._entries)
        self.now = self.reached.time
        return do
