"""How much of a step is the host's? The worker's loop against the device by itself.

`queued` steps are not read, so the device has all of them at hand: its own time, unless `launch`,
what the host takes to dispatch one, is longer. `loop` is the worker's: one step ahead, every step
read. `synchronous` is read before the next is launched.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from benchmarks.h200.part import Job, Part
from benchmarks.h200.rig import Rig
from benchmarks.h200.scale import uniform
from benchmarks.h200.timing import between_results, one_by_one, queued


def _jobs(rig: Rig) -> Mapping[str, Job]:
    return {f"{rows} rows": partial(_gap, rig, rows) for rows in rig.scale.gaps}


GAPS = Part(_jobs)
"""The seconds of a step in each manner, and the gaps between them."""


def _gap(rig: Rig, rows: int) -> dict[str, Any]:
    scale = rig.scale
    work = uniform(rows, scale.gap_context)
    executor = rig.executor_for([work])
    plan = rig.plan(work, executor.sizes)
    loop = between_results(
        executor, plan, steps=scale.steps, warm_runs=scale.warm_runs, clock=rig.clock
    )
    alone = queued(executor, plan, steps=scale.steps, repeats=scale.repeats, clock=rig.clock)
    whole, launching = one_by_one(executor, plan, steps=scale.steps, clock=rig.clock)
    return {
        "loop_s": loop,
        "queued_s": alone,
        "synchronous_s": whole,
        "launch_s": launching,
        "gap_s": loop["median"] - alone["median"],
        "synchronous_gap_s": whole["median"] - alone["median"],
        "host_bound": launching["median"] >= alone["median"],
    }
