"""How does a deployment decide? Its limits, and its policies with what they are told."""

from collections.abc import Mapping
from dataclasses import dataclass

from predictor.reading import Reader
from serving.core.queue_order import QueueOrder
from serving.costs.costs import Costs, Link
from serving.forecast.returns import ReturnPrior
from serving.messages import Role
from serving.policy.aside import AsideConfig
from serving.policy.place import PlacePolicy
from serving.policy.ppd_table import PpdTable
from serving.policy.rebalance import RebalancePolicy
from serving.policy.rebalance_config import RebalanceConfig
from serving.policy.roles import RolesConfig, RolesPolicy
from serving.policy.route import RouteConfig, RoutePolicy
from serving.request import Slo


@dataclass(frozen=True, slots=True)
class CoordinatorLimits:
    """The fixed limits of a deployment, in turns, tokens and seconds."""

    max_model_len: int
    page_size: int
    max_queue_size: int
    queue_timeout_s: float | None
    max_attempts: int
    move_timeout_s: float


@dataclass(frozen=True, slots=True)
class BatcherRules:
    """What one worker's batcher decides by. `costs` is its latency model, before corrections.

    Pages are set aside for the `reserve_quantile` of what all rows together will need. Where they
    run out all the same, rows may wait for some if `wait_for_pages`. If `keep_pace` nobody is
    admitted who makes steps longer than most rows may take. By `stand_aside` rows give their
    pages to turns that would miss their first token, and come back; None: they do not. `order`
    says which queued task is started next. `min_chunk_tokens` of prefill ride in every step,
    however late its rows are. An idle session counts as returning if it may within
    `return_horizon_s`; `returns` is what is believed of that before any has, worth forgetting half
    of after `returns_half_life` gaps. `host_link` leads to host memory and back. `reader` takes the
    readings of a length head, every `read_every` steps; None where there is no head.
    """

    costs: Costs
    reserve_quantile: float
    wait_for_pages: bool
    keep_pace: bool
    stand_aside: AsideConfig | None
    order: QueueOrder
    min_chunk_tokens: int
    return_horizon_s: float
    returns: ReturnPrior
    returns_half_life: float
    host_link: Link
    reader: Reader | None = None
    read_every: int = 1


@dataclass(frozen=True, slots=True)
class CoordinatorRules:
    """What the coordinator decides by. `slo` counts where a client sets no target of its own.

    `costs` are the latency models by role, `link` the way between any two workers, `host_link` that
    between a worker and host memory. `window_s` is
    the span of the means that policies look at, `rebalance_every_s` the time between two looks at
    the load, `cool_down_s` the time for which a moved row stays. `chunk_len` and `max_rows` are
    the largest step's. `late_waits`: workers let late prompts wait for those in time. `peers`:
    those that do both prefill for each other.
    """

    place: PlacePolicy
    route: RoutePolicy
    route_config: RouteConfig
    table: PpdTable | None
    rebalance: RebalancePolicy
    rebalance_config: RebalanceConfig
    rebalance_every_s: float
    cool_down_s: float
    roles: RolesPolicy
    roles_config: RolesConfig
    costs: Mapping[Role, Costs]
    link: Link
    host_link: Link
    slo: Slo
    window_s: float
    chunk_len: int
    max_rows: int
    late_waits: bool
    peers: bool
