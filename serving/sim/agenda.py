"""What happens when, in virtual time? Things to do by their time, equal times as entered."""

from collections.abc import Callable
from heapq import heappop, heappush

Do = Callable[[], None]


class Agenda:
    """The only clock of a simulation. Times in seconds; they never run back."""

    def __init__(self) -> None:
        """Start at time zero with nothing to do."""
        self.now = 0.0
        self._entries: list[tuple[float, int, Do]] = []
        self._entered = 0

    def __len__(self) -> int:
        """Count what is still to be done."""
        return len(self._entries)

    def at(self, time: float, do: Do) -> None:
        """Enter something to do; raises ValueError for a time that has passed."""
        if not time >= self.now:
            raise ValueError(f"it is {self.now} s, so nothing can be done at {time} s")
        self._entered += 1
        heappush(self._entries, (time, self._entered, do))

    def next(self) -> Do | None:
        """Turn the clock to the next thing to do and return it; None if there is none."""
        if not self._entries:
            return None
        self.now, _, do = heappop(self._entries)
        return do
