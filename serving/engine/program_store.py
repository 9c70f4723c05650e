"""Has this program been compiled before? What the workers of a deployment compile, once for all.

Workers with equal meshes run equal programs, and workers of different roles share the small ones.
Knows nothing of what a program computes, only what it is made of.
"""

import logging
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock

from jax.stages import Compiled

from serving.engine.relocate import Devices, RelocationError, relocate

LOG = logging.getLogger(__name__)


class ProgramStore:
    """The first copy of every program, and its devices. Safe to use from several threads."""

    def __init__(self) -> None:
        """Start empty."""
        self._first: dict[Hashable, tuple[Devices, Future[Compiled]]] = {}
        self._lock = Lock()

    def get(self, key: Hashable, devices: Devices, build: Callable[[], Compiled]) -> Compiled:
        """Return the program for these devices, compiled by `build` if it is the first of its key.

        Equal keys must mean equal programs, but for the devices. A program that cannot be moved
        from its first devices is compiled again.
        """
        mine: Future[Compiled] = Future()
        with self._lock:
            own, first = self._first.setdefault(key, (devices, mine))
        if first is mine:
            return _fulfil(mine, build)
        try:
            return relocate(first.result(), own, devices)
        except RelocationError as error:
            LOG.info("a program is compiled once more for %s: %s", devices, error)
            return build()


def _fulfil(promise: Future[Compiled], build: Callable[[], Compiled]) -> Compiled:
    try:
        promise.set_result(build())
    except BaseException as error:
        promise.set_exception(error)
    return promise.result()
