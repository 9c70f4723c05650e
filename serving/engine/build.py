"""How does a configuration become warm workers? Sizes first, then weights and pools, then programs.

Knows nothing of HTTP or of the event loop.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from model.apart import apart
from model.attention.choice import AttentionError, Chosen, choose
from model.config import ModelConfig, load_config
from model.parameters import Params, weight_bytes
from model.random_weights import draw_params
from model.sharding import ShardingError, check_degree, param_shardings
from model.tensor_files import can_be_read, weight_files
from model.weights import Progress, load_params
from serving.assembly import (
    batcher_limits,
    batcher_rules,
    coordinator_limits,
    coordinator_rules,
    costs_by_role,
    length_model,
    name_workers,
    remembered_sessions,
)
from serving.config import ConfigError, MeshConfig, ServerConfig, require
from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.limits import BatcherLimits
from serving.core.rules import BatcherRules
from serving.costs.costs import Costs
from serving.costs.padded import Padded
from serving.costs.shape import shape_of
from serving.engine.buckets import least_rows, make_buckets
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.device_memory import memory_of
from serving.engine.executor import JaxExecutor
from serving.engine.free_memory import ROOT, free_host_bytes
from serving.engine.length_head import AUTO, NONE, LengthHead, NoHead, find_length_head
from serving.engine.meshes import WorkerMesh, make_meshes
from serving.engine.probe import Probe
from serving.engine.programs import ExecutorSizes, Moves, Site, page_bytes
from serving.engine.room import Room, check_host, settle_pages, unused_host
from serving.engine.warm_times import warm_times
from serving.engine.worker import Post, WarmWorker, Worker
from serving.messages import Role

if TYPE_CHECKING:  # a server without grammars needs no llguidance
    from serving.engine.grammars import Grammars


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
    check_weights(config)
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


def check_weights(config: ServerConfig) -> None:
    """Raise ConfigError unless the model directory has weights, or random ones are asked for.

    Not both: whoever has the weights and serves others has most likely forgotten a flag.
    """
    directory = Path(config.checkpoint)
    found = weight_files(directory)
    if not config.model.random_weights:
        require(
            any(can_be_read(file) for file in found),
            f"{directory}: no *.safetensors weights in it; --random-weights draws some"
            " of the size that its config.json says, to measure speed",
        )
        return
    require(
        not found,
        f"--random-weights: {directory} has weights ({found[0] if found else ''}); leave the flag"
        " out to serve them, or copy config.json and the tokenizer to a directory of their own",
    )
    require(
        config.forecast.length_head in (AUTO, NONE),
        f"--length-head {config.forecast.length_head}: no head belongs to random weights;"
        " leave it out",
    )


def make_coordinator(deployment: Deployment) -> Coordinator:
    """Make the coordinator of a deployment; its workers join later."""
    schedule, memory = deployment.config.schedule, deployment.config.memory
    page_size = memory.page_size
    limits = coordinator_limits(
        schedule, max_model_len=deployment.max_model_len, page_size=page_size
    )
    sessions = remembered_sessions(schedule, page_size)
    config = deployment.config
    rules = coordinator_rules(config, step_costs(deployment))
    return Coordinator(limits, rules, sessions, length_model(deployment.config))


def step_costs(deployment: Deployment) -> dict[Role, Costs]:
    """Make the latency model of each role: as measured, else as described and padded."""
    config, device = deployment.config, jax.devices()[0]
    costs = costs_by_role(config, shape_of(deployment.model), device.device_kind)
    if config.costs.costs is not None:
        return costs
    found: dict[Role, Costs] = {}
    for role, described in costs.items():
        buckets = make_buckets(
            Role.BOTH if config.mesh.flexible_roles else role,
            min_rows=least_rows(device.platform),
            max_rows=config.batch.max_num_seqs,
            max_tokens=config.batch.max_num_batched_tokens,
            max_chunks=config.batch.max_prefill_rows,
            max_pages=0,
        )
        found[role] = Padded(described, lru_cache(buckets.pad))
    return found


@dataclass(frozen=True, slots=True)
class ColdWorker:
    """A worker with its weights and its pool on its mesh, and nothing compiled yet."""

    mesh: WorkerMesh
    limits: BatcherLimits
    rules: BatcherRules
    executor: JaxExecutor


def load_workers(deployment: Deployment, grammars: "Grammars | None" = None) -> list[ColdWorker]:
    """Load the weights to every mesh and make the pools, with progress on standard error.

    `grammars` are those of the model's tokenizer; without them no turn may have one.

    Whatever can be wrong with a checkpoint or with the meshes shows here: raises CheckpointError,
    ConfigError or MeshError.
    """
    meshes = make_meshes(deployment.config.mesh, deployment.model, jax.devices())
    rooms = [_room(deployment, mesh) for mesh in meshes]
    limits = [_limits(deployment, room) for room in rooms]
    pools = [(room, own.num_pages) for room, own in zip(rooms, limits, strict=True)]
    check_host(deployment.config.memory, free_host_bytes(ROOT), pools)
    head, costs = deployment.head, step_costs(deployment)
    reader = head.reader if isinstance(head, LengthHead) else None
    rules = {role: batcher_rules(deployment.config, known, reader) for role, known in costs.items()}
    with short_memory_told():
        return [
            ColdWorker(mesh, own, rules[mesh.role], _executor(deployment, mesh, own, grammars))
            for mesh, own in zip(meshes, limits, strict=True)
        ]


def host_notice(deployment: Deployment, cold: Sequence[ColdWorker]) -> str | None:
    """Say what host memory could be used for that is not; None on CPUs, whose pools are there."""
    if any(one.mesh.mesh.devices.flat[0].platform == "cpu" for one in cold):
        return None
    return unused_host(deployment.config.memory, free_host_bytes(ROOT), len(cold))


@contextmanager
def short_memory_told() -> Iterator[None]:
    """Tell in one line that a device has too little memory, and what to lower: ConfigError."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        problem = str(error).partition("\n")[0]
        if not problem.startswith("RESOURCE_EXHAUSTED"):
            raise
        raise ConfigError(
            f"a device has too little memory ({problem.removeprefix('RESOURCE_EXHAUSTED: ')});"
            " lower --max-num-seqs, --max-num-batched-tokens, --kv-pages or --memory-fraction"
        ) from error


def warm_up(cold: Sequence[ColdWorker], post: Post, clock: Callable[[], float]) -> list[WarmWorker]:
    """Compile every bucket, with progress on standard error, and assemble the workers."""
    compile_programs(cold)
    return assemble(cold, post, clock)


def compile_programs(cold: Sequence[ColdWorker]) -> None:
    """Compile every bucket and run it once, with progress on standard error."""
    total = sum(worker.executor.num_programs for worker in cold)
    with short_memory_told(), tqdm(total=total, desc="warming up", unit="program") as bar:
        for worker in cold:
            worker.executor.warm_up(bar.update)


def assemble(
    compiled: Sequence[ColdWorker], post: Post, clock: Callable[[], float]
) -> list[WarmWorker]:
    """Give compiled workers a connector and empty accounts.

    Returns the workers, not started yet. May be called
    again once those of an earlier call have stopped: what these left in the pools is not known.
    """
    connector = InProcessConnector({w.mesh.worker: w.executor.payload_sharding for w in compiled})
    workers: list[WarmWorker] = []
    for worker in compiled:
        connector.warm_up(worker.executor.blank_payloads())
        executor = worker.executor
        timed = warm_times(worker.rules.costs, executor.buckets, executor.padding_s)
        batcher = Batcher(worker.mesh.worker, worker.limits, worker.rules)
        batcher.correct(timed)
        capacity = worker.limits.num_pages * worker.limits.page_size
        warm = Worker(batcher, executor, connector, post, clock)
        workers.append(WarmWorker(warm, worker.mesh.role, capacity, timed))
    return workers


def _limits(deployment: Deployment, room: Room) -> BatcherLimits:
    memory, batch = deployment.config.memory, deployment.config.batch
    schedule = deployment.config.schedule
    return batcher_limits(
        batch,
        schedule,
        memory,
        num_pages=settle_pages(room, memory, deployment.max_model_len),
        max_model_len=deployment.max_model_len,
        page_bytes=room.page_bytes,
    )


def _executor(
    deployment: Deployment, mesh: WorkerMesh, limits: BatcherLimits, grammars: "Grammars | None"
) -> JaxExecutor:
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

        params = _params(deployment, shardings, progress)
    if site.unrolls:
        params = apart(params)
    config = deployment.config
    role = Role.BOTH if config.mesh.flexible_roles else mesh.role
    moves = Moves.NOWHERE if len(name_workers(config.mesh)) == 1 else Moves.TO_WORKERS
    if limits.host_pages > 0:
        moves = Moves.TO_HOST
    return JaxExecutor(
        params,
        site,
        role,
        moves=moves,
        head_weights=head.weights if isinstance(head, LengthHead) else None,
        grammars=grammars,
    )


def _params(deployment: Deployment, shardings: dict[str, Any], progress: Progress) -> Params:
    """Load one worker's parameters, or draw them."""
    config, dtype = deployment.config, jnp.dtype(deployment.model.dtype)
    if config.model.random_weights:
        return draw_params(deployment.model, config.model.seed, shardings, dtype, progress)
    return load_params(config.checkpoint, deployment.model, shardings, dtype, progress)


def _room(deployment: Deployment, mesh: WorkerMesh) -> Room:
    """Say what a worker's devices have and what they are to hold."""
    config, model = deployment.config, deployment.model
    devices = mesh.mesh.devices.flatten().tolist()
    fraction = config.memory.memory_fraction
    own = memory_of(devices[0], fraction, os.environ)
    on_host = own is None
    each = free_host_bytes(ROOT) / config.mesh.devices_needed if own is None else own
    prefills = mesh.role is Role.PREFILL
    return Room(
        worker=mesh.worker,
        memory_bytes=each * len(devices),
        fraction=1.0 if on_host else fraction,
        on_host=on_host,
        weight_bytes=weight_bytes(model),
        lighter=_lighter(model),
        page_bytes=page_bytes(deployment.attention.backend, model, config.memory.page_size),
        degree=len(devices),
        degree_flag="--prefill-tp" if prefills else "--decode-tp",
        degrees=() if on_host else _larger_degrees(config.mesh, model, prefills=prefills),
    )


def _lighter(model: ModelConfig) -> dict[str, int]:
    """Return the bytes of a model's weights by the flags that make them fewer."""
    narrow, rounded = replace(model, dtype="bfloat16"), replace(model, quantize="int8")
    flags = {"--dtype bfloat16": narrow, "--quantize int8": rounded}
    found = {flag: weight_bytes(other) for flag, other in flags.items()}
    return {flag: size for flag, size in found.items() if size < weight_bytes(model)}


def _larger_degrees(mesh: MeshConfig, model: ModelConfig, *, prefills: bool) -> list[int]:
    """List the degrees above a role's own that the model allows and for which there are devices."""
    found: list[int] = []
    own = mesh.prefill_tp if prefills else mesh.decode_tp
    for degree in range(own + 1, len(jax.devices()) + 1):
        try:
            check_degree(model, degree)
        except ShardingError:
            continue
        wider = replace(mesh, prefill_tp=degree) if prefills else replace(mesh, decode_tp=degree)
        if wider.devices_needed <= len(jax.devices()):
            found.append(degree)
    return found
