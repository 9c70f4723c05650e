"""Which idle session's pages go first? What sessions left behind, and how likely they return.

A session is idle at a worker from the release of its pages to its next admission there; one that
has moved to another worker is not awaited, and what it left behind goes first. Whether and when
sessions return is learned from that (forecast/returns); their pages are evicted by the value of
keeping them (policy/evict).
"""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from serving.core.cached_pages import Group
from serving.core.rules import BatcherRules
from serving.costs.costs import Costs
from serving.forecast.returns import ReturnModel
from serving.policy.evict import evict, page_loss_s
from serving.policy.views import IdleView

MOST_GONE = 1000
"""Sessions without a page left that may be remembered (ours: few bytes, and seldom looked for)."""


class _Left(NamedTuple):
    """When a session let go of its pages, and how many turns it had had by then."""

    at: float
    turns: int


class IdleSessions:
    """The only writer of one worker's idle sessions. `now` is set by whoever evicts.

    `page_loss_s`: what evicting a page is expected to cost, in seconds, as of the last ranking.
    """

    def __init__(self, rules: BatcherRules, costs: Costs, page_size: int) -> None:
        """Start with none. `costs` say what computing a session's KV again would take."""
        self._rules = rules
        self._costs = costs
        self._page_size = page_size
        self._returns = ReturnModel(prior=rules.returns, half_life=rules.returns_half_life)
        self._left: dict[Group, _Left] = {}
        self._moved: set[Group] = set()
        self.now = 0.0
        self.page_loss_s = 0.0

    def __len__(self) -> int:
        """Count the sessions that are idle."""
        return len(self._left)

    def left(self, session: Group, turns: int) -> None:
        """A session has let go of its pages; it has had so many turns, of which some may go on."""
        had = self._left.get(session)
        self._left[session] = _Left(self.now, turns if had is None else max(turns, had.turns))

    def moved(self, session: Group) -> None:
        """A session has let go of its pages and goes on at another worker: it is not awaited."""
        self._left.pop(session, None)
        self._moved.add(session)

    def returned(self, session: Group) -> None:
        """A session has come back."""
        self._moved.discard(session)
        left = self._left.pop(session, None)
        if left is not None:
            self._returns.observe(self.now - left.at, True, left.turns)

    def rank(self, pages_of: Mapping[Group, int], on_host: Collection[Group]) -> Iterable[Group]:
        """Order the sessions that hold cached pages, the one to evict first at the front.

        Sessions with neither these nor pages `on_host` are not awaited any more.
        """
        self._forget_all_but(pages_of, on_host)
        sessions = list(pages_of)
        views = [self._view(session, pages_of[session]) for session in sessions]
        self.page_loss_s = page_loss_s(views)
        return [sessions[i] for i in evict(views)]

    def tidy(self, holding: Collection[Group | None], on_host: Collection[Group]) -> None:
        """Forget sessions without pages if there are many: until a pool is full nobody ranks."""
        if len(self._left) + len(self._moved) > 2 * (len(holding) + len(on_host)) + MOST_GONE:
            self._forget_all_but(holding, on_host)

    def _forget_all_but(
        self, holding: Collection[Group | None], on_host: Collection[Group]
    ) -> None:
        """A session with no page left was evicted: it has not returned until now."""
        for session in [s for s in self._left if s not in holding and s not in on_host]:
            left = self._left.pop(session)
            self._returns.observe(self.now - left.at, False, left.turns)
        self._moved = {s for s in self._moved if s in holding or s in on_host}

    def _view(self, session: Group, pages: int) -> IdleView:
        returns = rate = 0.0
        if session not in self._moved:
            # One that is here again has been of use just now.
            at, turns = self._left.get(session, _Left(self.now, 1))
            idle_s = self.now - at
            returns = self._returns.chance(idle_s, self._rules.return_horizon_s, turns)
            rate = self._returns.rate(idle_s, turns)
        restore_s = self._costs.prefill(pages * self._page_size, 0).seconds
        return IdleView(pages=pages, restore_s=restore_s, returns=returns, rate=rate)
