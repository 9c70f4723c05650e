"""Which pages are on their way from host memory to a worker's device, and when are they here?

For its own pages what a connector is for those of other workers: they are heard of when they have
come, behind those asked for earlier, and taken or dropped once.
"""

from collections.abc import Callable
from typing import Any

import jax

from serving.engine.connectors.courier import Courier
from serving.messages import TransferId, WorkerId


class FromHost:
    """Payloads of arrays under way. The worker's thread changes them, any thread may ask."""

    def __init__(self, worker: WorkerId) -> None:
        """Nothing is under way."""
        self._arrays: dict[TransferId, Any] = {}
        self._courier = Courier(f"host memory to {worker}")

    def __len__(self) -> int:
        """Count the payloads that nobody has taken yet."""
        return len(self._arrays)

    def add(self, transfer: TransferId, arrays: Any) -> None:
        """A copy of arrays to the device was started."""
        self._arrays[transfer] = arrays

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        """Call `then` once a payload is here, from any thread; at once if there is none.

        With `computed` perhaps while it is still on its way.
        """
        arrays = self._arrays.get(transfer)
        if arrays is None:
            then()
        else:
            self._courier.tell(arrays, lambda _: then(), early=computed)

    def take(self, transfer: TransferId) -> Any:
        """Hand a payload over, once it is here.

        Raises KeyError if there is none, RuntimeError with what has kept it from arriving.
        """
        return jax.block_until_ready(self._arrays.pop(transfer))

    def drop(self, transfer: TransferId) -> None:
        """Let go of a payload that is not wanted any more; no effect if there is none."""
        self._arrays.pop(transfer, None)
