"""How do pages cross between meshes of one process? By `device_put`, which also reshards."""

from collections.abc import Iterable, Mapping
from threading import Lock

import jax
from jax.sharding import NamedSharding

from serving.messages import TransferId, WorkerId


class InProcessConnector:
    """Payloads that have been sent and not yet taken, on the mesh of their receiver."""

    def __init__(self, shardings: Mapping[WorkerId, NamedSharding]) -> None:
        """`shardings[worker]` is how a payload [L, n, 2, K, page_size, H] lies on its mesh."""
        self._shardings = dict(shardings)
        self._payloads: dict[TransferId, tuple[WorkerId, jax.Array]] = {}
        self._lock = Lock()

    def warm_up(self, payloads: Iterable[jax.Array]) -> None:
        """Copy payloads of every size from one worker to all others: no copy compiles later.

        Between meshes of one degree shard goes to shard, which needs no program.
        """
        for payload in payloads:
            for sharding in self._shardings.values():
                if sharding.num_devices != payload.sharding.num_devices:
                    jax.block_until_ready(jax.device_put(payload, sharding))

    def send(self, transfer: TransferId, payload: jax.Array, to: WorkerId) -> int:
        """Start the copy. Raises KeyError for a worker that is unknown or lost."""
        arrived = jax.device_put(payload, self._shardings[to])
        with self._lock:
            if to not in self._shardings:  # lost while the copy was started
                raise KeyError(to)
            self._payloads[transfer] = (to, arrived)
        return payload.nbytes

    def take(self, transfer: TransferId) -> jax.Array:
        """Hand a payload over, once."""
        with self._lock:
            return self._payloads.pop(transfer)[1]

    def drop(self, transfer: TransferId) -> None:
        """Forget a payload."""
        with self._lock:
            self._payloads.pop(transfer, None)

    def lose(self, worker: WorkerId) -> None:
        """Forget a worker and the payloads sent to it."""
        with self._lock:
            self._shardings.pop(worker, None)
            for transfer, (to, _) in list(self._payloads.items()):
                if to == worker:
                    del self._payloads[transfer]

    def __len__(self) -> int:
        """Count payloads that nobody has taken yet."""
        return len(self._payloads)
