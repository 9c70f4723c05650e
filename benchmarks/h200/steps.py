"""How long does the whole step take, sampling and head included? Point by point.

Each point's program has exactly its shape, so that nothing is padded: what padding costs is in the
cost profile (grid). Beside the time stand the bytes that the step has to read and the operations of
its matmuls and its attention, for whoever knows the device's rates.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.figures import figure
from benchmarks.h200.rig import Rig
from benchmarks.h200.scale import Prompt, Work
from benchmarks.h200.timing import between_results, timed
from serving.costs.shape import shape_of
from serving.engine import raw_loop


def decode(rig: Rig) -> dict[str, Any]:
    """Rows that decode, with equally much behind them."""
    return {"points": _points(rig, rig.scale.decode)}


def skewed(rig: Rig) -> dict[str, Any]:
    """One long row beside short ones, against equal rows with as much KV together."""
    points = _points(rig, rig.scale.skewed)
    uneven, even = (point["seconds"]["median"] for point in points.values())
    return {"points": points, "ratio": uneven / even}


def mixed(rig: Rig) -> dict[str, Any]:
    """Rows that decode and a chunk of a prompt in one step."""
    return {"points": _points(rig, rig.scale.mixed)}


def prefill(rig: Rig) -> dict[str, Any]:
    """A whole prompt, in chunks, one step behind the other."""
    return {"points": {name: _prompt(rig, name, p) for name, p in rig.scale.prefill.items()}}


def _points(rig: Rig, works: Mapping[str, Work]) -> dict[str, Any]:
    points: dict[str, Any] = {}
    for name, work in works.items():
        rig.say(name)
        executor = rig.executor_for([work])
        seconds = between_results(
            executor,
            rig.plan(work, executor.sizes),
            steps=rig.scale.steps,
            warm_runs=rig.scale.warm_runs,
            clock=rig.clock,
        )
        points[name] = {"seconds": seconds, **_needs(rig, [work])}
        del executor
    return points


def _prompt(rig: Rig, name: str, prompt: Prompt) -> dict[str, Any]:
    rig.say(name)
    works = prompt.works
    executor = rig.executor_for(works)
    plans = [rig.plan(work, executor.sizes) for work in works]

    def run() -> None:
        raw_loop.drive(executor, plans)

    timed(run, rig.scale.warm_runs, rig.clock)
    seconds = figure(timed(run, rig.scale.repeats, rig.clock))
    return {"seconds": seconds, **_needs(rig, works)}


def _needs(rig: Rig, works: list[Work]) -> dict[str, float]:
    """Count the bytes that steps read at least, and their operations; norms do not count.

    Weights are read once a step and every row's past once; the head scores what is sampled.
    """
    shape = shape_of(rig.config)
    head = rig.config.vocab_size * rig.config.hidden_size
    num_bytes = flops = 0.0
    for work in works:
        rows, new = len(work.contexts), sum(chunk.new_len for chunk in work.chunks)
        past = sum(work.contexts) + sum(chunk.cached_len for chunk in work.chunks)
        num_bytes += shape.weight_bytes + past * shape.kv_bytes_per_token
        scored = rows + len(work.chunks)
        flops += 2 * ((shape.matmul_params - head) * (rows + new) + head * scored)
        pairs = sum(work.contexts) + sum(
            chunk.new_len * (chunk.cached_len + chunk.new_len / 2) for chunk in work.chunks
        )
        flops += shape.attention_flops * pairs
    return {"bytes": num_bytes, "flops": flops}
