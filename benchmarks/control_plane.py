"""What does the control plane cost per step? Coordinator and batcher at full decode, no executor.

`measure` holds `rows` conversations in steady decode, two steps launched ahead as the engine does,
and times the three calls of a step separately. Prints JSON.
"""

import json
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from model.config import load_config
from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.limits import BatcherLimits
from serving.core.plan import Launch, Output, StepPlan, StepResult
from serving.core.queue_order import QueueOrder
from serving.core.rules import BatcherRules, CoordinatorLimits, CoordinatorRules
from serving.core.sessions import Sessions
from serving.costs.costs import Costs, Link
from serving.costs.hardware import PRESETS
from serving.costs.roofline import Roofline
from serving.costs.shape import shape_of
from serving.forecast.histogram import LengthHistogram
from serving.forecast.returns import ReturnPrior
from serving.messages import Action, Arrived, Role, Tokens, ToWorker, WorkerId, WorkerJoined
from serving.policy.aside import AsideConfig
from serving.policy.order import ORDER_POLICIES
from serving.policy.place import PLACE_POLICIES
from serving.policy.rebalance import REBALANCE_POLICIES
from serving.policy.rebalance_config import RebalanceConfig
from serving.policy.roles import ROLES_POLICIES, RolesConfig
from serving.policy.route import RouteConfig
from serving.policy.routes import ROUTE_POLICIES
from serving.request import GREEDY, Slo, Turn, TurnId

WORKER = WorkerId("d0")
DEMO = Path(__file__).resolve().parent.parent / "checkpoints" / "demo"
LINK = Link(latency_s=500e-6, bytes_per_s=8 * 2.0**30)
PAGE_SIZE = 16
PROMPT_LEN = 64
DEPTH = 2
WARM_UP_STEPS = 50


class Stopwatch:
    """Seconds of every call, by name."""

    def __init__(self) -> None:
        """Start without calls."""
        self.calls: dict[str, list[float]] = {}

    def __call__(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        """Make a call and note its time under `name`."""
        start = time.perf_counter()
        result = call(*args)
        self.calls.setdefault(name, []).append(time.perf_counter() - start)
        return result


class Bench:
    """A coordinator and one batcher, with results out of thin air."""

    def __init__(self, rows: int, steps: int) -> None:
        """Start `rows` turns that decode for longer than `steps` steps."""
        reply_len = steps + WARM_UP_STEPS + 4 * rows + 10
        max_len = PROMPT_LEN + reply_len
        pages = rows * (-(-max_len // PAGE_SIZE)) + 2
        self.watch = Stopwatch()
        costs = Roofline(shape_of(load_config(DEMO)), PRESETS["cpu"], 1)
        self.coordinator = Coordinator(
            CoordinatorLimits(max_len, PAGE_SIZE, rows, None, 3, 30.0),
            _coordinator_rules(costs),
            Sessions(max_sessions=2 * rows, ttl_s=600.0, page_size=PAGE_SIZE),
            LengthHistogram(prior_mean=512.0, prior_weight=16.0, memory=2000.0),
        )
        self.batcher = Batcher(
            WORKER,
            BatcherLimits(
                num_pages=pages,
                page_size=PAGE_SIZE,
                max_model_len=max_len,
                max_rows=rows,
                max_chunk_tokens=256,
                max_chunk_rows=8,
                transfer_timeout_s=30.0,
                move_pages=32,
                host_pages=0,
            ),
            _batcher_rules(costs),
        )
        self.launched: deque[tuple[StepPlan, StepResult]] = deque()
        self.coordinator.on(WorkerJoined(WORKER, Role.BOTH, pages * PAGE_SIZE), 0.0)
        for i in range(rows):
            self._carry_out(self.coordinator.on(Arrived(_turn(i, reply_len)), 0.0))

    def step(self) -> None:
        """Plan a step and, behind a full pipeline, complete the oldest."""
        self._carry_out(self.watch("batcher.step", self.batcher.step, 0.0))
        if len(self.launched) == DEPTH:
            plan, result = self.launched.popleft()
            done = self.watch("batcher.complete", self.batcher.complete, plan, result, 0.0)
            self._carry_out(done)

    def _carry_out(self, outputs: list[Output] | list[Action]) -> None:
        for output in outputs:
            match output:
                case Launch(plan):
                    self.launched.append((plan, _result(plan)))
                case ToWorker(_, message):
                    self._carry_out(self.batcher.on(message, 0.0))
                case Tokens():
                    self.watch("coordinator.on", self.coordinator.on, output, 0.0)
                case _ if hasattr(output, "worker"):
                    self.coordinator.on(output, 0.0)  # type: ignore[arg-type]
                case _:
                    pass


def measure(rows: int = 64, steps: int = 1000) -> dict[str, float]:
    """Return the median microseconds of each part of a step, with `rows` rows decoding."""
    bench = Bench(rows, steps)
    while len(bench.batcher.holdings.rows.active()) < rows:
        bench.step()
    for _ in range(WARM_UP_STEPS):
        bench.step()
    bench.watch.calls.clear()
    for _ in range(steps):
        bench.step()
    figures = {name: median(calls) * 1e6 for name, calls in bench.watch.calls.items()}
    return {"rows": rows, "steps": steps, **figures, "total": sum(figures.values())}


def _batcher_rules(costs: Costs) -> BatcherRules:
    return BatcherRules(
        costs=costs,
        reserve_quantile=0.9,
        wait_for_pages=True,
        keep_pace=True,
        stand_aside=AsideConfig(),
        order=QueueOrder(ORDER_POLICIES["on-time"], window=64, max_passes=16),
        min_chunk_tokens=32,
        return_horizon_s=600.0,
        returns=ReturnPrior(returns=0.6, median_s=20.0, weight=16.0),
        returns_half_life=1000.0,
        host_link=LINK,
    )


def _coordinator_rules(costs: Costs) -> CoordinatorRules:
    return CoordinatorRules(
        place=PLACE_POLICIES["load"],
        route=ROUTE_POLICIES["foretoken"],
        route_config=RouteConfig(),
        table=None,
        rebalance=REBALANCE_POLICIES["predicted"],
        rebalance_config=RebalanceConfig(),
        rebalance_every_s=1.0,
        cool_down_s=5.0,
        roles=ROLES_POLICIES["none"],
        roles_config=RolesConfig(),
        costs=dict.fromkeys(Role, costs),
        link=LINK,
        host_link=LINK,
        slo=Slo(2.0, 0.05),
        window_s=10.0,
        chunk_len=256,
        max_rows=64,
        late_waits=True,
        peers=True,
    )


def _turn(index: int, reply_len: int) -> Turn:
    sampling = replace(GREEDY, max_tokens=reply_len, temperature=1.0, stop_ids=(0, 1), seed=index)
    tokens = tuple(range(1000 * index, 1000 * index + PROMPT_LEN))
    return Turn(TurnId(f"turn-{index}"), None, tokens, sampling, Slo(None, None), 0, "")


def _result(plan: StepPlan) -> StepResult:
    return StepResult([7] * plan.num_decode, [7] * len(plan.chunks), None, None, {})


if __name__ == "__main__":
    json.dump([measure(rows) for rows in (1, 16, 64)], sys.stdout, indent=1)
    print()
