"""How long does a look at all decode workers take? The rebalancing policy alone, on one core.

    taskset -c 0 python -m benchmarks.rebalance_speed        prints JSON; one core needs `taskset`

`measure` builds views out of thin air, one of each kind of trouble, and times `predicted` on them.
A kind says which of the policy's searches has to do the work.
"""

import json
import sys
import time
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np

from serving.costs.costs import Link, StepModel
from serving.messages import WorkerId
from serving.policy.rebalance import RebalanceConfig, predicted
from serving.policy.rebalance_load import Floats, Ints, predict
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
    `full`: as `skewed`, and no worker has room for another row. `short_of_memory`: as `skewed`, and
    the fullest have too little.
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
    owner = np.searchsorted(ends, np.arange(rows), side="right").astype(np.int64)
    kv_len = np.round(random.lognormal(7.5, 0.8, rows))
    grid = np.concatenate(([0.0], np.geomspace(8, HORIZON, POINTS - 1).round()))
    remaining = random.lognormal(6, 1, rows)
    room = 1.2 if kind == "short_of_memory" else 8.0
    view = _view(np.full(workers, room * kv_len.sum() / workers), owner, kv_len, remaining, grid)
    if kind == "full":
        config = RebalanceConfig(horizon_steps=HORIZON)
        loads = predict(view, config)
        need = loads.held + config.z * np.sqrt(loads.held_noise)
        view = replace(view, capacity=need.max(axis=1) * 1.0001 / (1 - config.watermark))
    return view


def _view(
    capacity: Floats, owner: Ints, kv_len: Floats, remaining: Floats, grid: Floats
) -> RebalanceView:
    workers = len(capacity)
    return RebalanceView(
        workers=tuple(WorkerId(f"d{i:03}") for i in range(workers)),
        step_models=(StepModel(5e-3, 2e-5, 2e-8),) * workers,
        capacity=capacity,
        pinned=np.zeros(workers),
        blank=np.zeros(workers),
        evict_s=np.full(workers, 1e-7),
        target_s=np.full(workers, np.nan),
        may_send=np.ones(workers, np.bool_),
        may_receive=np.ones(workers, np.bool_),
        owner=owner,
        kv_len=kv_len,
        alive=np.exp(-grid[None, :] / remaining[:, None]),
        movable=np.ones(len(owner), np.bool_),
        grid=grid,
        link=Link(1e-3, 25e9),
        kv_bytes_per_token=57344,
        was_over=frozenset(),
    )


def _timed(view: RebalanceView, config: RebalanceConfig) -> dict[str, Any]:
    wall: list[float] = []
    cpu: list[float] = []
    moves = predicted(view, config)
    for _ in range(REPEATS):
        start, start_cpu = time.perf_counter(), time.process_time()
        predicted(view, config)
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - start_cpu) * 1e3)
    reasons = [move.reason for move in moves]
    return {
        "median_ms": median(wall),
        "worst_ms": max(wall),
        "cpu_median_ms": median(cpu),
        "cpu_worst_ms": max(cpu),
        "moves": reasons,
    }


if __name__ == "__main__":
    json.dump([measure(*scale) for scale in SCALES], sys.stdout, indent=1)
    print()
