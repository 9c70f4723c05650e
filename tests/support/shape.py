"""How large is the deployment of a test? Small numbers, so that every limit is met soon."""

from dataclasses import dataclass, replace
from typing import Any

from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.limits import BatcherLimits
from serving.core.rules import CoordinatorLimits
from serving.core.sessions import Sessions
from serving.messages import Role, WorkerId
from serving.policy.aside import AsideConfig
from serving.policy.order import ORDER_POLICIES
from serving.request import Slo
from tests.support.rules import batcher_rules, coordinator_rules
from tests.support.sharp_lengths import SharpLengths


@dataclass(frozen=True)
class Shape:
    """The sizes and rules of a deployment. Replies are forecast to have `reserve_tokens`.

    With `tick_rounds` every clock ticks, and workers report, after so many rounds of work.
    """

    prefill_workers: int = 0
    decode_workers: int = 1
    page_size: int = 4
    num_pages: int = 33
    prefill_pages: int = 33
    max_model_len: int = 64
    max_rows: int = 4
    chunk_tokens: int = 8
    chunk_rows: int = 4
    reserve_tokens: int = 8
    depth: int = 2
    max_queue_size: int = 1000
    queue_timeout_s: float | None = None
    max_attempts: int = 3
    max_sessions: int = 100
    session_ttl_s: float = 600.0
    transfer_timeout_s: float = 30.0
    move_pages: int = 2
    host_pages: int = 0
    order: str = "arrival"
    order_window: int = 3
    keep_pace: bool = False
    stand_aside: AsideConfig | None = None
    peers: bool = False
    route: str = "pd-delta"
    rebalance: str = "none"
    rebalance_every_s: float = 0.05
    roles: str = "none"
    tick_rounds: int | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None

    def limits(self, role: Role) -> BatcherLimits:
        return BatcherLimits(
            num_pages=self.prefill_pages if role is Role.PREFILL else self.num_pages,
            page_size=self.page_size,
            max_model_len=self.max_model_len,
            max_rows=self.max_rows,
            max_chunk_tokens=self.chunk_tokens,
            max_chunk_rows=self.chunk_rows,
            transfer_timeout_s=self.transfer_timeout_s,
            move_pages=self.move_pages,
            host_pages=self.host_pages,
        )

    def batcher(self, worker: WorkerId, role: Role) -> Batcher:
        rules = batcher_rules(
            order=self.order,
            order_window=self.order_window,
            keep_pace=self.keep_pace,
            stand_aside=self.stand_aside,
        )
        return Batcher(worker, self.limits(role), rules)

    def coordinator(self, **rules: Any) -> Coordinator:
        """A coordinator; `rules` override single ones."""
        limits = CoordinatorLimits(
            max_model_len=self.max_model_len,
            page_size=self.page_size,
            max_queue_size=self.max_queue_size,
            queue_timeout_s=self.queue_timeout_s,
            max_attempts=self.max_attempts,
            move_timeout_s=2 * self.transfer_timeout_s,
        )
        sessions = Sessions(
            max_sessions=self.max_sessions, ttl_s=self.session_ttl_s, page_size=self.page_size
        )
        named = coordinator_rules(
            route=self.route,
            rebalance=self.rebalance,
            rebalance_every_s=self.rebalance_every_s,
            roles=self.roles,
            late_waits=ORDER_POLICIES[self.order].past_late,
            peers=self.peers,
            slo=Slo(self.ttft_s, self.tpot_s),
        )
        own = replace(named, **rules)
        return Coordinator(limits, own, sessions, SharpLengths(self.reserve_tokens))
