"""Who is told what happens in the engine? The seam between the event loop and those who watch it.

Knows nothing of what they do with it; they decide nothing.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from serving.messages import Decision, End, StepsTimed, WorkerId
from serving.request import Turn, TurnId


@runtime_checkable
class Observer(Protocol):
    """Is told what happens; must not block. Times are the loop's clock (seconds)."""

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""
        ...

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """A token is on its way to the client of each of these turns."""
        ...

    def on_end(self, end: End, now: float) -> None:
        """A turn ended."""
        ...

    def on_decision(self, decision: Decision, now: float) -> None:
        """The coordinator decided something, or tells what became of it."""
        ...

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Pages left a worker."""
        ...

    def on_steps(self, steps: StepsTimed) -> None:
        """A worker tells how long its last steps took."""
        ...


class Observers:
    """Several observers as one, told in their order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""
        for observer in self._observers:
            observer.on_arrival(turn, now)

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """A token is on its way to the client of each of these turns."""
        for observer in self._observers:
            observer.on_tokens(turns, now)

    def on_end(self, end: End, now: float) -> None:
        """A turn ended."""
        for observer in self._observers:
            observer.on_end(end, now)

    def on_decision(self, decision: Decision, now: float) -> None:
        """The coordinator decided something, or tells what became of it."""
        for observer in self._observers:
            observer.on_decision(decision, now)

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Pages left a worker."""
        for observer in self._observers:
            observer.on_moved(sender, to, num_bytes)

    def on_steps(self, steps: StepsTimed) -> None:
        """A worker tells how long its last steps took."""
        for observer in self._observers:
            observer.on_steps(steps)
