"""What do state machines decide by in a test? Rules with costs that a person can compute."""

from collections.abc import Mapping, Sequence

from serving.core.queue_order import QueueOrder
from serving.core.rules import BatcherRules, CoordinatorRules
from serving.costs.correction import LEAST, Corrected, Correction, step_bucket
from serving.costs.costs import Link
from serving.forecast.returns import ReturnPrior
from serving.messages import Role
from serving.policy.aside import AsideConfig
from serving.policy.order import ORDER_POLICIES
from serving.policy.place import PLACE_POLICIES
from serving.policy.rebalance import REBALANCE_POLICIES
from serving.policy.rebalance_config import RebalanceConfig
from serving.policy.roles import ROLES_POLICIES, RolesConfig
from serving.policy.route import (
    LOCAL,
    History,
    Local,
    Option,
    Remote,
    RouteConfig,
    RouteContext,
    RoutePolicy,
    RouteReason,
)
from serving.policy.routes import ROUTE_POLICIES
from serving.policy.views import OwnerView, PrefillView, TurnView
from serving.request import Slo
from tests.support.fake_costs import LinearCosts

COSTS = LinearCosts(base_s=0.001, new_s=0.0001, row_s=0.0001, kv_s=0.00001, kv_bytes_per_token=4)
LINK = Link(latency_s=0.0001, bytes_per_s=1e6)
NO_TARGETS = Slo(None, None)
HASTY = AsideConfig(
    ask_from=1.0,
    back_before_s=0.002,
    least_spare_s=0.001,
    stay_s=0.005,
    again=10.0,
    counted_left=0.5,
    longer=1.0,
)
"""Rows stand aside at once, in deployments that live for fractions of a second."""


def corrected(ratios: Mapping[int, float]) -> Corrected:
    """Costs as they are once prefills of these many tokens have taken so many times as long."""
    correction = Correction()
    for new_len, ratio in ratios.items():
        for _ in range(LEAST):
            correction.observe(step_bucket(0, new_len), 1.0, ratio)
    return Corrected(COSTS, correction)


def batcher_rules(
    *,
    order: str = "arrival",
    order_window: int = 3,
    reserve_quantile: float = 0.9,
    wait_for_pages: bool = True,
    keep_pace: bool = False,
    stand_aside: AsideConfig | None = None,
    max_passes: int = 4,
) -> BatcherRules:
    """First come, first served, unless another order is asked for."""
    return BatcherRules(
        costs=COSTS,
        reserve_quantile=reserve_quantile,
        wait_for_pages=wait_for_pages,
        keep_pace=keep_pace,
        stand_aside=stand_aside,
        order=QueueOrder(ORDER_POLICIES[order], order_window, max_passes),
        min_chunk_tokens=1,
        return_horizon_s=600.0,
        returns=ReturnPrior(returns=0.5, median_s=30.0, weight=10.0),
        returns_half_life=100.0,
        host_link=LINK,
    )


def to_a_peer(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Let anybody but the owner prefill; always late, so that workers with rows are asked too."""
    options = (Option(LOCAL, None, 1.0, 0.0, 0, missed=1, score=1.0),)
    if not prefills:
        return Local(RouteReason.COLOCATED, options)
    to = prefills[turn.prompt_len % len(prefills)].worker
    return Remote(to, History.PULL, reuse=True, reason=RouteReason.SAVES_TARGET, options=options)


ROUTES: dict[str, RoutePolicy] = {**ROUTE_POLICIES, "to-a-peer": to_a_peer}


def coordinator_rules(
    *,
    route: str = "pd-delta",
    rebalance: str = "none",
    rebalance_every_s: float = 0.05,
    roles: str = "none",
    late_waits: bool = False,
    peers: bool = False,
    slo: Slo = NO_TARGETS,
) -> CoordinatorRules:
    """The plain rules: prefill remotely where that is possible, leave rows where they are.

    The thresholds of `ppd` and `threshold` are such that short prompts lie on both sides of them,
    and roles change at once.
    """
    return CoordinatorRules(
        place=PLACE_POLICIES["load"],
        route=ROUTES[route],
        route_config=RouteConfig(
            min_chunk_len=1, ppd_bypass_len=6, threshold_len=12, threshold_prefill_busy=1.0
        ),
        table=None,
        rebalance=REBALANCE_POLICIES[rebalance],
        rebalance_config=RebalanceConfig(horizon_steps=64.0, max_moves=2),
        rebalance_every_s=rebalance_every_s,
        cool_down_s=rebalance_every_s,
        roles=ROLES_POLICIES[roles],
        roles_config=RolesConfig(
            wait_high=0.02, wait_low=0.01, load_high=0.3, load_low=0.2, min_dwell_s=0.01
        ),
        costs=dict.fromkeys(Role, COSTS),
        link=LINK,
        host_link=LINK,
        slo=slo,
        window_s=10.0,
        chunk_len=8,
        max_rows=4,
        late_waits=late_waits,
        peers=peers,
    )
