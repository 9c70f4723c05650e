"""How does an answer travel? Runs an exchange and sends what its wire writes.

An ASGI response of its own: it holds the status line back until the engine has accepted, sends
prebuilt bytes, and cancels the turns as soon as the client leaves. Knows no JSON format.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.api.choice import Piece
from serving.api.errors import CLIENT_LEFT, ENDED, ApiError, internal_error
from serving.api.exchange import EXCHANGE, ClientLeft, Exchange, Strand
from serving.api.running import Running
from serving.api.wire import Whole, Wire
from serving.messages import SampledToken

_log = logging.getLogger(__name__)

T = TypeVar("T")
EVENT_STREAM = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Manner:
    """How to send: streamed or whole, every how many tokens, under which headers.

    `keep_samples` says whether the wire reads the tokens of a whole answer, `on_whole` is told of
    every strand that ended well.
    """

    stream: bool
    interval: int
    headers: dict[str, str]
    keep_samples: bool
    on_whole: Callable[[Strand, str], None]
    running: Running


class Answer(Response):
    """One answer of a generation endpoint."""

    def __init__(self, exchange: Exchange, wire: Wire, manner: Manner) -> None:
        super().__init__()
        self._exchange = exchange
        self._wire = wire
        self._manner = manner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the exchange to its end; sends nothing to a client that has left.

        Leaves word in the scope of the exchange, and of why it ended if it is not whole.
        """
        scope[EXCHANGE] = self._exchange
        watcher = asyncio.create_task(self._watch(receive))
        try:
            with self._manner.running.tracking(self._exchange):
                problem = await self._run(send)
            if problem is not None:
                scope[ENDED] = problem.ended
        except ClientLeft:
            scope[ENDED] = CLIENT_LEFT
        finally:
            watcher.cancel()
            self._exchange.abandon("no longer wanted")

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._exchange.abandon("client disconnected")

    async def _run(self, send: Send) -> ApiError | None:
        """Send the answer, or the problem that there was, which is returned."""
        problem: ApiError | None = None
        try:
            status, headers = 200, self._manner.headers
            with self._explained():
                await self._exchange.open()
                if self._manner.stream:
                    kind, body = EVENT_STREAM, b""
                else:
                    kind, body = "application/json", await self._collect()
        except ApiError as error:
            problem = error
            status, kind, body = error.status, "application/json", error.body
            headers = {**self._manner.headers, **error.headers}
        streams = status == 200 and self._manner.stream
        if not streams:
            headers = {**headers, "content-length": str(len(body))}
        raw = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        raw.append((b"content-type", kind.encode()))
        if streams:
            raw.append((b"cache-control", b"no-cache"))
        await send({"type": "http.response.start", "status": status, "headers": raw})
        if streams:
            return await self._stream(send)
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return problem

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a bug into the error that its client gets; the log gets the rest."""
        try:
            yield
        except (ApiError, ClientLeft):
            raise
        except Exception as bug:
            _log.exception("%s failed", self._exchange.id)
            raise internal_error(self._exchange.id) from bug

    async def _collect(self) -> bytes:
        return self._wire.whole(await _together([self._whole(s) for s in self._exchange.strands]))

    async def _whole(self, strand: Strand) -> Whole:
        texts: list[str] = []
        samples: list[SampledToken] = []
        async for piece in self._exchange.pieces(strand, at_end=True):
            texts.append(piece.text)
            if self._manner.keep_samples:
                samples += piece.samples
        text = "".join(texts)
        self._manner.on_whole(strand, text)
        return Whole(strand, text, samples)

    async def _stream(self, send: Send) -> ApiError | None:
        """Stream every strand; whatever happens, the stream says how it ended."""
        strands, problem = self._exchange.strands, None
        try:
            with self._explained():
                await _together([self._stream_strand(strand, send) for strand in strands])
                end = self._wire.end(strands)
        except ApiError as error:
            problem, end = error, self._wire.failed(error)
        await send({"type": "http.response.body", "body": end, "more_body": False})
        return problem

    async def _stream_strand(self, strand: Strand, send: Send) -> None:
        wire, interval = self._wire, self._manner.interval
        texts: list[str] = []
        held: Piece | None = None
        started = False
        async for piece in self._exchange.pieces(strand, at_end=False):
            texts.append(piece.text)
            if held is not None:
                samples = (*held.samples, *piece.samples)
                piece = Piece(held.text + piece.text, samples, piece.last)
                held = None
            if started and not piece.last and len(piece.samples) < interval:
                held = piece
                continue
            body = b"" if started else wire.start(strand)
            started = True
            body += wire.chunk(strand, piece)
            if body:
                await send({"type": "http.response.body", "body": body, "more_body": True})
        self._manner.on_whole(strand, "".join(texts))


async def _together(jobs: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run all at once; the first exception is raised and ends the others."""
    if len(jobs) == 1:
        return [await jobs[0]]
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
