"""Which latency models are decisions timed with? Those of the demo model, as a server asks them.

`profile` interpolates the grid that `foretoken profile` measures, with times out of the roofline in
place of measured ones: it is as costly to ask as a measured profile, and needs no file. Each is
corrected by ratios of steps that were observed, as in a coordinator that has run for a while.
"""

from collections.abc import Callable
from pathlib import Path

from model.config import load_config
from serving.config import BatchConfig, MemoryConfig
from serving.costs.correction import WINDOW, Corrected, Correction, step_bucket
from serving.costs.costs import Costs, Link
from serving.costs.hardware import PRESETS
from serving.costs.measured import Grid, StepPoint, TransferPoint, WorkerShape
from serving.costs.profile import Profile
from serving.costs.roofline import Roofline
from serving.costs.shape import shape_of
from serving.engine.buckets import make_buckets
from serving.engine.profile_grid import plan_grid
from serving.engine.programs import ExecutorSizes
from serving.messages import Role

LINK = Link(latency_s=500e-6, bytes_per_s=8 * 2.0**30)
NUM_PAGES = 4096
ERROR = 0.05


def roofline(checkpoint: Path) -> Costs:
    """Estimate from the descriptions of the model and of a CPU."""
    return _corrected(_roofline(checkpoint))


def profile(checkpoint: Path) -> Costs:
    """Interpolate a grid of the usual size."""
    estimates, page_size, batch = _roofline(checkpoint), MemoryConfig().page_size, BatchConfig()
    sizes = ExecutorSizes(
        num_pages=NUM_PAGES,
        page_size=page_size,
        max_model_len=load_config(checkpoint).max_position,
        max_rows=batch.max_num_seqs,
        max_chunk_tokens=batch.max_num_batched_tokens,
        max_chunk_rows=batch.max_prefill_rows,
    )
    buckets = make_buckets(
        Role.BOTH,
        min_rows=1,
        max_rows=sizes.max_rows,
        max_tokens=sizes.max_chunk_tokens,
        max_chunks=sizes.max_chunk_rows,
        max_pages=sizes.max_pages,
    )
    plan = plan_grid(buckets, sizes)
    steps = tuple(StepPoint(*work, estimates.mixed(*work).seconds, ERROR) for work in plan.steps)
    transfers: list[TransferPoint] = []
    for pages in plan.pages:
        num_bytes = pages * page_size * estimates.kv_bytes_per_token
        seconds = estimates.transfer(num_bytes, LINK).seconds
        transfers.append(TransferPoint(num_bytes, seconds, ERROR))
    worker = WorkerShape(
        role=Role.BOTH,
        tp=1,
        max_rows=sizes.max_rows,
        max_chunk_tokens=sizes.max_chunk_tokens,
        max_chunk_rows=sizes.max_chunk_rows,
        page_size=page_size,
        max_model_len=sizes.max_model_len,
    )
    return _corrected(Profile(Grid(worker, steps, tuple(transfers)), estimates))


COSTS: dict[str, Callable[[Path], Costs]] = {"roofline": roofline, "profile": profile}


def _roofline(checkpoint: Path) -> Roofline:
    return Roofline(shape_of(load_config(checkpoint)), PRESETS["cpu"], 1)


def _corrected(costs: Costs) -> Costs:
    """Correct every kind of step by a full window of ratios that differ a little."""
    correction = Correction()
    for i in range(WINDOW):
        for bucket in (step_bucket(64, 0), step_bucket(0, 256), step_bucket(64, 256)):
            correction.observe(bucket, 1.0, 1.1 + i / 1000)
    return Corrected(costs, correction)
