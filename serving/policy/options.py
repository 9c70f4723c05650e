"""Which options does a turn have, what does each cost, and which of them can be the best?

Prices them for every policy alike, so that the decision logs of two policies can be compared, also
where a policy did not choose by price. Decides nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from itertools import chain
from math import inf
from operator import attrgetter
from typing import NamedTuple

from serving.messages import WorkerId
from serving.policy.interference import NO_TOLL, Toll, delays, toll
from serving.policy.prefill_times import PrefillTimes, Steps
from serving.policy.route import (
    LOCAL,
    History,
    Local,
    Option,
    Remote,
    RouteConfig,
    RouteContext,
    RouteReason,
)
from serving.policy.views import OwnerView, PlaceView, PrefillView, TurnView


class Pulling(Enum):
    """May a prefill worker fetch history that it lacks from the owner?"""

    CHEAPEST = auto()
    ALWAYS = auto()
    NEVER = auto()


class Price(NamedTuple):
    """An option without its score: see `Option` for the fields."""

    choice: str
    history: History | None
    ttft_s: float
    harm: float
    moved_bytes: int
    missed: int


class Options:
    """The options of one turn."""

    def __init__(
        self,
        turn: TurnView,
        owner: OwnerView,
        prefills: Sequence[PrefillView],
        context: RouteContext,
    ) -> None:
        """Look at this turn, its owner and the prefill workers; nothing is priced yet."""
        self.turn = turn
        self.prefills = prefills
        self._config: RouteConfig = context.config
        self.times = PrefillTimes(turn, owner, context.costs, context.config.min_chunk_len)

    def local(self) -> Price:
        """Price the prefill on the owner."""
        owner = self.times.owner
        steps = self.times.local()
        ttft_s = owner.queued_s + owner.fetch_s + steps.total_s
        cost = self._toll(owner, steps)
        return Price(LOCAL, None, ttft_s, cost.harm, 0, cost.broken + self._is_late(ttft_s))

    def on(self, worker: PrefillView, pulling: Pulling) -> list[Price]:
        """Price the prefill on one worker, with each history that makes sense there.

        Recomputing what a pull would bring is no option where the pull ends before it could begin.
        """
        if worker.cached_len >= self.times.owner.cached_len:
            history = History.CACHED if worker.cached_len else History.RECOMPUTE
            return [self._sent(worker, history, None)]
        if pulling is Pulling.NEVER:
            return [self._sent(worker, History.RECOMPUTE, None)]
        pull_s = self.times.pull_s(worker)
        pulled = self._sent(worker, History.PULL, pull_s)
        if pulling is Pulling.ALWAYS or pull_s <= worker.start_s:
            return [pulled]
        return [pulled, self._sent(worker, History.RECOMPUTE, None)]

    def remotes(self, pulling: Pulling) -> list[Price]:
        """Price every prefill worker that can be the fastest, by ascending queue.

        Not even looked at are those whose queue alone takes longer than another's whole prefill
        where nobody is harmed by it.
        """
        prices: list[Price] = []
        fastest = inf
        for worker in shortlist(self.prefills):
            if worker.queued_s > fastest:
                break
            for price in self.on(worker, pulling):
                if not worker.rows:
                    fastest = min(fastest, price.ttft_s)
                prices.append(price)
        return prices

    def ranked(self, prices: Iterable[Price]) -> list[Option]:
        """Score options and sort them, best first; ties: fewer bytes moved, then as they came.

        TTFT is relative to the turn's target, or without one to the fastest of the options, as PPD
        takes its gains relative to what was measured (PPD 2.3). The time that the turn has waited
        already is the same in all options, and so is its TPOT at the owner: neither is counted.
        """
        priced = list(prices)
        unit = self.turn.ttft_s or min(price.ttft_s for price in priced)
        config = self._config
        w_ttft, w_tpot, w_miss = config.w_ttft / unit, config.w_tpot, config.w_miss
        options = [
            Option(
                *price,
                score=w_ttft * price.ttft_s + w_tpot * price.harm + w_miss * price.missed,
            )
            for price in priced
        ]
        options.sort(key=_BEST_ORDER)
        return options

    def stay(self, reason: RouteReason, remotes: Sequence[Price] = ()) -> Local:
        """Return local prefill, beside the remote ones that it was weighed against, if any."""
        ranked = self.ranked([self.local(), *remotes])
        chosen = next(option for option in ranked if option.choice == LOCAL)
        return Local(reason, tuple(first(chosen, ranked)))

    def leave(self, reason: RouteReason, pulling: Pulling) -> Remote:
        """Return the fastest remote prefill, out of those that were priced."""
        return self.leave_for(self.remotes(pulling), reason)

    def leave_for(
        self, remotes: Sequence[Price], reason: RouteReason, local: Sequence[Price] = ()
    ) -> Remote:
        """Return the best of these, beside the local one if they were weighed against that."""
        ranked = self.ranked([*remotes, *local])
        chosen = next(option for option in ranked if option.choice != LOCAL)
        return sent_to(first(chosen, ranked), reason)

    def _sent(self, worker: PrefillView, history: History, pull_s: float | None) -> Price:
        sent = self.times.remote(worker, pull_s)
        cost, late = self._toll(worker, sent.steps), self._is_late(sent.ttft_s)
        missed = cost.broken + late
        return Price(worker.worker, history, sent.ttft_s, cost.harm, sent.moved_bytes, missed)

    def _toll(self, place: PlaceView, steps: Steps) -> Toll:
        """Price what the steps of a prefill cost the rows that decode beside it."""
        if not place.rows:
            return NO_TOLL
        decode_s = self.times.decode_s(place)
        return toll(place.residents, delays(place, steps, decode_s), decode_s)

    def _is_late(self, ttft_s: float) -> bool:
        """Would a first token in `ttft_s` from now miss the turn's target?"""
        target_s = self.turn.ttft_s
        if target_s is None:
            return False
        return self.turn.waited_s + ttft_s > target_s * (1 - self._config.late_margin)


def first(option: Option, options: Sequence[Option]) -> list[Option]:
    """Return the options with this one before the others."""
    return [option, *(other for other in options if other is not option)]


def sent_to(options: Sequence[Option], reason: RouteReason, *, reuse: bool = True) -> Remote:
    """Return the first option, a remote one, as the decision."""
    chosen = options[0]
    if chosen.history is None:
        raise ValueError("the owner's own prefill is not remote")
    return Remote(WorkerId(chosen.choice), chosen.history, reuse, reason, tuple(options))


_BEST_ORDER = attrgetter("score", "moved_bytes")
_QUEUE_ORDER = attrgetter("queued_s", "worker")


def shortlist(prefills: Iterable[PrefillView]) -> list[PrefillView]:
    """Leave out the workers that another one beats whatever the costs; by ascending queue.

    Those with rows of their own beat nobody and are not beaten: what that costs is yet unknown.

    One of two workers alike in link and chunk is beaten if it has no shorter queue, what it fetches
    included, and holds no more of the prompt; of equals the smaller id stays. Costs are taken to be
    such that to hold more of a prompt never makes its prefill longer.
    """
    groups: dict[tuple[int, float, float], dict[int, PrefillView]] = {}
    # One look at each worker, and a sort of the few that are left: in a large fleet this is most of
    # a decision. Neighbours mostly share their link.
    link, chunk_len, best = None, 0, dict[int, PrefillView]()
    busy: list[PrefillView] = []
    for worker in prefills:
        if worker.rows:
            busy.append(worker)
            continue
        if worker.link is not link or worker.chunk_len != chunk_len:
            link, chunk_len = worker.link, worker.chunk_len
            best = groups.setdefault((chunk_len, link.latency_s, link.bytes_per_s), {})
        other = best.get(worker.cached_len)
        if (
            other is None
            or worker.start_s < other.start_s
            or (worker.start_s == other.start_s and worker.worker < other.worker)
        ):
            best[worker.cached_len] = worker
    fronts = map(_unbeaten, groups.values())
    return sorted(chain(busy, *fronts), key=_QUEUE_ORDER)


def _unbeaten(best: dict[int, PrefillView]) -> Iterator[PrefillView]:
    """Yield those of one group whose queue is shorter than that of all that hold more."""
    shortest = inf
    for cached_len in sorted(best, reverse=True):
        worker = best[cached_len]
        if worker.start_s < shortest:
            shortest = worker.start_s
            yield worker
