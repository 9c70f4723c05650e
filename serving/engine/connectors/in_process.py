"""How do pages cross between meshes of one process? From device to device, by `copies`."""

from collections.abc import Callable, Iterable, Mapping
from threading import Lock

import jax
from jax.sharding import NamedSharding

from serving.engine.connectors.connector import Payload
from serving.engine.connectors.copies import Copies
from serving.engine.connectors.courier import Courier
from serving.messages import TransferId, WorkerId


class InProcessConnector:
    """Payloads that have been sent and not yet taken, on the mesh of their receiver."""

    def __init__(self, shardings: Mapping[WorkerId, NamedSharding]) -> None:
        """`shardings[worker]` is how pages [L, n, 2, K, page_size, H] lie on its mesh."""
        self._shardings = dict(shardings)
        self._copies = Copies(shardings.values())
        self._payloads: dict[TransferId, tuple[WorkerId, Payload]] = {}
        self._failed: dict[TransferId, RuntimeError] = {}  # of those, what never arrives
        self._under_way: set[TransferId] = set()  # of those, what somebody is to be told of
        self._couriers: dict[tuple[WorkerId, WorkerId], Courier] = {}  # sender and receiver
        self._lock = Lock()

    def warm_up(self, payloads: Iterable[Payload]) -> None:
        """Copy payloads of every size from one worker to all others: no copy compiles later.

        Between meshes of one degree shard goes to shard, which needs no program.
        """
        for payload in payloads:
            for sharding in self._shardings.values():
                if sharding.num_devices != payload.pages.sharding.num_devices:
                    jax.block_until_ready(self._copies.start(payload, sharding))

    def send(self, transfer: TransferId, payload: Payload, to: WorkerId) -> int:
        """Start the copy. Raises KeyError for a sender or receiver that is unknown or lost."""
        arrived = self._copies.start(payload, self._shardings[to])
        with self._lock:
            for worker in (transfer.sender, to):
                if worker not in self._shardings:  # perhaps lost while the copy was started
                    raise KeyError(worker)
            self._payloads[transfer] = (to, arrived)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(payload))

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        """Tell when a payload has been computed and copied, behind earlier ones of its way.

        Of one that is `computed` at once, if it is the only one on its way.
        """

        def told(error: RuntimeError | None) -> None:
            with self._lock:
                self._under_way.discard(transfer)
                if error is not None and transfer in self._payloads:
                    self._failed[transfer] = error
            then()

        with self._lock:
            if (known := self._payloads.get(transfer)) is not None:
                self._under_way.add(transfer)
        if known is None:
            then()
            return
        to, payload = known
        self._courier(transfer.sender, to).tell(payload, told, early=computed)

    def take(self, transfer: TransferId) -> Payload:
        """Hand a payload over, once it is here; raises what has kept it from arriving."""
        with self._lock:
            _, payload = self._payloads.pop(transfer)
            failed = self._failed.pop(transfer, None)
        if failed is not None:
            raise failed
        return jax.block_until_ready(payload)

    def drop(self, transfer: TransferId) -> None:
        """Forget a payload."""
        with self._lock:
            self._forget(transfer)

    def lose(self, worker: WorkerId) -> None:
        """Forget a worker, what was sent to it, and what is still to come from it: never, perhaps.

        Nobody is told of that, and all are told of the loss.
        """
        with self._lock:
            self._shardings.pop(worker, None)
            for transfer, (to, _) in list(self._payloads.items()):
                if to == worker or (transfer.sender == worker and transfer in self._under_way):
                    self._forget(transfer)
            ways = [way for way in self._couriers if worker in way]
            couriers = [self._couriers.pop(way) for way in ways]
        for courier in couriers:
            courier.forget()

    def __len__(self) -> int:
        """Count payloads that nobody has taken yet."""
        return len(self._payloads)

    def _courier(self, sender: WorkerId, to: WorkerId) -> Courier:
        with self._lock:
            return self._couriers.setdefault((sender, to), Courier(f"{sender} to {to}"))

    def _forget(self, transfer: TransferId) -> None:
        self._payloads.pop(transfer, None)
        self._failed.pop(transfer, None)
        self._under_way.discard(transfer)
