"""Which rows does the rebalancing policy want moved? The coordinator's books as arrays.

Looks at an interval, and at once where a worker is short of pages. Changes nothing but its memory
of who was over-loaded.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import nan

import numpy as np

from serving.core.fleet import Fleet, WorkerRecord
from serving.core.live_turn import LiveTurn
from serving.core.rules import CoordinatorRules
from serving.costs.costs import Costs
from serving.forecast.survival import alive_on
from serving.messages import LoadReport, Role, WorkerId
from serving.policy.rebalance import current, overloaded, present
from serving.policy.views import RebalanceView
from serving.request import TurnId

GRID_POINTS = 24
"""Steps at which the future is looked at, geometrically spaced up to the horizon (ours)."""
LEAST_LEFT = 4.0
"""A row expected to end within so many tokens is over before it has moved (ours)."""


@dataclass(frozen=True, slots=True)
class WantedMove:
    """A turn whose row should go to `to`, and what that is predicted to gain."""

    turn: TurnId
    to: WorkerId
    reason: str
    gain_s: float


class Rebalancer:
    """Asks the rebalancing policy."""

    def __init__(
        self,
        rules: CoordinatorRules,
        costs: Mapping[Role, Costs],
        fleet: Fleet,
        turns: Mapping[TurnId, LiveTurn],
        page_size: int,
    ) -> None:
        """Read `fleet` and `turns`, which belong to the coordinator; `costs` by role."""
        self._page_size = page_size
        self._rules = rules
        self._costs = costs
        self._fleet = fleet
        self._turns = turns
        self._was_over: frozenset[WorkerId] = frozenset()
        self._short: set[WorkerId] = set()  # of pages, by their last reports
        self._looked_at = 0.0
        horizon = rules.rebalance_config.horizon_steps
        points = np.geomspace(1.0, max(2.0, horizon), GRID_POINTS - 1)
        self._grid = np.concatenate([[0.0], points])

    def observe(self, report: LoadReport) -> None:
        """Note whether a worker is short of pages: few of a large fleet are, or tell anything."""
        total = report.pages_used + report.pages_cached + report.pages_free
        left = report.pages_free + report.pages_cached
        if left < self._rules.rebalance_config.watermark * total:
            self._short.add(report.worker)
        else:
            self._short.discard(report.worker)

    def look(self, now: float) -> list[WantedMove]:
        """Return the moves wanted now; none before the interval is over, unless pages are short."""
        due = now - self._looked_at >= self._rules.rebalance_every_s
        if not (due or any(self._counts_as_short(worker) for worker in self._short)):
            return []
        workers = [w for w in self._fleet.workers.values() if _may_have_rows(w)]
        if len(workers) < 2:
            return []
        self._looked_at = now
        view, rows = self._view(workers, now)
        if view is None:
            self._was_over = frozenset()
            return []
        rules = self._rules
        moves = rules.rebalance(view, rules.rebalance_config)
        judged = present(view) if rules.rebalance is current else view
        self._was_over = overloaded(judged, rules.rebalance_config)
        return [
            WantedMove(rows[move.row].turn.id, move.to, move.reason, move.gain_s) for move in moves
        ]

    def _counts_as_short(self, worker: WorkerId) -> bool:
        """Whether one that told that pages are short is still there, and could be helped."""
        record = self._fleet.workers.get(worker)
        return record is not None and record.report is not None and _may_have_rows(record)

    def _view(
        self, workers: list[WorkerRecord], now: float
    ) -> tuple[RebalanceView | None, list[LiveTurn]]:
        rows = [self._turns[turn] for record in workers for turn in record.decoding]
        if not rows:
            return None, rows
        moving = [row for row in self._turns.values() if row.move is not None]
        sending = {row.owner for row in moving}
        to = {row.move.to for row in moving if row.move is not None}
        index = {record.id: i for i, record in enumerate(workers)}
        owner = [index[record.id] for record in workers for _ in record.decoding]
        curves = np.array([row.curve.alive for row in rows], np.float64)
        came = np.array([row.since_curve for row in rows], np.int64)
        # A curve of a running reply may go on beyond what its client asked for.
        most = np.array([row.max_new_len for row in rows], np.float64)[:, None]
        expected = self._expected()
        pinned = [w.booked.total.tokens + expected.get(w.id, 0) for w in workers]
        models = {role: costs.step_model() for role, costs in self._costs.items()}
        reports, page_size = [record.report for record in workers], self._page_size
        blank = [0 if r is None else r.pages_free * page_size for r in reports]
        evict_s = [0.0 if r is None else r.page_loss_s / page_size for r in reports]
        target_s = [self._target_s(record) if record.decoding else nan for record in workers]
        view = RebalanceView(
            workers=tuple(record.id for record in workers),
            step_models=tuple(models[record.role] for record in workers),
            capacity=np.array([record.capacity for record in workers], np.float64),
            pinned=np.array(pinned, np.float64),
            blank=np.array(blank, np.float64),
            evict_s=np.array(evict_s, np.float64),
            target_s=np.array(target_s, np.float64),
            may_send=np.array([w.id not in sending for w in workers], np.bool_),
            may_receive=np.array([w.takes_work and w.id not in to for w in workers], np.bool_),
            owner=np.array(owner, np.int64),
            kv_len=np.array([len(row.tokens) for row in rows], np.float64),
            alive=np.where(self._grid < most, alive_on(curves, came, self._grid), 0.0),
            movable=np.array([self._is_movable(row, now) for row in rows], np.bool_),
            grid=self._grid,
            link=self._rules.link,
            kv_bytes_per_token=self._costs[workers[0].role].kv_bytes_per_token,
            was_over=self._was_over,
        )
        return view, rows

    def _expected(self) -> Counter[WorkerId]:
        """Count the tokens that workers have room for, or wait to have, and that come from others.

        Of rows that move to them, and of prompts that are prefilled elsewhere.
        """
        expected: Counter[WorkerId] = Counter()
        for live in self._turns.values():
            if live.move is not None:
                expected[live.move.to] += len(live.tokens)
            if live.prefill is not None and live.owner is not None:
                expected[live.owner] += len(live.tokens)
        return expected

    def _target_s(self, record: WorkerRecord) -> float:
        targets = [self._turns[turn].slo.tpot_s for turn in record.decoding]
        return min((target for target in targets if target is not None), default=nan)

    def _is_movable(self, live: LiveTurn, now: float) -> bool:
        rested = now - live.moved_at >= self._rules.cool_down_s
        ending = live.finish is not None or live.expected_left < LEAST_LEFT
        return live.at_owner and live.move is None and rested and not ending


def _may_have_rows(record: WorkerRecord) -> bool:
    """Whether its rows count. One at rest would be the only under-loaded one, and takes nothing."""
    return record.decodes and not record.rests
