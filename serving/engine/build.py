"""How does a configuration become warm workers? Sizes first, then weights and pools, then programs.

Knows nothing of HTTP or of the event loop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from tqdm import tqdm

from model.attention.choice import AttentionError, Chosen, choose
from model.config import ModelConfig, load_config
from model.parameters import weight_bytes
from model.sharding import param_shardings
from model.weights import load_params
from serving.assembly import (
    batcher_limits,
    batcher_rules,
    coordinator_limits,
    coordinator_rules,
    costs_by_role,
    kv_budget,
    length_model,
    name_workers,
    remembered_sessions,
)
from serving.config import ConfigError, ServerConfig, require
from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.holdings import BatcherLimits
from serving.core.rules import BatcherRules
from serving.costs.shape import shape_of
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.executor import JaxExecutor
from serving.engine.length_head import LengthHead, NoHead, find_length_head
from serving.engine.meshes import WorkerMesh, make_meshes
from serving.engine.probe import Probe
from serving.engine.programs import ExecutorSizes, Site, page_bytes
from serving.engine.worker import Post, Worker
from serving.messages import Role
from serving.policy.admit import pages_for

CPU_POOL_BYTES = 128 * 2**20
"""KV pool of a worker on CPU devices, where nobody tells how much memory is ours."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A configuration with every open size settled."""

    config: ServerConfig
    model: ModelConfig
    max_model_len: int
    head: LengthHead | NoHead
    attention: Chosen


def settle(config: ServerConfig) -> Deployment:
    """Read the model's own limits and find its length head, if it has one that fits.

    JAX's devices must have been made before. Raises CheckpointError or ConfigError.
    """
    source = config.model
    model = load_config(
        Path(config.checkpoint),
        dtype=None if source.dtype == "auto" else source.dtype,
        quantize=source.weight_format,
        kv_dtype=source.kv_kept_as,
    )
    wanted = config.memory.max_model_len or model.max_position
    require(
        wanted <= model.max_position,
        f"--max-model-len {wanted} is above the model's own limit of {model.max_position} tokens",
    )
    head = find_length_head(config.forecast, Path(config.checkpoint), model, wanted)
    return Deployment(config, model, wanted, head, _attention(config, model))


def _attention(config: ServerConfig, model: ModelConfig) -> Chosen:
    """Choose one backend for all workers; raises ConfigError if the one asked for cannot serve."""
    mesh, wanted = config.mesh, config.model.attention
    try:
        return choose(
            wanted,
            model,
            page_size=config.memory.page_size,
            degrees=(mesh.prefill_tp, mesh.decode_tp),
            platform=jax.default_backend(),
        )
    except AttentionError as error:
        raise ConfigError(f"--attention {error}; leave it out for one that can") from error


def make_coordinator(deployment: Deployment) -> Coordinator:
    """Make the coordinator of a deployment; its workers join later."""
    schedule, memory = deployment.config.schedule, deployment.config.memory
    page_size = memory.page_size
    limits = coordinator_limits(
        schedule, max_model_len=deployment.max_model_len, page_size=page_size
    )
    sessions = remembered_sessions(schedule, page_size)
    config = deployment.config
    costs = costs_by_role(config, shape_of(deployment.model), jax.devices()[0].device_kind)
    rules = coordinator_rules(deployment.config, costs)
    return Coordinator(limits, rules, sessions, length_model(deployment.config))


@dataclass(frozen=True, slots=True)
class ColdWorker:
    """A worker with its weights and its pool on its mesh, and nothing compiled yet."""

    mesh: WorkerMesh
    limits: BatcherLimits
    rules: BatcherRules
    executor: JaxExecutor


def load_workers(deployment: Deployment) -> list[ColdWorker]:
    """Load the weights to every mesh and make the pools, with progress on standard error.

    Whatever can be wrong with a checkpoint or with the meshes shows here: raises CheckpointError,
    ConfigError or MeshError.
    """
    meshes = make_meshes(deployment.config.mesh, deployment.model, jax.devices())
    limits = [_limits(deployment, mesh) for mesh in meshes]
    config = deployment.config
    costs = costs_by_role(config, shape_of(deployment.model), jax.devices()[0].device_kind)
    head = deployment.head
    reader = head.reader if isinstance(head, LengthHead) else None
    rules = {role: batcher_rules(deployment.config, known, reader) for role, known in costs.items()}
    return [
        ColdWorker(mesh, own, rules[mesh.role], _executor(deployment, mesh, own))
        for mesh, own in zip(meshes, limits, strict=True)
    ]


def warm_up(
    cold: Sequence[ColdWorker], post: Post, clock: Callable[[], float]
) -> list[tuple[Worker, Role, int]]:
    """Compile every bucket, with progress on standard error, and assemble the workers."""
    compile_programs(cold)
    return assemble(cold, post, clock)


def compile_programs(cold: Sequence[ColdWorker]) -> None:
    """Compile every bucket and run it once, with progress on standard error."""
    total = sum(worker.executor.num_programs for worker in cold)
    with tqdm(total=total, desc="warming up", unit="program") as bar:
        for worker in cold:
            worker.executor.warm_up(bar.update)


def assemble(
    compiled: Sequence[ColdWorker], post: Post, clock: Callable[[], float]
) -> list[tuple[Worker, Role, int]]:
    """Give compiled workers a connector and empty accounts.

    Returns the workers, not started yet, with their roles and capacities in tokens. May be called
    again once those of an earlier call have stopped: what these left in the pools is not known.
    """
    connector = InProcessConnector({w.mesh.worker: w.executor.payload_sharding for w in compiled})
    workers: list[tuple[Worker, Role, int]] = []
    for worker in compiled:
        connector.warm_up(worker.executor.blank_payloads())
        batcher = Batcher(worker.mesh.worker, worker.limits, worker.rules)
        capacity = worker.limits.num_pages * worker.limits.page_size
        workers.append(
            (Worker(batcher, worker.executor, connector, post, clock), worker.mesh.role, capacity)
        )
    return workers


def _limits(deployment: Deployment, mesh: WorkerMesh) -> BatcherLimits:
    memory, batch = deployment.config.memory, deployment.config.batch
    schedule = deployment.config.schedule
    pages = memory.kv_pages
    bytes_per_page = page_bytes(deployment.attention.backend, deployment.model, memory.page_size)
    if pages is None:
        pages = default_pages(deployment, bytes_per_page, _free_bytes(deployment, mesh))
    return batcher_limits(
        batch,
        schedule,
        memory,
        num_pages=pages,
        max_model_len=deployment.max_model_len,
        page_bytes=bytes_per_page,
    )


def _executor(deployment: Deployment, mesh: WorkerMesh, limits: BatcherLimits) -> JaxExecutor:
    """Load one worker's weights and allocate its pool."""
    model = deployment.model
    sizes = ExecutorSizes(
        num_pages=limits.num_pages,
        page_size=limits.page_size,
        max_model_len=limits.max_model_len,
        max_rows=limits.max_rows,
        max_chunk_tokens=limits.max_chunk_tokens,
        max_chunk_rows=limits.max_chunk_rows,
    )
    head = deployment.head
    probe = Probe(head.spec) if isinstance(head, LengthHead) else None
    site = Site(model, mesh.mesh, mesh.table, sizes, deployment.attention.backend, probe)
    shardings = param_shardings(model, mesh.mesh, mesh.table)
    with tqdm(desc=f"{mesh.worker} weights", unit="B", unit_scale=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        path = deployment.config.checkpoint
        params = load_params(path, model, shardings, jnp.dtype(model.dtype), progress)
    config = deployment.config
    role = Role.BOTH if config.mesh.flexible_roles else mesh.role
    moves = len(name_workers(config.mesh)) > 1
    return JaxExecutor(
        params,
        site,
        role,
        moves_pages=moves or limits.host_pages > 0,
        head_weights=head.weights if isinstance(head, LengthHead) else None,
    )


def _free_bytes(deployment: Deployment, mesh: WorkerMesh) -> int | None:
    """Bytes of KV that the worker's devices shall hold beside its weights; None on a CPU."""
    devices = mesh.mesh.devices.flatten().tolist()
    stats = devices[0].memory_stats()
    if stats is None or "bytes_limit" not in stats:
        return None
    fraction = deployment.config.memory.memory_fraction
    weights = weight_bytes(deployment.model)
    return kv_budget(stats["bytes_limit"], fraction, len(devices), weights)


def default_pages(deployment: Deployment, bytes_per_page: int, free_bytes: int | None) -> int:
    """Choose the size of a worker's pool: what fits, and at least one longest conversation."""
    memory = deployment.config.memory
    least = pages_for(deployment.max_model_len, memory.page_size) + 1
    budget = CPU_POOL_BYTES if free_bytes is None else free_bytes
    return max(least, budget // bytes_per_page)
