"""How long does a look at all decode workers take? The rebalancing policy alone, on one core.

    taskset -c 0 python -m benchmarks.rebalance_speed        prints JSON; one core needs `taskset`

`measure` builds views out of thin air, one of each kind of trouble, and times `predicted` on them.
A kind says which of the policy's searches has to do the work.
"""

import json
import sys
import time
from statistics import median
from typing import Any

import numpy as np

from serving.costs.costs import Link, StepModel
from serving.messages import WorkerId
from serving.policy.rebalance import RebalanceConfig, predicted
from serving.policy.views import RebalanceView

SCALES = ((64, 4096), (512, 65536))
POINTS = 16
HORIZON = 2048
REPEATS = 5
MAX_MOVES = 4
KINDS = ("one_hot", "skewed", "level", "all_on_one", "full", "short_of_memory")


def measure(workers: int, rows: int) -> dict[str, Any]:
    """Return the milliseconds of a call, its median and its worst, for each kind of trouble."""
    config = RebalanceConfig(horizon_steps=HORIZON, max_moves=MAX_MOVES)
    kinds = {kind: _timed(view_of(kind, workers, rows), config) for kind in KINDS}
    return {"workers": workers, "rows": rows, "points": POINTS, "kinds": kinds}


def view_of(kind: str, workers: int, rows: int) -> RebalanceView:
    """Make a view: rows of log-normal lengths, exponential curves, spread as the kind says.

    `one_hot`: the first worker has twice its share. `skewed`: shares fall geometrically to a
    quarter. `level`: everyone has the same number of rows. `all_on_one`: the first has all rows.
    `full`: as `skewed`, with no room anywhere. `short_of_memory`: as `skewed`, and the fullest
    have too little.
    """
    random = np.random.default_rng(0)
    shares = np.ones(workers)
    if kind == "one_hot":
        shares[0] = 2
    elif kind == "all_on_one":
        shares[1:] = 0
    elif kind != "level":
        shares = 0.25 ** np.linspace(0, 1, workers)
    ends = np.round(np.cumsum(shares) / shares.sum() * rows)
    owner = np.searchsorted(ends, np.arange(rows), side="right")
    kv_len = np.round(random.lognormal(7.5, 0.8, rows))
    grid = np.concatenate(([0.0], np.geomspace(8, HORIZON, POINTS - 1).round()))
    remaining = random.lognormal(6, 1, rows)
    room = {"full": 1.0, "short_of_memory": 1.2}.get(kind, 8.0)
    held = np.bincount(owner, kv_len, workers)
    capacity = room * held if kind == "full" else np.full(workers, room * held.mean())
    return RebalanceView(
        workers=tuple(WorkerId(f"d{i:03}") for i in range(workers)),
        step_models=(StepModel(5e-3, 2e-5, 2e-8),) * workers,
        capacity=np.maximum(capacity, 1.0),
        pinned=np.zeros(workers),
        may_send=np.ones(workers, np.bool_),
        may_receive=np.ones(workers, np.bool_),
        owner=owner.astype(np.int64),
        kv_len=kv_len,
        alive=np.exp(-grid[None, :] / remaining[:, None]),
        movable=np.ones(rows, np.bool_),
        grid=grid,
        link=Link(1e-3, 25e9),
        kv_bytes_per_token=57344,
        was_over=frozenset(),
    )


def _timed(view: RebalanceView, config: RebalanceConfig) -> dict[str, Any]:
    times: list[float] = []
    moves = predicted(view, config)
    for _ in range(REPEATS):
        start = time.perf_counter()
        predicted(view, config)
        times.append((time.perf_counter() - start) * 1e3)
    reasons = [move.reason for move in moves]
    return {"median_ms": median(times), "worst_ms": max(times), "moves": reasons}


if __name__ == "__main__":
    json.dump([measure(*scale) for scale in SCALES], sys.stdout, indent=1)
    print()
