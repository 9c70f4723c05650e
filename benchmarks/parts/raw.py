"""How fast is the compiled decode step by itself? Tokens per second of the raw step loop."""

from typing import Any

from benchmarks.bench import Bench
from benchmarks.child import Child


def measure(bench: Bench) -> dict[str, Any]:
    """Measure every number of rows at the mean context of the served runs."""
    with raw_child(bench) as child:
        bench.say(f"compiling, then {', '.join(map(str, bench.scale.rows))} rows")
        return ask(bench, child)


def raw_child(bench: Bench) -> Child:
    """Start the process that measures the raw loop."""
    return bench.child("benchmarks.raw_child", str(bench.checkpoint))


def ask(bench: Bench, child: Child) -> dict[str, Any]:
    """Measure once more, all numbers of rows."""
    return child.ask({"rows": bench.scale.rows, "context": bench.scale.context})
