"""Which options does a turn have, what does each cost, and which of them can be the best?

Prices them for every policy alike, so that the decision logs of two policies can be compared, also
where a policy did not choose by price. Decides nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto
from operator import attrgetter
from typing import NamedTuple

from serving.messages import WorkerId
from serving.policy.interference import broken, delays, harm
from serving.policy.prefill_times import PrefillTimes
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
from serving.policy.views import OwnerView, PrefillView, TurnView


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
        owner, steps = self.times.owner, self.times.local()
        ttft_s, harmed, missed = owner.queued_s + steps.total_s, 0.0, 0
        if owner.rows:
            decode_s = self.times.decode_s()
            delay_s = delays(owner, steps, decode_s)
            harmed = harm(owner.residents, delay_s, decode_s)
            missed = broken(owner.residents, delay_s, decode_s)
        return Price(LOCAL, None, ttft_s, harmed, 0, missed + self._is_late(ttft_s))

    def on(self, worker: PrefillView, pulling: Pulling) -> list[Price]:
        """Price the prefill on one worker, with each history that makes sense there.

        Recomputing what a pull would bring is no option where the pull ends before the queue does.
        """
        if worker.cached_len >= self.times.owner.cached_len:
            history = History.CACHED if worker.cached_len else History.RECOMPUTE
            return [self._sent(worker, history, None)]
        if pulling is Pulling.NEVER:
            return [self._sent(worker, History.RECOMPUTE, None)]
        pull_s = self.times.transfer_s(self.times.pull_len(worker), worker)
        pulled = self._sent(worker, History.PULL, pull_s)
        if pulling is Pulling.ALWAYS or pull_s <= worker.queued_s:
            return [pulled]
        return [pulled, self._sent(worker, History.RECOMPUTE, None)]

    def remotes(self, pulling: Pulling) -> list[Price]:
        """Price every prefill worker that can be the fastest, by ascending queue.

        Not even looked at are those whose queue alone takes longer than another's whole prefill.
        """
        prices: list[Price] = []
        fastest = float("inf")
        for worker in shortlist(self.prefills):
            if worker.queued_s > fastest:
                break
            for price in self.on(worker, pulling):
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
        w_ttft = config.w_ttft / unit

        def score(price: Price) -> float:
            relative = w_ttft * price.ttft_s + config.w_tpot * price.harm
            return relative + config.w_miss * price.missed

        options = [Option(*price, score=score(price)) for price in priced]
        return sorted(options, key=lambda option: (option.score, option.moved_bytes))

    def stay(self, reason: RouteReason) -> Local:
        """Return local prefill as the only option that was priced."""
        return Local(reason, tuple(self.ranked([self.local()])))

    def leave(self, reason: RouteReason, pulling: Pulling) -> Remote:
        """Return the fastest remote prefill, out of those that were priced."""
        return sent_to(self.ranked(self.remotes(pulling)), reason)

    def _sent(self, worker: PrefillView, history: History, pull_s: float | None) -> Price:
        sent = self.times.remote(worker, pull_s)
        late = self._is_late(sent.ttft_s)
        return Price(worker.worker, history, sent.ttft_s, 0.0, sent.moved_bytes, int(late))

    def _is_late(self, ttft_s: float) -> bool:
        """Would a first token in `ttft_s` from now miss the turn's target?"""
        target_s = self.turn.ttft_s
        if target_s is None:
            return False
        return self.turn.waited_s + ttft_s > target_s * (1 - self._config.late_margin)


def sent_to(options: Sequence[Option], reason: RouteReason, *, reuse: bool = True) -> Remote:
    """Return the first option, a remote one, as the decision."""
    first = options[0]
    if first.history is None:
        raise ValueError("the owner's own prefill is not remote")
    return Remote(WorkerId(first.choice), first.history, reuse, reason, tuple(options))


_WORKER, _CACHED, _QUEUED = map(attrgetter, ("worker", "cached_len", "queued_s"))


def shortlist(prefills: Iterable[PrefillView]) -> Iterator[PrefillView]:
    """Leave out the workers that another one beats whatever the costs; by ascending queue.

    One of two workers alike in link and chunk is beaten if it has no shorter queue and holds no
    more of the prompt; of equals the smaller id stays. Costs are taken to be such that to hold more
    of a prompt never makes its prefill longer.
    """
    # Three stable sorts by one field each are faster than one by three: in a large fleet this is
    # most of a decision.
    ordered = sorted(prefills, key=_WORKER)
    ordered.sort(key=_CACHED, reverse=True)
    ordered.sort(key=_QUEUED)
    most_held: dict[tuple[int, float, float], int] = {}
    link, chunk_len, group, held = None, 0, (0, 0.0, 0.0), -1
    for worker in ordered:
        if worker.link is not link or worker.chunk_len != chunk_len:
            link, chunk_len = worker.link, worker.chunk_len
            group = (chunk_len, link.latency_s, link.bytes_per_s)
            held = most_held.get(group, -1)
        if worker.cached_len > held:
            held = most_held[group] = worker.cached_len
            yield worker
