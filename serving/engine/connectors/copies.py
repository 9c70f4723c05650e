"""How does a payload get from one mesh to another without its host waiting for either?

`device_put` copies from device to device where every part that is wanted is one that some device
has, and cuts what lies on a single device. Anything else it takes through the host, which then
waits for the step that computes it. So what has to be cut in another way is gathered first, by a
program of its sender's mesh, behind that step. Nothing is put together at the receiver: its own
steps would wait.
"""

from collections.abc import Iterable

import jax
from jax.sharding import NamedSharding, PartitionSpec

from serving.engine.connectors.connector import Payload


class Copies:
    """Starts copies between the meshes of one process."""

    def __init__(self, shardings: Iterable[NamedSharding]) -> None:
        """Nothing is compiled yet; pages lie in one of these ways where their copies start."""
        wholes = {sharding.mesh: _whole(sharding) for sharding in shardings}
        self._gather = {
            mesh: jax.jit(_as_they_are, out_shardings=whole) for mesh, whole in wholes.items()
        }

    def start(self, payload: Payload, sharding: NamedSharding) -> Payload:
        """Start a copy, and return what will be there; `sharding` is that of its pages."""
        pages, own = payload.pages, payload.pages.sharding
        alike = own.shard_shape(pages.shape) == sharding.shard_shape(pages.shape)
        if isinstance(own, NamedSharding) and own.num_devices > 1 and not alike:
            # All of it on every device of the sender: meshes of two degrees pay with memory.
            pages = self._gather[own.mesh](pages).addressable_shards[0].data
        trace = jax.device_put(payload.trace, _whole(sharding))
        return Payload(jax.device_put(pages, sharding), trace)


def _as_they_are(pages: jax.Array) -> jax.Array:
    """Return pages. By its name JAX finds what it has compiled for an earlier connector."""
    return pages


def _whole(sharding: NamedSharding) -> NamedSharding:
    """Return how an array lies whole on every device of that mesh."""
    return NamedSharding(sharding.mesh, PartitionSpec())
