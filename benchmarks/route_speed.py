"""How long does a routing decision take? Every policy, in this process, by size of the fleet.

`python -m benchmarks.route_speed` prints JSON, for fleets of which all workers are idle and fleets
of which each has its own queue; a worker in eight holds a part of the prompt. The owner decodes 64
rows, three in four with a target.
"""

import gc
import json
import sys
import time
from math import nan
from typing import NamedTuple

import numpy as np

from benchmarks.figures import percentile
from serving.costs.costs import Costs, Estimate, Link, StepModel
from serving.forecast.survival import EDGES, Survival
from serving.messages import WorkerId
from serving.policy.route import RouteConfig, RouteContext, RoutePolicy
from serving.policy.routes import ROUTE_POLICIES
from serving.policy.views import NOBODY, OwnerView, PrefillView, ResidentsView, TurnView

ROWS = 64
PAGE_SIZE = 16
CHUNK_LEN = 256
HISTORY_LEN = 2304
NEW_LEN = 1500
HALF_LIFE = 700.0
LINK = Link(latency_s=1e-4, bytes_per_s=2.5e10)
WARM_UP_CALLS = 20


class PlaneCosts:
    """A latency model as cheap as can be, so that the policy is timed and not the model.

    Seconds a step, a token and a row are those of no real machine.
    """

    kv_bytes_per_token = 131_072

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        """Predict a step without rows."""
        return self.mixed(0, 0, new_len, cached_len)

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        """Predict a step without a chunk."""
        return self.mixed(rows, kv_tokens, 0, 0)

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        """Predict steps without a chunk, one after another."""
        return [self.decode(rows, kv_tokens + i * rows).seconds for i in range(steps)]

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        """Predict a step by a plane, and the attention of its chunk."""
        chunk_s = new_len * (3e-5 + 1e-9 * cached_len)
        return Estimate(7e-3 + 1e-5 * rows + 4e-8 * kv_tokens + chunk_s, 0.1)

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        """Predict a transfer."""
        return Estimate(link.latency_s + num_bytes / link.bytes_per_s, 0.1)

    def step_model(self) -> StepModel:
        """Return the plane."""
        return StepModel(7e-3, 1e-5, 4e-8)


class Case(NamedTuple):
    """What a policy is called with."""

    turn: TurnView
    owner: OwnerView
    prefills: list[PrefillView]


def measure(
    workers: int, costs: Costs | None = None, seconds: float = 0.5
) -> dict[str, dict[str, dict[str, float]]]:
    """Time every policy on an idle and on a busy fleet of `workers` prefill workers.

    Each is called for about `seconds`, with `costs` or with a model that takes no time. Returns
    microseconds of processor time, in which other processes do not count, and the number of calls:
    `{fleet: {policy: {"median_us", "p99_us", "calls"}}}`.
    """
    context = RouteContext(costs or PlaneCosts(), RouteConfig(), None)
    gc.collect()
    fleets = {"idle": _case(workers, busy=False), "busy": _case(workers, busy=True)}
    return {
        fleet: {
            name: _time(policy, case, context, seconds) for name, policy in ROUTE_POLICIES.items()
        }
        for fleet, case in fleets.items()
    }


def _time(
    policy: RoutePolicy, case: Case, context: RouteContext, seconds: float
) -> dict[str, float]:
    for _ in range(WARM_UP_CALLS):
        policy(*case, context)
    calls: list[float] = []
    until = time.thread_time() + seconds
    while not calls or time.thread_time() < until:
        start = time.thread_time()
        policy(*case, context)
        calls.append(time.thread_time() - start)
    return {
        "median_us": percentile(calls, 0.5) * 1e6,
        "p99_us": percentile(calls, 0.99) * 1e6,
        "calls": len(calls),
    }


def _case(workers: int, *, busy: bool) -> Case:
    random = np.random.default_rng(workers)
    alive = [0.5 ** (edge / HALF_LIFE) for edge in EDGES[:-1]]
    turn = TurnView(
        prompt_len=HISTORY_LEN + NEW_LEN,
        number=3,
        waited_s=0.0,
        max_new_len=8192,
        ttft_s=0.5,
        tpot_s=0.05,
        remaining=Survival((*alive, 0.0)),
        arrival_rate=8.0,
    )
    targets = np.where(np.arange(ROWS) % 4 == 0, nan, 0.05)
    expected, gaps = random.exponential(HALF_LIFE, (2, ROWS))
    residents = ResidentsView(expected, targets, gaps, 0.01 * gaps)
    owner = OwnerView(
        worker=WorkerId("d0"),
        cached_len=HISTORY_LEN,
        fetch_s=0.0,
        rows=ROWS,
        max_rows=2 * ROWS,
        kv_tokens=ROWS * HISTORY_LEN,
        queued_s=0.1,
        queued_len=2 * CHUNK_LEN,
        pages_available=40_000,
        pages_total=60_000,
        page_size=PAGE_SIZE,
        chunk_len=CHUNK_LEN,
        itl_s=0.045,
        residents=residents,
    )
    return Case(turn, owner, [_worker(i, random, busy=busy) for i in range(workers)])


def _worker(index: int, random: np.random.Generator, *, busy: bool) -> PrefillView:
    cached_pages = int(random.integers(HISTORY_LEN // PAGE_SIZE)) if index % 8 == 0 else 0
    queued_len = int(random.integers(16 * CHUNK_LEN)) if busy else 0
    return PrefillView(
        worker=WorkerId(f"p{index}"),
        cached_len=cached_pages * PAGE_SIZE,
        fetch_s=0.0,
        queued_s=queued_len * 4e-5,
        queued_len=queued_len,
        turns=queued_len // CHUNK_LEN,
        chunk_len=CHUNK_LEN,
        rows=0,
        kv_tokens=0,
        residents=NOBODY,
        ttft_s=0.6 if busy else 0.3,
        link=LINK,
    )


if __name__ == "__main__":
    json.dump({str(workers): measure(workers) for workers in (8, 64, 1000)}, sys.stdout, indent=1)
    print()
