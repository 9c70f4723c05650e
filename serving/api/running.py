"""Which requests are in the server now? So that they can be counted, and ended by their id.

Knows nothing of how they run.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from serving.api.exchange import Exchange


class Running:
    """The exchanges between their first submission and their last byte."""

    def __init__(self) -> None:
        self._exchanges: list[Exchange] = []

    def __len__(self) -> int:
        """How many there are."""
        return len(self._exchanges)

    @contextmanager
    def tracking(self, exchange: Exchange) -> Iterator[None]:
        """Count an exchange in for as long as the context is open."""
        self._exchanges.append(exchange)
        try:
            yield
        finally:
            self._exchanges.remove(exchange)

    def abort(self, ids: Iterable[str]) -> int:
        """Cancel the exchanges with these ids; returns how many there were."""
        wanted = set(ids)
        found = [exchange for exchange in self._exchanges if exchange.id in wanted]
        for exchange in found:
            exchange.cancel("aborted by the operator")
        return len(found)
