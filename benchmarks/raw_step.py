"""How many tokens a second does the compiled decode step make, without any scheduler around it?

The loop is the worker's own (`serving/engine/raw_loop`). Each row decodes at its own pages;
contexts grow from `context` on.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.figures import Figure, figure
from model.attention.paged import BLOCKED
from model.config import load_config
from model.sharding import DECODE, param_shardings
from model.weights import load_params
from serving.config import BatchConfig, MemoryConfig, MeshConfig
from serving.engine import raw_loop
from serving.engine.executor import JaxExecutor
from serving.engine.meshes import make_meshes
from serving.engine.programs import ExecutorSizes, Moves, Site
from serving.messages import Role

ROWS = (1, 4, 16, 64)
CONTEXT = 256  # tokens behind each row when its measurement starts
STEPS = 64  # steps of one measurement
REPEATS = 5


def measure(checkpoint: Path, *, rows: tuple[int, ...], context: int, steps: int) -> dict[str, Any]:
    """Return, for each number of rows, tokens a second over `REPEATS` repeats of `steps` steps.

    Blocks for start-up and about a minute; raises CheckpointError for a bad checkpoint.
    """
    executor = _executor(checkpoint, max(rows), context + steps)
    rates = {count: _rate(executor, count, context, steps) for count in rows}
    return {
        "context": context,
        "steps": steps,
        "tokens_per_s": {str(count): rate for count, rate in rates.items()},
    }


def _executor(checkpoint: Path, max_rows: int, total: int) -> JaxExecutor:
    config = load_config(checkpoint)
    (mesh,) = make_meshes(MeshConfig(), config, jax.devices())
    page_size = MemoryConfig().page_size
    batch = BatchConfig()
    sizes = ExecutorSizes(
        num_pages=1 + max_rows * -(-total // page_size),
        page_size=page_size,
        max_model_len=config.max_position,
        max_rows=max_rows,
        max_chunk_tokens=batch.max_num_batched_tokens,
        max_chunk_rows=batch.max_prefill_rows,
    )
    shardings = param_shardings(config, mesh.mesh, DECODE)
    params = load_params(checkpoint, config, shardings, jnp.dtype(config.dtype), None)
    site = Site(config, mesh.mesh, mesh.table, sizes, BLOCKED)
    executor = JaxExecutor(params, site, Role.DECODE, moves=Moves.NOWHERE)
    executor.warm_up(lambda done: None)
    raw_loop.load_slots(executor, max_rows)
    return executor


def _rate(executor: JaxExecutor, rows: int, context: int, steps: int) -> Figure:
    pages = raw_loop.own_pages(executor.sizes, [context + steps] * rows)
    plans = [raw_loop.make_plan(pages, context + step, step, ()) for step in range(steps)]

    def run() -> None:
        raw_loop.drive(executor, plans)

    run()
    return figure([rows * steps / _timed(run) for _ in range(REPEATS)])


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    print(json.dumps(measure(Path(sys.argv[1]), rows=ROWS, context=CONTEXT, steps=STEPS), indent=2))
