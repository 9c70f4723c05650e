"""How long may a client take to ask, and how much may it send before it has asked?

uvicorn's protocol over httptools bounds neither: a header without an end grows in memory for ever,
and slows down everybody as it does; a client that connects and says nothing keeps its file for
ever. It also forgets a running request when another one comes on its connection before the answer
(pipelining), and would not notice that its client leaves. Knows nothing of what is asked.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Method, path and headers of a request: what uvicorn's other protocol (h11) takes."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, with limits for everything before a request is known."""

    _in_head = False
    _head_bytes = 0
    _patience: asyncio.TimerHandle | None = None
    _running: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request, as uvicorn does for the next ones."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that runs, and not only the one that came last."""
        self._stop_waiting()
        cycle = self._running
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, unless a request's head gets too long."""
        if self._in_head:
            self._head_bytes += len(data)
        if self._head_bytes <= MAX_HEAD_BYTES:
            super().data_received(data)
        else:
            self._refuse()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        """A request is known."""
        self._in_head, self._head_bytes = False, 0
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, however slowly it comes."""
        super().on_response_complete()
        if not self.transport.is_closing() and not self.pipeline:
            self._wait()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _refuse(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
                b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()
