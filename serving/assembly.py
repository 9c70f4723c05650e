"""How do settings become what coordinator and batchers decide by? Names become policies.

The one place where a policy is looked up by its name, where the files that policies need are read,
and where workers get their names: for servers and for the simulator alike.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from predictor.reading import Reader
from serving.config import (
    BatchConfig,
    ConfigError,
    CostsConfig,
    MemoryConfig,
    MeshConfig,
    PolicyConfig,
    ScheduleConfig,
    ServerConfig,
    require,
)
from serving.core.limits import BatcherLimits
from serving.core.queue_order import QueueOrder
from serving.core.rules import BatcherRules, CoordinatorLimits, CoordinatorRules
from serving.core.sessions import Sessions
from serving.costs.costs import Costs, Link
from serving.costs.make import make_costs
from serving.costs.shape import ModelShape
from serving.forecast.histogram import LengthHistogram
from serving.forecast.returns import ReturnPrior
from serving.messages import Role, WorkerId
from serving.policy.aside import AsideConfig
from serving.policy.order import ORDER_POLICIES
from serving.policy.place import PLACE_POLICIES
from serving.policy.ppd_table import PpdTable
from serving.policy.rebalance import REBALANCE_POLICIES
from serving.policy.rebalance_config import RebalanceConfig
from serving.policy.roles import ROLES_POLICIES, RolesConfig, RolesPolicy
from serving.policy.route import RouteConfig, RoutePolicy
from serving.policy.routes import ALONE, ROUTE_POLICIES, SPLIT
from serving.request import Slo

T = TypeVar("T")
GIB = 2.0**30

PRIOR_WEIGHT, LENGTHS_REMEMBERED = 16.0, 2000.0
"""Replies that the assumed mean length counts as, and that the past counts as (ours)."""
RETURNS = ReturnPrior(returns=0.6, median_s=20.0, weight=16.0)
RETURNS_HALF_LIFE = 1000.0
"""What is believed of sessions before any has come back: chats, as people hold them (ours)."""
MAX_ATTEMPTS = 3
"""Failed transfers and lost workers of one turn after which it is given up: it may be what breaks
them. Preemptions do not count."""
WORKSPACE_SHARE = 0.1
"""Share of an accelerator's budget left to activations and compiled programs."""


def costs_by_role(config: ServerConfig, shape: ModelShape, device_kind: str) -> dict[Role, Costs]:
    """Make the latency model of each role; raises ConfigError for what does not fit."""
    mesh = config.mesh
    degrees = {
        Role.PREFILL: mesh.prefill_tp,
        Role.DECODE: mesh.decode_tp,
        Role.BOTH: mesh.decode_tp,
    }
    used = [Role.PREFILL, Role.DECODE] if mesh.prefill_workers else [Role.BOTH]
    costs = {
        role: make_costs(config.costs, shape, device_kind, degrees[role], role) for role in used
    }
    # A worker may take another role at run time; what is known of its kind has to do then.
    known = next(iter(reversed(costs.values())))
    return {role: costs.get(role, known) for role in Role}


def name_workers(config: MeshConfig) -> list[tuple[WorkerId, Role]]:
    """Name every worker, with its role, in the stable order that metrics and reports use."""
    decode_role = Role.DECODE if config.prefill_workers else Role.BOTH
    roles = [Role.PREFILL] * config.prefill_workers + [decode_role] * config.decode_workers
    numbers = [*range(config.prefill_workers), *range(config.decode_workers)]
    return [
        (WorkerId(f"{role.value}-{number}"), role)
        for role, number in zip(roles, numbers, strict=True)
    ]


def coordinator_limits(
    schedule: ScheduleConfig, *, max_model_len: int, page_size: int
) -> CoordinatorLimits:
    """Take the limits of a deployment from its settings."""
    return CoordinatorLimits(
        max_model_len=max_model_len,
        page_size=page_size,
        max_queue_size=schedule.max_queue_size,
        queue_timeout_s=schedule.queue_timeout_seconds or None,
        max_attempts=MAX_ATTEMPTS,
        move_timeout_s=2 * schedule.transfer_timeout_seconds,  # its source gives up first
    )


def batcher_limits(
    batch: BatchConfig,
    schedule: ScheduleConfig,
    memory: MemoryConfig,
    *,
    num_pages: int,
    max_model_len: int,
    page_bytes: int,
) -> BatcherLimits:
    """Take the limits of one worker from its settings; raises ConfigError for what is too small."""
    try:
        return BatcherLimits(
            num_pages=num_pages,
            page_size=memory.page_size,
            max_model_len=max_model_len,
            max_rows=batch.max_num_seqs,
            max_chunk_tokens=batch.max_num_batched_tokens,
            max_chunk_rows=batch.max_prefill_rows,
            transfer_timeout_s=schedule.transfer_timeout_seconds,
            move_pages=schedule.move_pages_per_step,
            host_pages=int(memory.host_kv_gib * 2**30) // page_bytes,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def remembered_sessions(schedule: ScheduleConfig, page_size: int) -> Sessions:
    """Make the empty table of sessions."""
    return Sessions(
        max_sessions=schedule.max_sessions,
        ttl_s=schedule.session_ttl_seconds,
        page_size=page_size,
    )


def kv_budget(memory_bytes: float, fraction: float, devices: int, weight_bytes: float) -> int:
    """Bytes of KV that accelerators of `memory_bytes` each have room for beside the weights.

    Of `fraction` of their memory; negative if the weights alone do not fit.
    """
    return int((memory_bytes * fraction * devices - weight_bytes) * (1 - WORKSPACE_SHARE))


def most_pages(memory_bytes: float, devices: int, weight_bytes: int, page_bytes: int) -> int:
    """Pages that accelerators of `memory_bytes` each can hold beside the weights at the very most.

    A number of pages that was asked for may be that many, whatever share of memory is to be used.
    """
    return max(0, int((memory_bytes * devices - weight_bytes) // page_bytes))


def host_link(costs: CostsConfig) -> Link:
    """Make the way between a worker and host memory."""
    return Link(costs.host_link_latency_us * 1e-6, costs.host_link_gib_per_s * GIB)


def batcher_rules(config: ServerConfig, costs: Costs, reader: Reader | None) -> BatcherRules:
    """Make the rules of one worker; `reader` takes the readings of the length head, if any."""
    policy, batch = config.policy, config.batch
    return BatcherRules(
        costs=costs,
        reserve_quantile=policy.reserve_quantile,
        wait_for_pages=policy.wait_for_pages,
        keep_pace=policy.keep_pace,
        stand_aside=AsideConfig() if policy.stand_aside else None,
        order=_order(policy),
        min_chunk_tokens=min(batch.min_prefill_tokens, batch.max_num_batched_tokens),
        return_horizon_s=config.schedule.session_ttl_seconds,
        returns=RETURNS,
        returns_half_life=RETURNS_HALF_LIFE,
        host_link=host_link(config.costs),
        reader=reader,
        read_every=config.forecast.length_head_every,
    )


def coordinator_rules(config: ServerConfig, costs: Mapping[Role, Costs]) -> CoordinatorRules:
    """Make the rules of the deployment; raises ConfigError for a name or a file that is wrong."""
    policy = config.policy
    return CoordinatorRules(
        place=_named("place-policy", policy.place_policy, PLACE_POLICIES),
        route=_route(config),
        route_config=RouteConfig(
            w_ttft=policy.route_weight_ttft,
            w_tpot=policy.route_weight_tpot,
            w_miss=policy.route_weight_miss,
            late_margin=policy.route_late_margin,
            reserve_quantile=policy.reserve_quantile,
            min_chunk_len=config.batch.min_prefill_tokens,
        ),
        table=None if policy.route_table is None else _read_table(Path(policy.route_table)),
        rebalance=_named("rebalance-policy", policy.rebalance_policy, REBALANCE_POLICIES),
        rebalance_config=RebalanceConfig(max_moves=policy.rebalance_max_moves),
        rebalance_every_s=policy.rebalance_interval_seconds,
        cool_down_s=policy.rebalance_cool_down_seconds,
        roles=_roles(config),
        roles_config=RolesConfig(),
        costs=costs,
        link=Link(config.costs.link_latency_us * 1e-6, config.costs.link_gib_per_s * GIB),
        host_link=host_link(config.costs),
        slo=default_slo(policy),
        window_s=policy.window_seconds,
        chunk_len=config.batch.max_num_batched_tokens,
        max_rows=config.batch.max_num_seqs,
        late_waits=_order(policy).policy.past_late,
        peers=policy.route_peers and policy.route_policy == "foretoken",
    )


def _order(policy: PolicyConfig) -> QueueOrder:
    """Look up who orders queues; refuse a window that would take it too long."""
    order = _named("order-policy", policy.order_policy, ORDER_POLICIES)
    window = order.window if policy.order_window is None else policy.order_window
    require(
        window <= order.most,
        f"--order-policy {policy.order_policy} takes an --order-window of {order.most} at most",
    )
    return QueueOrder(order, window, policy.max_passes)


def _route(config: ServerConfig) -> RoutePolicy:
    """Look up who routes; refuse one to which the prefill workers, or their lack, mean nothing.

    Where roles may change at run time, so may that.
    """
    name, mesh = config.policy.route_policy, config.mesh
    policy = _named("route-policy", name, ROUTE_POLICIES)
    require(
        config.policy.route_table is None or name == "ppd",
        f"--route-table has no effect with --route-policy {name}; leave it out, or use ppd",
    )
    if not mesh.flexible_roles:
        workers = mesh.prefill_workers + mesh.decode_workers
        require(
            mesh.prefill_workers == 0 or name not in ALONE,
            f"--route-policy {name} leaves prefill workers idle: use --prefill-workers 0"
            f" --decode-workers {workers}",
        )
        require(
            mesh.prefill_workers > 0 or name not in SPLIT,
            f"--route-policy {name} needs prefill workers: add --prefill-workers, or use"
            " foretoken or replicas, where all workers do both",
        )
    return policy


def route_notice(policy: PolicyConfig) -> str | None:
    """Say what a person should know of how turns will be routed; None for nothing."""
    if policy.route_policy != "ppd" or policy.route_table is not None:
        return None
    return (
        "ppd without --route-table goes by predicted times, where PPD goes by measured ones"
        " (python -m benchmarks.ppd_table measures a table)"
    )


def _roles(config: ServerConfig) -> RolesPolicy:
    """Look up who changes roles; refuse one that could change none in this deployment."""
    name = config.policy.roles_policy
    policy = _named("roles-policy", name, ROLES_POLICIES)
    if policy is not ROLES_POLICIES["none"]:
        require(
            config.mesh.flexible_roles,
            f"--roles-policy {name} needs workers that are compiled for both roles: add "
            "--flexible-roles",
        )
        require(
            config.policy.slo_ttft_ms is not None,
            f"--roles-policy {name} holds waits for prefill against a target: add --slo-ttft-ms",
        )
    return policy


def default_slo(policy: PolicyConfig) -> Slo:
    """Return the targets of turns that bring none."""
    ttft, tpot = policy.slo_ttft_ms, policy.slo_tpot_ms
    return Slo(None if ttft is None else ttft / 1e3, None if tpot is None else tpot / 1e3)


def length_model(config: ServerConfig) -> LengthHistogram:
    """Make the forecast of replies before a head has read them: a running histogram."""
    return LengthHistogram(
        prior_mean=float(config.schedule.reserve_tokens),
        prior_weight=PRIOR_WEIGHT,
        memory=LENGTHS_REMEMBERED,
    )


def _named(flag: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise ConfigError(f"--{flag} {name} is unknown; use one of {', '.join(known)}")
    return known[name]


def _read_table(path: Path) -> PpdTable:
    try:
        document: Any = json.loads(path.read_text())
        return PpdTable.parse(document)
    except OSError as error:
        raise ConfigError(f"--route-table {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"--route-table {path}: {error}") from error
