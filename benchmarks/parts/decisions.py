"""How long do routing, rebalancing and ordering take? Each policy on one core, by size.

Times are processor time: what a decision takes of its core, whatever else runs on the machine.
"""

from typing import Any

from benchmarks.bench import Bench
from benchmarks.child import Child
from benchmarks.figures import figure
from benchmarks.rebalance_speed import SCALES

COSTS = ("roofline", "profile")
WORKERS = (64, 1000)
WINDOWS = (8, 64, 256)
TIMES = ("median_us", "p99_us")


def measure(bench: Bench) -> dict[str, Any]:
    """Measure every decision at every size, as often as the scale says; medians and p99."""
    routes: dict[str, list[dict[str, Any]]] = {}
    orders: dict[str, list[dict[str, Any]]] = {}
    rebalances: dict[str, list[dict[str, Any]]] = {}
    with bench.child("benchmarks.decisions_child", str(bench.checkpoint)) as child:
        for repeat in range(bench.scale.repeats):
            bench.say(f"repeat {repeat + 1}")
            _round(child, bench.scale.decision_s, routes, orders, rebalances)
    return {
        "route": {key: _routes(runs) for key, runs in routes.items()},
        "rebalance": {key: _rebalances(runs) for key, runs in rebalances.items()},
        "order": {key: _times(runs) for key, runs in orders.items()},
    }


def _round(
    child: Child,
    seconds: float,
    routes: dict[str, list[dict[str, Any]]],
    orders: dict[str, list[dict[str, Any]]],
    rebalances: dict[str, list[dict[str, Any]]],
) -> None:
    for costs in COSTS:
        for workers in WORKERS:
            question = {"what": "route", "workers": workers, "costs": costs, "seconds": seconds}
            routes.setdefault(f"{workers} workers, {costs}", []).append(child.ask(question))
    for workers, rows in SCALES:
        found = child.ask({"what": "rebalance", "workers": workers, "rows": rows})
        rebalances.setdefault(f"{workers} workers, {rows} rows", []).append(found["kinds"])
    for window in WINDOWS:
        found = child.ask({"what": "order", "window": window, "seconds": seconds})
        orders.setdefault(str(window), []).append(found)


def _routes(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        fleet: {policy: _times([run[fleet][policy] for run in runs]) for policy in policies}
        for fleet, policies in runs[0].items()
    }


def _rebalances(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        kind: {
            "median_ms": figure([run[kind]["cpu_median_ms"] for run in runs]),
            "worst_ms": figure([run[kind]["cpu_worst_ms"] for run in runs]),
        }
        for kind in runs[0]
    }


def _times(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: figure([run[name] for run in runs]) for name in TIMES}
