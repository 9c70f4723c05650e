"""What is the cost profile of a worker that does everything? As `foretoken profile` would write it.

The profile stands in a file of its own, kept point by point, which `serve --costs` and the
simulator read as it is (and may be kept as `serving/costs/profiles/NAME.json`).
"""

from datetime import date
from typing import Any

import jax

from benchmarks.h200.part import alone
from benchmarks.h200.rig import PAGE_SIZE, Rig
from serving.costs.hardware import PRESETS, preset_for
from serving.costs.measured import Grid, Origin, WorkerShape, write_measured
from serving.costs.profile import Profile
from serving.costs.roofline import Roofline
from serving.costs.shape import shape_of
from serving.engine.profile import make_timers, measure, start_file
from serving.engine.profile_grid import plan_grid
from serving.engine.programs import ExecutorSizes, Moves
from serving.messages import Role


def _grid(rig: Rig) -> dict[str, Any]:
    """Time the grid of a colocated worker with the engine's own buckets.

    Raises ConfigError, and OutOfTimeError between two points, of which the file keeps those so far.
    """
    sizes, device = rig.scale.grid, jax.devices()[0].device_kind
    shape = WorkerShape(
        role=Role.BOTH,
        tp=1,
        max_rows=sizes.max_rows,
        max_chunk_tokens=sizes.max_chunk_tokens,
        max_chunk_rows=sizes.max_chunk_rows,
        page_size=PAGE_SIZE,
        max_model_len=sizes.max_model_len,
    )
    measured = start_file(rig.costs, Origin(shape_of(rig.config), device, jax.__version__))
    rig.say("compiling the engine's own buckets")
    executor = rig.executor(
        ExecutorSizes(
            num_pages=1 + sizes.kv_tokens // PAGE_SIZE,
            page_size=PAGE_SIZE,
            max_model_len=sizes.max_model_len,
            max_rows=sizes.max_rows,
            max_chunk_tokens=sizes.max_chunk_tokens,
            max_chunk_rows=sizes.max_chunk_rows,
        ),
        None,
        moves=Moves.NOWHERE,
    )
    plan = plan_grid(executor.buckets, executor.sizes)
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        rig.say(f"point {done} of {len(plan.steps)}")
        if done < len(plan.steps):
            rig.check_time()

    def save(points: Grid) -> None:
        nonlocal measured
        measured = measured.with_grid(points, date.today().isoformat())
        write_measured(rig.costs, measured)

    timers = make_timers(executor, None, sizes.repeats, rig.clock)
    measure(shape, plan, measured.grid(Role.BOTH, 1), timers, save, progress)
    finished = measured.grid(Role.BOTH, 1)
    assert finished is not None
    hardware = preset_for(device) or PRESETS["cpu"]
    Profile(finished, Roofline(shape_of(rig.config), hardware, 1))  # raises unless it is whole
    return {"file": rig.costs.name, "points": len(finished.steps)}


GRID = alone(_grid)
