"""Which dimension of which array is split over a worker's devices? Tables, and what they imply.

Model code names logical axes; a table maps them to mesh axes. Prefill and decode have a table each,
equal today, so that the two sides can come to differ without the model noticing. Knows nothing of
how many workers there are or which devices they own.
"""

from collections.abc import Mapping

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.config import ModelConfig
from model.parameters import Params, stored

TENSOR = "tp"  # the mesh axis of tensor parallelism

Table = Mapping[str, str | None]

_WHOLE = dict.fromkeys(
    ("layers", "embed", "queries", "qkv_group", "head_dim", "gate_up", "pages", "pair", "position")
)
PREFILL: Table = {**_WHOLE, "vocab": TENSOR, "kv_heads": TENSOR, "mlp": TENSOR}
DECODE: Table = {**_WHOLE, "vocab": TENSOR, "kv_heads": TENSOR, "mlp": TENSOR}


class ShardingError(ValueError):
    """A model cannot be split as asked; one line for a person."""


def partition(axes: tuple[str, ...], table: Table) -> P:
    """Return the partition of an array with these logical axes.

    Raises ShardingError for an unknown axis, or if two axes claim the same mesh axis.
    """
    unknown = [axis for axis in axes if axis not in table]
    if unknown:
        raise ShardingError(f"no sharding is given for logical axis {unknown[0]!r}")
    claimed = [table[axis] for axis in axes]
    used = [mesh_axis for mesh_axis in claimed if mesh_axis is not None]
    if len(set(used)) != len(used):
        raise ShardingError(f"logical axes {', '.join(axes)} claim one mesh axis twice")
    return P(*claimed)


def param_partitions(config: ModelConfig, table: Table) -> Params:
    """Return the partition of every array of the parameters, in their own tree."""
    return jax.tree.map(lambda kept: partition(kept.axes, table), stored(config))


def param_shardings(config: ModelConfig, mesh: Mesh, table: Table) -> Params:
    """Return the sharding of every array of the parameters on `mesh`, in their own tree."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        param_partitions(config, table),
        is_leaf=lambda node: isinstance(node, P),
    )


def check_degree(config: ModelConfig, degree: int) -> None:
    """Raise ShardingError unless `degree` devices can share the model evenly."""
    problem = config.shared.problem(degree)
    if problem is not None:
        raise ShardingError(f"tensor-parallel degree {degree} {problem}")
