"""How do pages cross between meshes of one process? By `device_put`, which also reshards."""

from collections.abc import Mapping
from threading import Lock

import jax
from jax.sharding import NamedSharding

from serving.messages import TransferId, WorkerId


class InProcessConnector:
    """Payloads that have been sent and not yet taken, on the mesh of their receiver."""

    def __init__(self, shardings: Mapping[WorkerId, NamedSharding]) -> None:
        """`shardings[worker]` is how a payload [L, n, 2, K, page_size, H] lies on its mesh."""
        self._shardings = shardings
        self._payloads: dict[TransferId, jax.Array] = {}
        self._lock = Lock()

    def send(self, transfer: TransferId, payload: jax.Array, to: WorkerId) -> int:
        """Start the copy. Raises KeyError for an unknown worker."""
        arrived = jax.device_put(payload, self._shardings[to])
        with self._lock:
            self._payloads[transfer] = arrived
        return payload.nbytes

    def take(self, transfer: TransferId) -> jax.Array:
        """Hand a payload over, once."""
        with self._lock:
            return self._payloads.pop(transfer)

    def drop(self, transfer: TransferId) -> None:
        """Forget a payload."""
        with self._lock:
            self._payloads.pop(transfer, None)

    def __len__(self) -> int:
        """Count payloads that nobody has taken yet."""
        return len(self._payloads)
