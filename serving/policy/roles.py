"""Which worker should change its role, so that neither prefill nor decode is the bottleneck?

The hook for roles at run time. Knows nothing of how a worker is drained and comes back, nor of what
is in its queues: it sees seconds and shares.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from serving.messages import Role, WorkerId


@dataclass(frozen=True, slots=True)
class WorkerRoleView:
    """A worker and what it is busy with.

    `prefill_wait_s`: predicted time until a new task's prefill would start here; 0 on a worker that
    only decodes. `decode_load`: the share of what it can decode that is in use, 0 on a worker that
    only prefills. `since_change_s`: time since it took up its role or joined. `draining`: it takes
    no new work, for whatever reason.
    """

    worker: WorkerId
    role: Role
    prefill_wait_s: float
    decode_load: float
    since_change_s: float
    draining: bool


@dataclass(frozen=True, slots=True)
class RolesView:
    """All workers. `ttft_s`: the target that waits are held against, None if there is none."""

    workers: tuple[WorkerRoleView, ...]
    ttft_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RolesConfig:
    """When a role changes; the rule and its values are ours, unmeasured.

    Prefill is short of workers while a new task would wait for more than `wait_high` of the TTFT
    target, and has one to spare below `wait_low`. Decode has one to spare while the others would
    stay below `load_low` without it, and is short above `load_high`. Nothing changes until
    `min_dwell_s` after the last change, so that its effect is seen first.
    """

    wait_high: float = 0.5
    wait_low: float = 0.1
    load_high: float = 0.85
    load_low: float = 0.6
    min_dwell_s: float = 60.0

    def __post_init__(self) -> None:
        """Raise ValueError unless each low mark lies below its high one."""
        if not 0 <= self.wait_low < self.wait_high or not 0 <= self.load_low < self.load_high:
            raise ValueError("each low mark lies below its high mark, and none below 0")
        if self.min_dwell_s < 0:
            raise ValueError("min_dwell_s is negative")


@dataclass(frozen=True, slots=True)
class RoleChange:
    """`worker` should drain and come back with `role`; why."""

    worker: WorkerId
    role: Role
    reason: str


RolesPolicy: TypeAlias = Callable[[RolesView, RolesConfig], tuple[RoleChange, ...]]


def none(view: RolesView, config: RolesConfig) -> tuple[RoleChange, ...]:
    """Leave every role as it is."""
    del view, config
    return ()


def queue(view: RolesView, config: RolesConfig) -> tuple[RoleChange, ...]:
    """Turn the least loaded decode worker to prefill when prefill waits, and back; one at a time.

    Only workers of one role are turned: one that does both has nothing to gain from it. Nothing
    changes while a worker drains, as its work is still to be seen elsewhere. At least one worker
    that decodes stays, and at least one that prefills. Ties: the smaller id.
    """
    settled = all(w.since_change_s >= config.min_dwell_s and not w.draining for w in view.workers)
    if view.ttft_s is None or not settled:
        return ()
    prefills = [w for w in view.workers if w.role is not Role.DECODE]
    decodes = [w for w in view.workers if w.role is not Role.PREFILL]
    wait_s = min((w.prefill_wait_s for w in prefills), default=0.0)
    load = sum(w.decode_load for w in decodes)
    if wait_s > config.wait_high * view.ttft_s and len(decodes) > 1:
        if load < config.load_low * (len(decodes) - 1):
            return _turn(decodes, Role.DECODE, Role.PREFILL, "prefill_waits")
    elif load > config.load_high * len(decodes) and len(prefills) > 1:
        work_s = sum(w.prefill_wait_s for w in prefills)
        if work_s < config.wait_low * view.ttft_s * (len(prefills) - 1):
            return _turn(prefills, Role.PREFILL, Role.DECODE, "decode_full")
    return ()


def _turn(
    workers: Sequence[WorkerRoleView], old: Role, new: Role, reason: str
) -> tuple[RoleChange, ...]:
    turnable = [w for w in workers if w.role is old]
    if not turnable:
        return ()
    least = min(turnable, key=lambda w: (w.decode_load, w.prefill_wait_s, w.worker))
    return (RoleChange(least.worker, new, reason),)


ROLES_POLICIES: Mapping[str, RolesPolicy] = {"none": none, "queue": queue}
