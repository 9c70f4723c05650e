"""How long does the whole step take, sampling and head included? Point by point.

Each point's program has exactly its shape, so that nothing is padded: what padding costs is in the
cost profile (grid). Beside the time stand the bytes that the step has to read and the operations of
its matmuls and its attention, for whoever knows the device's rates.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.figures import figure
from benchmarks.h200.part import Job, Part, Points
from benchmarks.h200.rig import Rig
from benchmarks.h200.scale import Prompt, Work
from benchmarks.h200.timing import between_results, timed
from serving.costs.shape import shape_of
from serving.engine import raw_loop


def _step(rig: Rig, work: Work) -> dict[str, Any]:
    executor = rig.executor_for([work])
    seconds = between_results(
        executor,
        rig.plan(work, executor.sizes),
        steps=rig.scale.steps,
        warm_runs=rig.scale.warm_runs,
        clock=rig.clock,
    )
    return {"seconds": seconds, **_needs(rig, [work])}


def _steps(rig: Rig, works: Mapping[str, Work]) -> Mapping[str, Job]:
    return {name: partial(_step, rig, work) for name, work in works.items()}


def _prompt(rig: Rig, prompt: Prompt) -> dict[str, Any]:
    works = prompt.works
    executor = rig.executor_for(works)
    plans = [rig.plan(work, executor.sizes) for work in works]

    def run() -> None:
        raw_loop.drive(executor, plans)

    timed(run, rig.scale.warm_runs, rig.clock)
    seconds = figure(timed(run, rig.scale.repeats, rig.clock))
    return {"seconds": seconds, **_needs(rig, works)}


def _prompts(rig: Rig) -> Mapping[str, Job]:
    return {name: partial(_prompt, rig, prompt) for name, prompt in rig.scale.prefill.items()}


def _ratio(rig: Rig, points: Points) -> dict[str, Any]:
    """Compare the uneven batch with the even one, which comes second."""
    medians = [points[name]["seconds"]["median"] for name in rig.scale.skewed if name in points]
    return {"ratio": medians[0] / medians[1]} if len(medians) == 2 else {}


DECODE = Part(lambda rig: _steps(rig, rig.scale.decode))
"""Rows that decode, with equally much behind them."""
SKEWED = Part(lambda rig: _steps(rig, rig.scale.skewed), _ratio)
"""One long row beside short ones, against equal rows with as much KV together."""
MIXED = Part(lambda rig: _steps(rig, rig.scale.mixed))
"""Rows that decode and a chunk of a prompt in one step."""
PREFILL = Part(_prompts)
"""A whole prompt, in chunks, one step behind the other."""


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
