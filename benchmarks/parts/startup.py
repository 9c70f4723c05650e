"""How long until a server answers? The shape of `make serve`, without and with a compile cache."""

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import figure
from benchmarks.server import SPLIT, Server, own_cache


def measure(bench: Bench) -> dict[str, Any]:
    """Start cold and then warm, as often as the scale says; seconds until /health is 200."""
    cold: list[float] = []
    warm: list[float] = []
    for repeat in range(bench.scale.repeats):
        with tempfile.TemporaryDirectory() as cache:
            bench.say(f"cold start {repeat + 1}")
            cold.append(_start(bench, Path(cache)))
            bench.say(f"warm start {repeat + 1}")
            warm.append(_start(bench, Path(cache)))
    return {"flags": " ".join(SPLIT), "cold_s": figure(cold), "warm_s": figure(warm)}


def _start(bench: Bench, cache: Path) -> float:
    with Server(bench.checkpoint, SPLIT, own_cache(cache)) as server:
        return server.ready_s
