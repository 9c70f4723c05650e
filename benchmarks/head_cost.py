"""What does the length head cost a decode step? With and without it in turns, in one process.

`python -m benchmarks.head_cost CHECKPOINT --out FILE` drives the compiled step at 16 rows, once as
it is and once with the head read every 20 steps, its curves folded, calibrated and turned into
forecasts as a worker does. Each pair of runs gives one ratio; the figure is their median.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import jax
import jax.numpy as jnp
from tqdm import tqdm

from benchmarks.engine import make_turn
from benchmarks.machine import describe_code, describe_machine
from model.attention.paged import BLOCKED
from model.config import load_config
from model.sharding import DECODE, param_shardings
from model.weights import load_params
from serving.config import BatchConfig, ForecastConfig, MemoryConfig, MeshConfig
from serving.core.foresight import Foresight
from serving.core.plan import StepPlan
from serving.core.worker_task import WorkerTask, open_task
from serving.engine import raw_loop
from serving.engine.executor import JaxExecutor
from serving.engine.length_head import LengthHead, find_length_head
from serving.engine.meshes import make_meshes
from serving.engine.probe import Probe
from serving.engine.programs import ExecutorSizes, Moves, Site
from serving.forecast.survival import EDGES, Survival
from serving.messages import Prefill, Role, Task, TaskId
from serving.request import SessionId

ROWS, CONTEXT, STEPS = 16, 256, 100
PAIRS = 41


def make_executor(checkpoint: Path, head: LengthHead | None) -> JaxExecutor:
    """Compile the steps of one decode worker, and load greedy rows."""
    config = load_config(checkpoint)
    (mesh,) = make_meshes(MeshConfig(), config, jax.devices())
    page_size, batch = MemoryConfig().page_size, BatchConfig()
    sizes = ExecutorSizes(
        num_pages=1 + ROWS * -(-(CONTEXT + STEPS) // page_size),
        page_size=page_size,
        max_model_len=config.max_position,
        max_rows=ROWS,
        max_chunk_tokens=batch.max_num_batched_tokens,
        max_chunk_rows=batch.max_prefill_rows,
    )
    shardings = param_shardings(config, mesh.mesh, DECODE)
    params = load_params(checkpoint, config, shardings, jnp.dtype(config.dtype), None)
    probe = None if head is None else Probe(head.spec)
    executor = JaxExecutor(
        params,
        Site(config, mesh.mesh, mesh.table, sizes, BLOCKED, probe),
        Role.DECODE,
        moves=Moves.NOWHERE,
        head_weights=None if head is None else head.weights,
    )
    executor.warm_up(lambda done: None)
    raw_loop.load_slots(executor, ROWS)
    return executor


def drive(executor: JaxExecutor, plans: Sequence[StepPlan], foresight: Foresight | None) -> float:
    """Run steps as a worker does, one always queued behind the one that runs; returns seconds."""
    rows = [_row(number) for number in range(ROWS)]
    began = time.perf_counter()
    pending = executor.launch(plans[0])
    for number in range(len(plans)):
        behind = executor.launch(plans[number + 1]) if number + 1 < len(plans) else None
        result = executor.collect(pending)
        if foresight is not None and plans[number].reads:
            assert result.decode_readings is not None
            foresight.read(rows, [number + 1] * ROWS, result.decode_readings)
        if behind is not None:
            pending = behind
    return time.perf_counter() - began


def _row(number: int) -> WorkerTask:
    turn = make_turn(f"row-{number}", [1] * CONTEXT, STEPS, None)
    forever = Survival((*[1.0] * (len(EDGES) - 1), 0.0))
    task = Task(TaskId(turn.id, 0), turn, SessionId("s"), turn.tokens, 0, 0.0, turn.slo, forever)
    return open_task(Prefill(task, None, pull=False, reuse=True), MemoryConfig().page_size)


def measure(checkpoint: Path) -> dict[str, Any]:
    """Measure; raises click.ClickException if the checkpoint has no head."""
    config = load_config(checkpoint)
    how = ForecastConfig()
    head = find_length_head(how, checkpoint, config, config.max_position)
    if not isinstance(head, LengthHead):
        raise click.ClickException(f"{checkpoint}: length head: {head}")
    plain, headed = make_executor(checkpoint, None), make_executor(checkpoint, head)
    pages = raw_loop.own_pages(plain.sizes, [CONTEXT + STEPS] * ROWS)
    every = how.length_head_every
    plans = [
        raw_loop.make_plan(pages, CONTEXT + i, i, (), reads=i % every == 0) for i in range(STEPS)
    ]
    foresight = Foresight(head.reader)
    ratios: list[float] = []
    seconds: dict[str, list[float]] = {"without": [], "with": []}
    for pair in tqdm(range(PAIRS + 2), unit="pair", desc="measuring"):
        order = (plain, headed) if pair % 2 else (headed, plain)
        took = {one: drive(one, plans, foresight if one is headed else None) for one in order}
        if pair >= 2:  # the first two warm up
            ratios.append(took[headed] / took[plain])
            seconds["without"].append(took[plain] / STEPS)
            seconds["with"].append(took[headed] / STEPS)
    low, *_, high = quantiles(ratios, n=4)
    return {
        "rows": ROWS,
        "context": CONTEXT,
        "read_every": every,
        "step_ms": {name: 1e3 * median(values) for name, values in seconds.items()},
        "ratio": {"median": median(ratios), "quartiles": [low, high], "pairs": PAIRS},
        "head_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(head.weights)),
        "trace_bytes": sum(
            leaf.nbytes for leaf in jax.tree.leaves(Probe(head.spec).empty(ROWS + 1))
        ),
    }


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(checkpoint: Path, out: Path) -> None:
    """Measure what the length head of CHECKPOINT costs."""
    jax.config.update("jax_platforms", "cpu")
    found = {
        "machine": describe_machine(),
        "code": describe_code(Path.cwd()),
        **measure(checkpoint),
    }
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
