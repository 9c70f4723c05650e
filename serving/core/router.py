"""What does the routing policy get to see of a turn, its owner and the prefill workers?

Turns the coordinator's books into views, asks the policy, and translates its answer into what a
worker is told. Changes nothing. Workers that do both are prefill workers too, for each other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import NamedTuple

import numpy as np

from serving.core.booked import NOTHING, Work
from serving.core.fleet import Fleet, WorkerRecord
from serving.core.live_turn import LiveTurn
from serving.core.rules import CoordinatorRules
from serving.costs.costs import Costs
from serving.messages import Detail, Role, WorkerId
from serving.policy.evict import fetch_beats_compute
from serving.policy.route import History, Local, Option, Remote, RouteContext
from serving.policy.views import NOBODY, OwnerView, PrefillView, ResidentsView, TurnView
from serving.request import TurnId

MOST_PEERS = 4
"""Workers with rows of their own that are looked at, those with the fewest (ours: in a large fleet
to look at their rows would be most of a decision)."""


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a turn is prefilled: `prefill` None is its owner; `work` is for that worker's books.

    `waits`: whether that worker lets it wait for memory.
    """

    prefill: WorkerId | None
    waits: bool
    pull: bool
    reuse: bool
    reason: str
    work: Work
    predicted_ttft_s: float | None
    details: Mapping[str, Detail]


class _Cached(NamedTuple):
    """Leading tokens of a prompt that workers hold, and how many of those in host memory alone."""

    lens: Mapping[WorkerId, int]
    on_host: Mapping[WorkerId, int]


class Router:
    """Asks the routing policy."""

    def __init__(
        self,
        rules: CoordinatorRules,
        costs: Mapping[Role, Costs],
        fleet: Fleet,
        turns: Mapping[TurnId, LiveTurn],
    ) -> None:
        """Read `fleet` and `turns`, which belong to the coordinator; `costs` by role."""
        self._rules = rules
        self._costs = costs
        self._fleet = fleet
        self._turns = turns

    def route(self, live: LiveTurn, owner: WorkerId, now: float, arrival_rate: float) -> Routed:
        """Decide who prefills a turn whose owner is known."""
        rules, record = self._rules, self._fleet.workers[owner]
        context = RouteContext(self._costs[record.role], rules.route_config, rules.table)
        turn = self._turn_view(live, now, arrival_rate)
        lens = self._fleet.pages.cached_lens(live.names)
        cached = _Cached(lens, self._fleet.pages.on_host_lens(live.names, lens))
        owner_view = self._owner_view(record, live, cached, now)
        # Whoever was refused by a peer stays with its owner.
        peers = [] if live.task.attempt else self._peers(len(live.tokens), owner)
        able = [*self._fleet.prefillers(), *(peer for peer in peers if not peer.decoding)]
        prefills = self._prefill_views(able, live, cached, now)
        decision = rules.route(turn, owner_view, prefills, context)
        # One with rows may do it where that saves a target, and only there (policy/foretoken); and
        # only at once: a prompt that waits there holds memory of two workers (LOG.md).
        if any(option.missed for option in decision.options[:1]) and (busy := _busy(peers)):
            prefills = [*prefills, *self._prefill_views(busy, live, cached, now)]
            decision = rules.route(turn, owner_view, prefills, context)
        return self._routed(decision, live, owner_view, {view.worker: view for view in prefills})

    def _routed(
        self,
        decision: Local | Remote,
        live: LiveTurn,
        owner: OwnerView,
        prefills: Mapping[WorkerId, PrefillView],
    ) -> Routed:
        prefill, pull, reuse, waits = None, False, True, True
        cached_len, fetch_s = owner.cached_len, owner.fetch_s
        costs = self._costs[Role.BOTH]
        if isinstance(decision, Remote):
            prefill, reuse = decision.worker, decision.reuse
            # Views count full pages. What the owner holds of one page more is fetched too, unless
            # the policy would rather compute than fetch.
            pull = reuse and not (decision.history is History.RECOMPUTE and owner.cached_len)
            view = prefills[prefill]
            cached_len, fetch_s = (view.cached_len, view.fetch_s) if reuse else (0, 0.0)
            cached_len = max(cached_len, owner.cached_len) if pull else cached_len
            role = self._fleet.workers[prefill].role
            costs, waits = self._costs[role], role is Role.PREFILL
        new_len = max(1, len(live.tokens) - cached_len)
        best = decision.options[0] if decision.options else None
        return Routed(
            prefill=prefill,
            waits=waits,
            pull=pull,
            reuse=reuse,
            reason=str(decision.reason),
            work=Work(new_len, fetch_s + costs.prefill(new_len, cached_len).seconds),
            predicted_ttft_s=None if best is None else best.ttft_s,
            details={
                "prompt_len": len(live.tokens),
                "cached_len": cached_len,
                "fetch_s": fetch_s,
                "history": None if isinstance(decision, Local) else str(decision.history),
                "options": [_option(option) for option in decision.options],
            },
        )

    def _turn_view(self, live: LiveTurn, now: float, arrival_rate: float) -> TurnView:
        return TurnView(
            prompt_len=len(live.tokens),
            number=live.session.turns - 1,
            waited_s=now - live.arrived,
            max_new_len=live.max_new_len,
            ttft_s=live.slo.ttft_s,
            tpot_s=live.slo.tpot_s,
            remaining=live.curve,
            arrival_rate=arrival_rate,
        )

    def _owner_view(
        self, record: WorkerRecord, live: LiveTurn, cached: _Cached, now: float
    ) -> OwnerView:
        cached_len, fetch_s = self._found(record, live, cached)
        pages, queued = record.capacity // self._fleet.page_size, self._before(live, record, now)
        available = record.available_pages
        return OwnerView(
            worker=record.id,
            cached_len=cached_len,
            fetch_s=fetch_s,
            rows=len(record.decoding),
            max_rows=self._rules.max_rows,
            kv_tokens=record.kv_tokens,
            queued_s=queued.seconds,
            queued_len=queued.tokens,
            pages_available=pages if available is None else available,
            pages_total=pages,
            page_size=self._fleet.page_size,
            chunk_len=self._rules.chunk_len,
            itl_s=record.itl.mean(now),
            residents=self._residents(record),
        )

    def _residents(self, record: WorkerRecord) -> ResidentsView:
        if not record.decoding:
            return NOBODY
        rows = [self._turns[turn] for turn in record.decoding]
        tpots = [row.slo.tpot_s for row in rows]
        return ResidentsView(
            expected_len=np.array([row.expected_left for row in rows], np.float64),
            tpot_s=np.array([nan if tpot is None else tpot for tpot in tpots], np.float64),
            gaps=np.array([max(0, row.replied - 1) for row in rows], np.float64),
            gaps_s=np.array([row.gaps_s for row in rows], np.float64),
        )

    def _prefill_views(
        self,
        records: Sequence[WorkerRecord],
        live: LiveTurn,
        cached: _Cached,
        now: float,
    ) -> list[PrefillView]:
        chunk_len, link = self._rules.chunk_len, self._rules.link
        queued = [self._before(live, record, now) for record in records]
        found = [self._found(record, live, cached) for record in records]
        return [
            PrefillView(
                worker=record.id,
                cached_len=cached_len,
                fetch_s=fetch_s,
                queued_s=before.seconds,
                queued_len=before.tokens,
                chunk_len=chunk_len,
                rows=len(record.decoding),
                kv_tokens=record.kv_tokens,
                residents=self._residents(record) if record.decoding else NOBODY,
                turns=len(record.booked),
                ttft_s=record.ttft.mean(now),
                link=link,
            )
            for record, before, (cached_len, fetch_s) in zip(records, queued, found, strict=True)
        ]

    def _found(self, record: WorkerRecord, live: LiveTurn, cached: _Cached) -> tuple[int, float]:
        """Count the leading tokens that a worker need not compute, and time their fetch.

        What is in host memory is fetched only if that beats computing it.
        """
        cached_len, host_len = cached.lens.get(record.id, 0), cached.on_host.get(record.id, 0)
        if not host_len:
            return cached_len, 0.0
        costs, pool_len = self._costs[record.role], cached_len - host_len
        fetch_s = self._rules.host_link.seconds(host_len * costs.kv_bytes_per_token)
        compute_s = costs.prefill(host_len, pool_len).seconds
        if fetch_beats_compute(fetch_s=fetch_s, compute_s=compute_s):
            return cached_len, fetch_s
        return pool_len, 0.0

    def concerned_by(self, prompt_len: int, owner: WorkerId) -> list[WorkerId]:
        """Name the workers beside the owner whose rows may count for where a turn is prefilled."""
        return [peer.id for peer in _busy(self._peers(prompt_len, owner))]

    def _peers(self, prompt_len: int, owner: WorkerId) -> list[WorkerRecord]:
        """List the workers that have room for a prompt at once: it does not wait there."""
        if not self._rules.peers:
            return []
        return [peer for peer in self._fleet.peers(owner) if self._room(peer) >= prompt_len]

    def _room(self, record: WorkerRecord) -> int:
        """Count the tokens that fit beside what a worker holds; all of them before it reports."""
        available = record.available_pages
        return record.capacity if available is None else available * self._fleet.page_size

    def _before(self, live: LiveTurn, record: WorkerRecord, now: float) -> Work:
        """Return what a worker prefills before this turn; a reply under way goes first."""
        booked = record.booked
        if live.replied:
            return NOTHING
        return booked.before(live.due, now) if self._rules.late_waits else booked.total


def _busy(peers: Sequence[WorkerRecord]) -> list[WorkerRecord]:
    """List those with rows of their own that are looked at."""
    busy = [peer for peer in peers if peer.decoding and not peer.booked]
    return sorted(busy, key=lambda peer: (len(peer.decoding), peer.id))[:MOST_PEERS]


def _option(option: Option) -> dict[str, Detail]:
    return {
        "choice": option.choice,
        "history": None if option.history is None else str(option.history),
        "ttft_s": option.ttft_s,
        "harm": option.harm,
        "moved_bytes": option.moved_bytes,
        "missed": option.missed,
        "score": option.score,
    }
