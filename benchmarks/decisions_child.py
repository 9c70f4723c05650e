"""How long do decisions take on one core? A process that keeps to one, and answers lines.

A question has `what`: `route` with `workers` and `costs`, `rebalance` with `workers` and `rows`, or
`order` with `window`. `seconds` is how long each case of `route` and `order` is called for.
"""

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from benchmarks import order_speed, rebalance_speed, route_speed
from benchmarks.costs import COSTS


def answer(checkpoint: Path, question: dict[str, Any]) -> dict[str, Any]:
    """Measure what is asked for; raises KeyError for anything else."""
    match question["what"]:
        case "route":
            costs = COSTS[question["costs"]](checkpoint)
            return route_speed.measure(question["workers"], costs, question["seconds"])
        case "rebalance":
            return rebalance_speed.measure(question["workers"], question["rows"])
        case "order":
            return order_speed.measure(question["window"], question["seconds"])
        case what:
            raise KeyError(what)


def main(checkpoint: Path) -> None:
    """Answer questions from standard input until it ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            figures = answer(checkpoint, json.loads(line))
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
