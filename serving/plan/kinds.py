"""Which kinds of workers can there be at all? Those that hold the model and meet the targets.

What no accelerator can do is said here in one line, with what would do.
"""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from serving.assembly import kv_budget, most_pages
from serving.config import ConfigError, ServerConfig, require
from serving.costs.hardware import HardwareSpec
from serving.costs.make import choose_hardware, described_device, make_costs
from serving.costs.models import KnownModel, find_model
from serving.messages import Role
from serving.plan.capacity import Targets, WorkerKind, rows_within, service_times
from serving.plan.demand import Demand
from serving.policy.admit import pages_for
from serving.policy.routes import ALONE, SPLIT

DEGREES = (1, 2, 4, 8)
ROLES = (Role.PREFILL, Role.DECODE, Role.BOTH)


def find_kinds(config: ServerConfig, gpus: int, demand: Demand) -> list[WorkerKind]:
    """List every kind of worker that up to `gpus` accelerators can be.

    Raises ConfigError if the model, or the workload's longest turn, fits none.
    """
    source = config.model
    model = find_model(config.checkpoint, source.weight_format).with_kv_as(source.kv_kept_as)
    hardware = choose_hardware(config.costs.hardware, "")
    max_len = config.memory.max_model_len or model.max_position
    require(
        demand.longest <= max_len,
        f"the workload's longest turn has {demand.longest} tokens, more than the {max_len} of a"
        f" context; cut it with --max-context {max_len}",
    )
    degrees = [d for d in DEGREES if model.shared.problem(d) is None]
    fitting = [d for d in degrees if _pages(config, hardware, model, d) > 0]
    require(bool(fitting), _no_room(config, hardware, model, max_len, degrees[-1]))
    if fitting[0] > gpus:
        raise ConfigError(_too_few(config, hardware, model, fitting[0], gpus))
    roles = _roles(config.policy.route_policy)
    require(
        Role.BOTH in roles or gpus >= 2 * fitting[0],
        f"--route-policy {config.policy.route_policy} needs workers of two kinds, at least"
        f" {2 * fitting[0]} x {hardware.name}; raise --gpus from {gpus}",
    )
    device = described_device(config.costs)
    kinds: list[WorkerKind] = []
    problem: ConfigError | None = None
    for role in roles:
        for degree in fitting:
            if degree > gpus:
                continue
            try:
                costs = make_costs(config.costs, model.shape, device, degree, role)
            except ConfigError as error:  # a file of measured times need not have every kind
                problem = error
                continue
            pages = _pages(config, hardware, model, degree)
            # One page is set aside (serving/core/holdings).
            kinds.append(WorkerKind(role, degree, costs, (pages - 1) * config.memory.page_size))
    known = {kind.role for kind in kinds}
    if problem is not None and not ({Role.BOTH} <= known or {Role.PREFILL, Role.DECODE} <= known):
        raise problem
    return kinds


def _roles(route: str) -> list[Role]:
    """List the roles that a routing policy has a use for."""
    unused = ROLES[:2] if route in ALONE else ROLES[2:] if route in SPLIT else ()
    return [role for role in ROLES if role not in unused]


def check_targets(kinds: Sequence[WorkerKind], demand: Demand, targets: Targets) -> None:
    """Raise ConfigError for targets that one step, or a prefill alone, does not meet."""
    prefills = [kind for kind in kinds if kind.role is not Role.DECODE]
    decodes = [kind for kind in kinds if kind.role is not Role.PREFILL]
    context = round(demand.context)
    step_s, degree = _least(decodes, lambda kind: kind.costs.decode(1, context).seconds)
    require(
        any(rows_within(kind.costs, demand.context, targets.tpot_s) for kind in decodes),
        f"--slo-tpot {targets.tpot_s:g}: a step of one row over {context} tokens takes"
        f" {step_s:.4f} s at best (degree {degree}); raise it above that",
    )

    def slowest(kind: WorkerKind) -> float:
        return float(np.quantile(service_times(kind.costs, demand), targets.attainment))

    prompt_s, degree = _least(prefills, slowest)
    require(
        prompt_s <= targets.ttft_s,
        f"--slo-ttft {targets.ttft_s:g}: {targets.attainment:.0%} of the prompts take up to"
        f" {prompt_s:.4f} s alone at best (degree {degree}); raise it above that, or cut the"
        " workload with --max-context",
    )


def _least(
    kinds: Sequence[WorkerKind], seconds: Callable[[WorkerKind], float]
) -> tuple[float, int]:
    return min((seconds(kind), kind.degree) for kind in kinds)


def _pages(config: ServerConfig, hardware: HardwareSpec, model: KnownModel, degree: int) -> int:
    """Return a worker's pages; 0 if they hold no context of the greatest length, or do not fit."""
    memory = config.memory
    least = pages_for(memory.max_model_len or model.max_position, memory.page_size) + 1
    pages = memory.kv_pages
    if pages is None:
        pages = _room(config, hardware, model, degree)
    elif pages > _most(config, hardware, model, degree):
        return 0
    return pages if pages >= least else 0


def _room(config: ServerConfig, hardware: HardwareSpec, model: KnownModel, degree: int) -> int:
    """Return the pages that a worker takes if nobody says how many."""
    memory = config.memory
    room = kv_budget(hardware.memory_bytes, memory.memory_fraction, degree, model.weight_bytes)
    return max(0, room) // (model.shape.kv_bytes_per_token * memory.page_size)


def _most(config: ServerConfig, hardware: HardwareSpec, model: KnownModel, degree: int) -> int:
    """Return the most pages that may be asked for, as a server has it."""
    page_bytes = model.shape.kv_bytes_per_token * config.memory.page_size
    return most_pages(hardware.memory_bytes, degree, model.weight_bytes, page_bytes)


def _too_few(
    config: ServerConfig, hardware: HardwareSpec, model: KnownModel, degree: int, gpus: int
) -> str:
    """Say that a worker needs more accelerators than there are, and what would do instead."""
    memory = config.memory
    max_len = memory.max_model_len or model.max_position
    at_hand = max(d for d in DEGREES if d <= gpus and model.shared.problem(d) is None)
    ways = [f"raise --gpus from {gpus} to {degree}"]
    if memory.kv_pages is None:
        tokens = (_room(config, hardware, model, at_hand) - 1) * memory.page_size
        ways += [f"lower --max-model-len to {tokens}"] if tokens >= 2 else []
    else:
        pages = _most(config, hardware, model, at_hand)
        least = pages_for(max_len, memory.page_size) + 1
        ways += [f"lower --kv-pages to {pages}"] if pages >= least else []
    return (
        f"{config.name} with a context of {max_len} tokens needs {degree} x"
        f" {hardware.name} for one worker; {' or '.join(ways)}"
    )


def _no_room(
    config: ServerConfig, hardware: HardwareSpec, model: KnownModel, max_len: int, degree: int
) -> str:
    """Say why not even the highest degree holds the model, and what would."""
    memory, gib = config.memory, 2.0**30
    asked, least = memory.kv_pages, pages_for(max_len, memory.page_size) + 1
    most = _most(config, hardware, model, degree)
    pages = _room(config, hardware, model, degree) if asked is None else min(asked, most)
    tokens = (pages - 1) * memory.page_size
    have = (
        f"{config.name} on {degree} x {hardware.name}, the highest degree: weights of"
        f" {model.weight_bytes / gib:.1f} GiB in"
        f" {degree * hardware.memory_bytes * memory.memory_fraction / gib:.1f} GiB"
    )
    if asked is not None and most >= least:
        if asked < least:
            return f"--kv-pages {asked} hold no context of {max_len} tokens; use {least}"
        return f"{have} leave no room for --kv-pages {asked}; use {most} at most"
    if tokens < 2:
        need = ceil(model.weight_bytes / memory.memory_fraction / degree / gib)
        return f"{have} leave no room for KV; use hardware of more than {need} GiB each"
    return f"{have} leave room for {tokens} of {max_len} tokens; lower --max-model-len to {tokens}"
