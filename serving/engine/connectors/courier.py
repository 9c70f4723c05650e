"""When have arrays arrived? One thread waits for them, in their order, and tells.

It lives while there is something to wait for, and the process with it: an interpreter aborts
that ends while a thread of its own waits in JAX. Knows nothing of pages or workers.
"""

from collections import deque
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

import jax

Told = Callable[[RuntimeError | None], None]
"""What is called with the error that kept arrays from arriving, or None."""


class Courier:
    """What is under way by one way. One thread gives it what to wait for."""

    def __init__(self, name: str) -> None:
        """Nothing is under way; `name` is that of the thread that waits."""
        self._name = name
        self._under_way: deque[tuple[Any, Told]] = deque()  # the first one is waited for
        self._lock = Lock()

    def tell(self, arrays: Any, told: Told, *, early: bool) -> None:
        """Call `told` once a tree of arrays is there, and not before those given earlier.

        At once, in this thread, if they are there already and nothing else is under way; with
        `early` also if they are not there yet: whoever is told waits, and learns of errors.
        `told` must not raise.
        """
        with self._lock:
            starts = not self._under_way
            ready = starts and _are_ready(arrays)
            if not ready and not (starts and early):
                self._under_way.append((arrays, told))
                if starts:
                    Thread(target=self._wait, name=self._name, daemon=False).start()
                return
        told(_error_of(arrays) if ready else None)

    def forget(self) -> None:
        """Let go of what is under way. Nobody is told of it, except of what is waited for now."""
        with self._lock:
            while len(self._under_way) > 1:
                self._under_way.pop()

    def _wait(self) -> None:
        under_way = self._under_way[0]
        while under_way is not None:
            arrays, told = under_way
            told(_error_of(arrays))
            del arrays, told, under_way  # its receiver alone decides how long it is kept
            with self._lock:
                self._under_way.popleft()
                under_way = self._under_way[0] if self._under_way else None


def _are_ready(arrays: Any) -> bool:
    return all(leaf.is_ready() for leaf in jax.tree.leaves(arrays))


def _error_of(arrays: Any) -> RuntimeError | None:
    """Wait for arrays; returns what kept them from being computed, if anything did."""
    try:
        jax.block_until_ready(arrays)
    except RuntimeError as error:
        return error
    return None
