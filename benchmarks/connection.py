"""How does a client talk to the server? One kept-alive connection, one request at a time.

Knows the two forms of a generation endpoint's answer, and nothing of load or of repeats.
"""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, cast

from benchmarks.http_response import ResponseReader

EVENT = b"data: "
DONE_EVENT = b"data: [DONE]"


class BadReply(RuntimeError):
    """The server did not answer what was asked; a measurement of it would mean nothing."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Seconds from sending to the body's first byte and to its end."""

    status: int
    body: bytes
    first_s: float
    total_s: float


class Connection(asyncio.Protocol):
    """A connection of one client."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader = ResponseReader()
        self._waiter: asyncio.Future[float] | None = None
        self._first: float | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        """Connect."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    async def send(self, request: bytes) -> Reply:
        """Send a request and wait for the whole answer. Raises BadReply if the server hangs up."""
        if self._transport is None:
            raise BadReply("not connected")
        self._reader, self._first = ResponseReader(), None
        self._waiter = asyncio.get_running_loop().create_future()
        start = time.perf_counter()
        self._transport.write(request)
        end = await self._waiter
        first = end if self._first is None else self._first
        reader = self._reader
        return Reply(reader.status, bytes(reader.body), first - start, end - start)

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read on, and note when the body began and ended."""
        if self._waiter is None or self._waiter.done():
            return
        try:
            done = self._reader.feed(data)
        except ValueError as error:
            self._waiter.set_exception(BadReply(str(error)))
            return
        if self._first is None and self._reader.body:
            self._first = time.perf_counter()
        if done:
            self._waiter.set_result(time.perf_counter())

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(BadReply(f"the server hung up: {exc}"))


def post(path: str, port: int, body: dict[str, Any]) -> bytes:
    """Return the bytes of a POST request."""
    content = json.dumps(body, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def last_object(reply: Reply, *, stream: bool) -> dict[str, Any]:
    """Return the object with the usage: the whole body, or a stream's last event before [DONE].

    Raises BadReply for an error status or a stream that did not end as it should.
    """
    if reply.status != 200:
        raise BadReply(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
    if not stream:
        return json.loads(reply.body)
    events = reply.body.rstrip().rsplit(b"\n\n", 2)
    if len(events) < 2 or events[-1] != DONE_EVENT or not events[-2].startswith(EVENT):
        raise BadReply(f"a stream ended with {bytes(reply.body[-200:])!r}")
    return json.loads(events[-2][len(EVENT) :])


def streamed_text(body: bytes) -> str:
    """Return the text of a streamed chat with one choice."""
    parts: list[str] = []
    for event in body.split(b"\n\n"):
        if event.startswith(EVENT) and event != DONE_EVENT:
            for choice in json.loads(event[len(EVENT) :])["choices"]:
                parts.append(choice["delta"].get("content") or "")
    return "".join(parts)
