"""Which devices does each worker own? Disjoint meshes, cut from the list of devices in order.

Knows nothing of programs or weights. `make_cpu_devices` must run before JAX starts its backend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from model.config import ModelConfig
from model.sharding import DECODE, PREFILL, TENSOR, ShardingError, Table, check_degree
from serving.assembly import name_workers
from serving.config import ConfigError, MeshConfig
from serving.messages import Role, WorkerId


class MeshError(ConfigError):
    """The meshes asked for cannot be made; one line for a person."""


@dataclass(frozen=True)
class WorkerMesh:
    """One worker's name, role and devices, and how its arrays are split over them."""

    worker: WorkerId
    role: Role
    mesh: Mesh
    table: Table


def make_cpu_devices(count: int) -> None:
    """Let JAX split the CPU into `count` devices, unless it will run on an accelerator.

    Raises RuntimeError if JAX's backend has started already.
    """
    jax.config.update("jax_num_cpu_devices", count)


def make_meshes(config: MeshConfig, model: ModelConfig, devices: Sequence[Any]) -> list[WorkerMesh]:
    """Give every worker its own devices: prefill workers first.

    Without prefill workers, the decode workers do both. Raises MeshError if there are too few
    devices, or if a degree does not divide the model.
    """
    for flag, count, degree in (
        ("--prefill-tp", config.prefill_workers, config.prefill_tp),
        ("--decode-tp", config.decode_workers, config.decode_tp),
    ):
        try:
            check_degree(model, degree if count else 1)
        except ShardingError as error:
            raise MeshError(f"{flag} {degree}: {error}") from error
    if config.devices_needed > len(devices):
        raise MeshError(
            f"the workers need {config.devices_needed} devices "
            f"({config.prefill_workers} x {config.prefill_tp} to prefill, "
            f"{config.decode_workers} x {config.decode_tp} to decode), "
            f"but this machine has {len(devices)}"
        )
    meshes: list[WorkerMesh] = []
    free = list(devices)
    for name, role in name_workers(config):
        prefills = role is Role.PREFILL
        degree = config.prefill_tp if prefills else config.decode_tp
        own, free = free[:degree], free[degree:]
        mesh = Mesh(np.array(own), (TENSOR,))
        meshes.append(WorkerMesh(name, role, mesh, PREFILL if prefills else DECODE))
    return meshes
