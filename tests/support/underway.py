"""An array that is still to be computed, for as long as a test wants."""

from threading import Event as Signal


class Underway:
    """An array that arrives, or breaks, once `ends` is called."""

    nbytes = 1

    def __init__(self) -> None:
        self._over = Signal()
        self._error: RuntimeError | None = None

    def ends(self, error: RuntimeError | None = None) -> None:
        self._error = error
        self._over.set()

    def is_ready(self) -> bool:
        return self._over.is_set()

    def block_until_ready(self) -> "Underway":
        assert self._over.wait(30)
        if self._error is not None:
            raise self._error
        return self
