"""A worker with ten pages whose rows may stand aside, and tasks that wait for their memory."""

from dataclasses import replace
from typing import Any

from serving.core.holdings import Holdings
from serving.core.worker_task import WorkerTask, open_task
from serving.policy.aside import AsideConfig
from serving.request import Slo
from tests.support.accounts import computed, holdings
from tests.support.fake_costs import LinearCosts
from tests.support.one_worker import prefill, task
from tests.support.rules import batcher_rules
from tests.support.sharp_lengths import sharp

COSTS = LinearCosts(base_s=1.0, new_s=0.01)
"""A step takes a second, a prompt a second and a hundredth of one for each of its tokens."""
CONFIG = AsideConfig(
    ask_from=0.6,
    back_before_s=4.0,
    least_spare_s=8.0,
    stay_s=5.0,
    again=4.0,
    counted_left=0.5,
    longer=1.5,
)
LEFT = sharp(16).expected()
SLO = Slo(ttft_s=10.0, tpot_s=2.0)


def kept(order: str = "on-time", **settings: Any) -> Holdings:
    rules = batcher_rules(order=order, order_window=64, **{"stand_aside": CONFIG, **settings})
    return holdings(replace(rules, costs=COSTS), COSTS)


def opened(
    name: str,
    tokens,
    *,
    reply: tuple[int, ...] = (),
    forecast: int = 0,
    most: int = 100,
    **fields: Any,
) -> WorkerTask:
    made = task(name, tokens, reply=reply, forecast=forecast, max_tokens=most)
    return open_task(prefill(replace(made, slo=SLO, **fields)), 4)


def waiting(one: Holdings, name: str, tokens, now: float, **fields: Any) -> WorkerTask:
    """A task that came by the way of all: `let_wait`."""
    entry = opened(name, tokens, **fields)
    one.tasks[entry.task.id] = entry
    one.let_wait(entry, now)
    return entry


def prompt(one: Holdings, name: str, tokens, **fields: Any) -> WorkerTask:
    """A task that has its pages."""
    entry = waiting(one, name, tokens, 0.0, **fields)
    assert one.admit_next(0.0) is entry
    return entry


def row(one: Holdings, name: str, tokens, *, replied: int, began: float, **fields: Any):
    """A row whose reply has so many tokens; its first one came at `began`."""
    entry = prompt(one, name, tokens, **fields)
    entry.tokens += range(1000, 1000 + replied)
    one.extend(entry, -(-len(entry.tokens) // 4))
    entry.since = began, 1
    return computed(one, entry)


def crowd(one: Holdings, *, replied: int = 20, began: float = 0.0) -> tuple[WorkerTask, WorkerTask]:
    """Nine of ten pages are taken: by a short row that leads, and by a long one."""
    leader = row(one, "leader", range(4), replied=1, began=0.0, arrived=-2.0)
    return leader, row(one, "long", range(100, 108), replied=replied, began=began)


def back(one: Holdings, now: float, *, replied: int = 10) -> WorkerTask:
    """A reply that began at 0, stood aside, and waits again."""
    reply = tuple(range(1000, 1000 + replied))
    return waiting(one, "back", range(200, 208), now, reply=reply, forecast=16, first_at=0.0)
