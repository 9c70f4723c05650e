"""How many tokens a second does the compiled decode step make, without any scheduler around it?

The loop is the worker's own: one step is always queued behind the one that runs, and every step's
ids are read back. Each row decodes at its own pages; contexts grow from `context` on.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.figures import Figure, figure
from model.config import load_config
from model.sharding import DECODE, param_shardings
from model.weights import load_params
from serving.config import BatchConfig, MemoryConfig, MeshConfig
from serving.core.plan import DecodeRows, LoadSlot, StepPlan
from serving.engine.executor import JaxExecutor
from serving.engine.meshes import make_meshes
from serving.engine.program_store import ProgramStore
from serving.engine.programs import ExecutorSizes, Site
from serving.messages import Role, TaskId
from serving.request import SamplingParams, TurnId

ROWS = (1, 4, 16, 64)
CONTEXT = 256  # tokens behind each row when its measurement starts
STEPS = 64  # steps of one measurement
REPEATS = 5

GREEDY = SamplingParams(
    max_tokens=STEPS,
    min_tokens=0,
    temperature=0.0,
    top_k=None,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    logit_bias=(),
    allowed_ids=None,
    stop_ids=(),
    seed=0,
    logprobs=None,
    prompt_logprobs=None,
)


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
    site = Site(config, mesh.mesh, mesh.table, sizes, "blocked")
    executor = JaxExecutor(params, site, Role.DECODE, ProgramStore())
    executor.warm_up(lambda done: None)
    for slot in range(max_rows):
        executor.load_slot(LoadSlot(slot, GREEDY, (), ()))
    return executor


def _rate(executor: JaxExecutor, rows: int, context: int, steps: int) -> Figure:
    plans = _plans(executor.sizes, rows, context, steps)
    _timed(lambda: _run(executor, plans))
    return figure([rows * steps / _timed(lambda: _run(executor, plans)) for _ in range(REPEATS)])


def _run(executor: JaxExecutor, plans: list[StepPlan]) -> None:
    pending = executor.launch(plans[0])
    for plan in plans[1:]:
        behind = executor.launch(plan)
        executor.collect(pending)
        pending = behind
    executor.collect(pending)


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _plans(sizes: ExecutorSizes, rows: int, context: int, steps: int) -> list[StepPlan]:
    """One plan a step; row r owns the r-th run of pages."""
    own = -(-(context + steps) // sizes.page_size)
    pages = np.zeros((rows, sizes.max_pages), np.int32)
    pages[:, :own] = 1 + np.arange(rows * own).reshape(rows, own)
    tasks = tuple(TaskId(TurnId(str(row)), 0) for row in range(rows))

    def plan(step: int) -> StepPlan:
        decode = DecodeRows(
            slot=np.arange(rows, dtype=np.int32),
            position=np.full(rows, context + step, np.int32),
            token=np.zeros(rows, np.int32),
            from_host=np.full(rows, step == 0),
            reply_index=np.full(rows, step, np.int32),
            pages=pages,
        )
        return StepPlan(decode, (), False, tasks, ())

    return [plan(step) for step in range(steps)]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    print(json.dumps(measure(Path(sys.argv[1]), rows=ROWS, context=CONTEXT, steps=STEPS), indent=2))
