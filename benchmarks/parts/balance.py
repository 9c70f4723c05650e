"""Does moving rows even out two decode workers? One load under every rebalancing policy, in turn.

Policies are interleaved within a seed, so that a machine that slows down slows them all. Both
workers share the cores and the memory of one CPU: the busier one can borrow from the idler, so
what evenness gains in speed does not show here as it would on two devices. How evenly rows, and the
step times predicted for two devices, are spread does show.
"""

from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import figure

POLICIES = ("none", "current", "predicted")
PLAIN = (
    "tokens_per_s",
    "itl_p50_s",
    "itl_p99_s",
    "moves",
    "moves_failed",
    "moved_bytes",
)
SPREADS = ("step", "predicted_step", "rows")
MEASURES = ("mean", "std", "max_over_mean")


def measure(bench: Bench) -> dict[str, Any]:
    """Run every seed under every policy."""
    runs: dict[str, list[dict[str, Any]]] = {policy: [] for policy in POLICIES}
    seconds = bench.scale.balance_s
    with bench.child("benchmarks.balance_child", str(bench.checkpoint)) as child:
        bench.say("warming up")
        child.ask({"policy": "current", "seed": -1, "seconds": seconds / 2})
        for seed in range(bench.scale.repeats):
            for offset in range(len(POLICIES)):
                policy = POLICIES[(seed + offset) % len(POLICIES)]
                bench.say(f"seed {seed}, policy {policy}")
                question = {"policy": policy, "seed": seed, "seconds": seconds}
                runs[policy].append(child.ask(question))
    return {
        "seconds": seconds,
        "policies": {policy: _figures(found) for policy, found in runs.items()},
    }


def _figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    plain = {name: figure([run[name] for run in runs]) for name in PLAIN}
    spreads = {
        name: {one: figure([run[name][one] for run in runs]) for one in MEASURES}
        for name in SPREADS
    }
    return {**plain, **spreads}
