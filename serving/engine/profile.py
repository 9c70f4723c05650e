"""How long do steps take on this machine? Times every point of a grid, and keeps it in a file.

The file is written after every point, so a profile that was cut short goes on where it stopped:
points of the same model, device, JAX and buckets are kept. One worker of each role is made, as the
server would make it.
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from serving.assembly import name_workers
from serving.config import ConfigError, ServerConfig
from serving.core.plan import StepPlan
from serving.costs.measured import (
    Grid,
    Measured,
    Origin,
    StepPoint,
    TransferPoint,
    WorkerShape,
    check_device,
    check_model,
    read_measured,
    write_measured,
)
from serving.costs.shape import shape_of
from serving.engine import raw_loop
from serving.engine.build import ColdWorker, Deployment, load_workers, settle
from serving.engine.compile_cache import cache_directory, keep_compiled
from serving.engine.device_memory import claim, claim_host
from serving.engine.executor import JaxExecutor
from serving.engine.meshes import make_cpu_devices
from serving.engine.profile_grid import Plan, Work, plan_grid
from serving.engine.programs import ExecutorSizes
from serving.platforms import suited

STEPS = 8  # of one run: enough that the loop's first and last half-idle step do not show
MAD_TO_SIGMA = 1.4826  # standard deviation of a normal distribution by its median deviation


class Time(NamedTuple):
    """What repeats took: the median in seconds, and their deviation from it, relative.

    The deviation is estimated from the median one, so that a repeat in which the machine did
    something else does not count.
    """

    seconds: float
    error: float


@dataclass(frozen=True, slots=True)
class Timers:
    """How the points of one worker are timed; each call blocks for its repeats."""

    step: Callable[[Work], Time]
    transfer: Callable[[int], Time] | None
    """Moves so many pages to the worker. None if pages never come to it."""
    page_bytes: int


def profile(config: ServerConfig, given: Collection[str], out: Path, repeats: int) -> None:
    """Time the grid of one worker of each role, with progress on standard error; write it to `out`.

    Blocks for as long as it takes. Sizes that were not `given` suit the devices, as a server's do.
    Raises CheckpointError, ConfigError or MeshError for what
    cannot be profiled, and ConfigError for a file of something else.
    """
    mesh = config.mesh
    mesh = replace(mesh, prefill_workers=min(1, mesh.prefill_workers), decode_workers=1)
    claim(os.environ)
    claim_host(os.environ, config.memory.host_kv_gib, len(name_workers(mesh)))
    make_cpu_devices(mesh.devices_needed)
    config = suited(config, jax.default_backend(), given)
    deployment = settle(replace(config, mesh=mesh))
    if config.model.compilation_cache and jax.default_backend() != "tpu":
        keep_compiled(cache_directory(), least_seconds=0.0)
    origin = Origin(shape_of(deployment.model), jax.devices()[0].device_kind, jax.__version__)
    measured = start_file(out, origin)
    workers = _warm(deployment)
    plans = [plan_grid(w.executor.buckets, w.executor.sizes) for w in workers]
    senders = [w.executor for w in reversed(workers)] if len(workers) > 1 else [None]
    total = sum(len(plan.steps) + len(plan.pages) for plan in plans)
    with tqdm(total=total, desc="profiling", unit="point") as bar:
        for worker, plan, sender in zip(workers, plans, senders, strict=True):
            shape = _shape(worker)
            kept = measured.grid(shape.role, shape.tp)

            def save(grid: Grid) -> None:
                nonlocal measured
                measured = measured.with_grid(grid, date.today().isoformat())
                write_measured(out, measured)

            timers = make_timers(worker.executor, sender, repeats, time.perf_counter)
            measure(shape, plan, kept, timers, save, bar.update)


def start_file(path: Path, origin: Origin) -> Measured:
    """Return what a file holds already, or an empty one; raises ConfigError if it is another's."""
    if not path.exists():
        return Measured(origin, "", ())
    measured = read_measured(path)
    check_model(path, measured.origin.model, origin.model)
    check_device(path, measured.origin.device, origin.device)
    if measured.origin.jax != origin.jax:
        raise ConfigError(
            f"{path}: jax: measured with {measured.origin.jax}, this is {origin.jax};"
            " choose another --out"
        )
    return measured


def measure(
    worker: WorkerShape,
    plan: Plan,
    kept: Grid | None,
    timers: Timers,
    save: Callable[[Grid], None],
    progress: Callable[[int], Any],
) -> None:
    """Time what `kept` lacks of a plan, giving `save` the grid so far after each point.

    Points of other buckets, and such as the plan no longer asks for, are dropped.
    """
    if kept is None or kept.worker != worker:
        kept = Grid(worker, (), ())
    have = {Work(*point[:4]): point for point in kept.steps}
    steps = {work: have[work] for work in plan.steps if work in have}
    moved = {point.num_bytes: point for point in kept.transfers}
    sizes = {pages * timers.page_bytes: pages for pages in plan.pages if timers.transfer}
    transfers = {size: moved[size] for size in sizes if size in moved}

    def keep() -> None:
        save(Grid(worker, tuple(steps.values()), tuple(transfers.values())))
        progress(1)

    progress(len(steps) + len(transfers))
    for work in plan.steps:
        if work not in steps:
            steps[work] = StepPoint(*work, *timers.step(work))
            keep()
    for size, pages in sizes.items():
        if size not in transfers and timers.transfer:
            transfers[size] = TransferPoint(size, *timers.transfer(pages))
            keep()


def make_timers(
    executor: JaxExecutor,
    sender: JaxExecutor | None,
    repeats: int,
    clock: Callable[[], float],
) -> Timers:
    """Time the steps of a warm worker, and the pages that `sender` moves to it."""
    raw_loop.load_slots(executor, executor.sizes.max_rows)

    def step(work: Work) -> Time:
        plans = [plan_step(work, executor.sizes)] * STEPS
        raw_loop.drive(executor, plans)
        times = _repeat(lambda: raw_loop.drive(executor, plans), repeats, clock)
        return Time(times.seconds / STEPS, times.error)

    if sender is None:
        return Timers(step, None, executor.kv_bytes_per_page)

    def transfer(count: int) -> Time:
        pages = range(1, count + 1)
        _move(sender, executor, pages)
        return _repeat(lambda: _move(sender, executor, pages), repeats, clock)

    return Timers(step, transfer, executor.kv_bytes_per_page)


def plan_step(work: Work, sizes: ExecutorSizes) -> StepPlan:
    """Plan a step of this work, every row and the chunk on pages of its own."""
    lengths = [work.position + 1] * work.rows
    if not work.new_len:
        tables = raw_loop.own_pages(sizes, lengths)
        return raw_loop.make_plan(tables, work.position, 0, ())
    total = work.cached_len + work.new_len
    tables = raw_loop.own_pages(sizes, [*lengths, total])
    chunk = raw_loop.make_chunk(tables[-1], work.cached_len, work.new_len)
    return raw_loop.make_plan(tables[:-1], work.position, 0, [chunk])


def _move(sender: JaxExecutor, receiver: JaxExecutor, pages: Sequence[int]) -> None:
    """Move pages between meshes and wait until the receiver could read them."""
    receiver.scatter(jax.device_put(sender.gather(pages), receiver.payload_sharding), pages)
    jax.block_until_ready(receiver.gather(pages[:1]))


def _repeat(work: Callable[[], None], repeats: int, clock: Callable[[], float]) -> Time:
    times: list[float] = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    middle = median(times)
    spread = MAD_TO_SIGMA * median(abs(time - middle) for time in times)
    return Time(float(f"{middle:.5g}"), float(f"{spread / middle:.2g}"))


def _warm(deployment: Deployment) -> list[ColdWorker]:
    """Load the workers and compile their programs."""
    workers = load_workers(deployment)
    total = sum(worker.executor.num_programs for worker in workers)
    with tqdm(total=total, desc="warming up", unit="program") as bar:
        for worker in workers:
            worker.executor.warm_up(bar.update)
    return workers


def _shape(worker: ColdWorker) -> WorkerShape:
    sizes = worker.executor.sizes
    return WorkerShape(
        role=worker.mesh.role,
        tp=worker.mesh.mesh.size,
        max_rows=sizes.max_rows,
        max_chunk_tokens=sizes.max_chunk_tokens,
        max_chunk_rows=sizes.max_chunk_rows,
        page_size=sizes.page_size,
        max_model_len=sizes.max_model_len,
    )
