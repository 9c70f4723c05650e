"""What do coordinator and batcher cost per step? Their own benchmark, repeated."""

from typing import Any

from benchmarks import control_plane
from benchmarks.bench import Bench
from benchmarks.figures import figure


def measure(bench: Bench) -> dict[str, Any]:
    """Measure every number of rows of the scale in turn, as often as it says; microseconds."""
    runs: dict[int, list[dict[str, float]]] = {rows: [] for rows in bench.scale.rows}
    for repeat in range(bench.scale.repeats):
        for rows in bench.scale.rows:
            bench.say(f"{rows} rows, repeat {repeat + 1}")
            runs[rows].append(control_plane.measure(rows))
    return {"rows": {str(rows): _figures(found) for rows, found in runs.items()}}


def _figures(runs: list[dict[str, float]]) -> dict[str, Any]:
    skipped = ("rows", "steps")
    return {
        f"{name}_us": figure([run[name] for run in runs]) for name in runs[0] if name not in skipped
    }
