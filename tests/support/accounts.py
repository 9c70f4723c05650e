"""How does a test keep the accounts of one worker? Tasks that come, are computed and go."""

from dataclasses import replace
from typing import Any

from serving.core.holdings import Holdings
from serving.core.own_decisions import OwnDecisions
from serving.core.rules import BatcherRules
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.costs.costs import Costs
from serving.messages import Role
from tests.support.one_worker import P0, prefill, task
from tests.support.rules import batcher_rules
from tests.support.shape import Shape

SHAPE = Shape(max_model_len=40, num_pages=11)  # ten pages of four tokens


def holdings(
    rules: BatcherRules | None = None, costs: Costs | None = None, **limits: int
) -> Holdings:
    own, rules = replace(SHAPE.limits(Role.BOTH), **limits), rules or batcher_rules()
    return Holdings(own, rules, costs or rules.costs, OwnDecisions(P0))


def told(kept: Holdings, kind: str) -> list[tuple[str, Any]]:
    """Reasons and details of the decisions of a kind that were made since this was last asked."""
    made = kept._decisions.take()
    return [(decision.reason, decision.details) for decision in made if decision.kind == kind]


def queued(kept: Holdings, name: str, tokens, **more) -> WorkerTask:
    entry = open_task(prefill(task(name, tokens, **more)), 4)
    kept.tasks[entry.task.id] = entry
    kept.queue.add(entry)
    return entry


def admitted(kept: Holdings, name: str, tokens, **more) -> WorkerTask:
    entry = queued(kept, name, tokens, **more)
    assert kept.admit_next(0.0) is entry
    return entry


def computed(kept: Holdings, entry: WorkerTask) -> WorkerTask:
    """The KV of all its tokens is there."""
    entry.kv_len = len(entry.tokens)
    entry.stage = Stage.DECODE
    kept.name_full_pages(entry)
    return entry


def over(kept: Holdings, name: str, tokens, **more) -> None:
    """A task comes, is computed and leaves its pages."""
    kept.retire(computed(kept, admitted(kept, name, tokens, **more)))
    kept.take_offloaded()
    kept.check()


def crowded(kept: Holdings) -> None:
    """A prompt of three pages is over, and another of ten has evicted it."""
    over(kept, "a", range(12))
    over(kept, "crowd", range(100, 140))
