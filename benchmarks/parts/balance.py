"""Does moving rows even out two decode workers? One load under every rebalancing policy, in turn.

Policies are interleaved within a seed, so that a machine that slows down slows them all, and each
is compared with `none` seed by seed. Both workers share the cores of one CPU, and a step of either
uses all of them: the busier one borrows from the idler, so what evenness gains in speed does not
show in the clients' gaps as it would on two devices. How evenly rows and predicted step times are
spread does show, and so do the gaps predicted for two devices.
"""

from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import figure, ratio

POLICIES = ("none", "current", "predicted")
COMPARED = (
    "itl_p50_s",
    "itl_p99_s",
    "tpot_p50_s",
    "tpot_p99_s",
    "predicted_itl_p50_s",
    "predicted_itl_p99_s",
)
"""What is compared with `none` within a seed, as a ratio."""
COMPANY = ("alone_share", "slow_alone", "slow_beside")
PLAIN = (
    *COMPARED,
    *COMPANY,
    "tokens",
    "tokens_per_s",
    "turns",
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
        child.ask({"policy": "current", "seed": -1, "seconds": seconds / 4})
        for seed in range(bench.scale.balance_repeats):
            for offset in range(len(POLICIES)):
                policy = POLICIES[(seed + offset) % len(POLICIES)]
                bench.say(f"seed {seed}, policy {policy}")
                question = {"policy": policy, "seed": seed, "seconds": seconds}
                runs[policy].append(child.ask(question))
    return {
        "seconds": seconds,
        "policies": {policy: _figures(found, runs["none"]) for policy, found in runs.items()},
    }


def _figures(runs: list[dict[str, Any]], bases: list[dict[str, Any]]) -> dict[str, Any]:
    plain = {name: figure([run[name] for run in runs]) for name in PLAIN}
    spreads = {
        name: {one: figure([run[name][one] for run in runs]) for one in MEASURES}
        for name in SPREADS
    }
    against = {
        **{
            name: ratio([run[name] for run in runs], [run[name] for run in bases])
            for name in COMPARED
        },
        **{
            f"{name}_std": ratio(
                [run[name]["std"] for run in runs], [run[name]["std"] for run in bases]
            )
            for name in SPREADS
        },
    }
    return {**plain, **spreads, "against_none": against}
