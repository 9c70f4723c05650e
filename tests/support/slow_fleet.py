"""A fleet whose links take their time: one payload of a way comes after the other.

Everything else is quick. When nothing but pages is left to wait for, time goes on to the next
arrival, and every clock ticks just before it.
"""

from collections.abc import Callable
from typing import Any

from serving.messages import PagesReady, TransferId
from tests.support.channels import Way
from tests.support.fake_fleet import FakeFleet
from tests.support.shape import Shape


class SlowFleet(FakeFleet):
    """`lasts_s` says how long the next payload of a way takes; None: it never comes."""

    def __init__(
        self,
        shape: Shape,
        *,
        lasts_s: Callable[[PagesReady], float | None],
        seed: int = 0,
        **rules: Any,
    ) -> None:
        super().__init__(shape, seed=seed, **rules)
        self.arrivals: list[tuple[float, TransferId]] = []
        self._lasts_s = lasts_s
        self._due: dict[Way, float] = {}  # of ways that carry something
        self._come: Way | None = None
        self.run()  # the workers join

    def run_slowly(self) -> None:
        """Go on until nothing is under way any more."""
        self.run()
        while due := self._next_arrivals():
            way = min(due, key=due.__getitem__)
            if (left := due[way] - self.now) > 0:
                self.advance(left)
                self.run()
            if self._carries(way):  # unless its worker is lost meanwhile
                self._let_come(way)
            self.run()

    def _choices(self) -> list[tuple[Callable[..., None], *tuple[str, ...]]]:
        return [c for c in super()._choices() if c[0] != self._arrive or c[1:] == self._come]

    def _carries(self, way: Way) -> bool:
        return any(isinstance(message, PagesReady) for message in self.channels.get(way, ()))

    def _next_arrivals(self) -> dict[Way, float]:
        """Say when the first payload of each way comes; what never comes is let go of."""
        for way in [way for way in self.channels if self._carries(way)]:
            while way not in self._due and self._carries(way):
                first = next(m for m in self.channels[way] if isinstance(m, PagesReady))
                lasts_s = self._lasts_s(first)
                if lasts_s is None:
                    self.channels.take(way, pages=True)
                    self.connector.drop(first.transfer)
                else:
                    self._due[way] = self.now + lasts_s
        self._due = {way: due for way, due in self._due.items() if self._carries(way)}
        return self._due

    def _let_come(self, way: Way) -> None:
        first = next(m for m in self.channels[way] if isinstance(m, PagesReady))
        self.arrivals.append((self.now, first.transfer))
        del self._due[way]
        self._come = way
        try:
            self._arrive(*way)
        finally:
            self._come = None
