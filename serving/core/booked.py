"""What is booked at a worker to be prefilled, and how much of it runs before a new turn?

Where queues let late tasks wait for those that can be in time (policy/on_time), a turn that comes
now does not wait for them. A task counts as late once its deadline is over, which costs nothing to
know; that one will be late for certain is known to its worker before. Times in seconds.
"""

from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

from serving.request import TurnId


class Work(NamedTuple):
    """Prompt tokens to compute, and how long they are predicted to take."""

    tokens: int
    seconds: float


NOTHING = Work(0, 0.0)


class Booked:
    """The only writer of one worker's booked prefills."""

    def __init__(self) -> None:
        """Start with nothing booked."""
        self._of: dict[TurnId, tuple[Work, float]] = {}
        self._total = self._late = NOTHING
        self._due: list[tuple[float, TurnId]] = []  # tasks that are not late yet, some of them gone
        self._is_late: set[TurnId] = set()

    def __len__(self) -> int:
        """Count the turns."""
        return len(self._of)

    @property
    def total(self) -> Work:
        """All that is booked."""
        return self._total

    def before(self, deadline: float, now: float) -> Work:
        """Return what runs before a turn that is due then, if late ones wait for others.

        A turn that is late itself waits for all.
        """
        if not self._of:
            return NOTHING
        if deadline <= now:
            return self._total
        while self._due and self._due[0][0] <= now:
            due, turn = heappop(self._due)
            # A turn that came back has another entry, if it is due at another time.
            if turn in self._of and self._of[turn][1] == due and turn not in self._is_late:
                self._is_late.add(turn)
                self._late = _sum(self._late, self._of[turn][0], 1)
        return _sum(self._total, self._late, -1)

    def add(self, turn: TurnId, work: Work, deadline: float) -> None:
        """Book a turn, which is due then; inf if it has no target. Raises ValueError if it is."""
        if turn in self._of:
            raise ValueError(f"turn {turn} is booked already")
        self._of[turn] = work, deadline
        self._total = _sum(self._total, work, 1)
        if deadline < inf:
            heappush(self._due, (deadline, turn))
            # Where late turns do not wait nobody asks `before`, which drops those that are gone.
            if len(self._due) > 2 * len(self._of):
                self._due = [(due, t) for t, (_, due) in self._of.items() if due < inf]
                heapify(self._due)

    def remove(self, turn: TurnId) -> None:
        """A turn is prefilled, or gone; no effect if it is not booked."""
        if turn not in self._of:
            return
        work, _ = self._of.pop(turn)
        self._total = _sum(self._total, work, -1)
        if turn in self._is_late:
            self._is_late.discard(turn)
            self._late = _sum(self._late, work, -1)
        if not self._of:
            self._total = self._late = NOTHING  # what rounding left behind
            self._due.clear()


def _sum(one: Work, other: Work, sign: int) -> Work:
    return Work(one.tokens + sign * other.tokens, one.seconds + sign * other.seconds)
