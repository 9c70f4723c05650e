"""How did every request go? One line in the log when it has ended.

An ASGI layer around everything. Knows nothing of JSON; what clients wrote is printed harmlessly.
"""

import asyncio
import logging
import re
from collections.abc import Iterator

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.auth import route_path
from serving.api.errors import ENDED
from serving.api.exchange import EXCHANGE, Exchange
from serving.api.info import PROBES
from serving.api.request_ids import REQUEST_ID
from serving.api.wire import usage

ACCESS = __name__
"""The name of the log."""
ANSWERED = "answered"
"""How a request ends that asks for no text."""
MOST_SHOWN = 256
"""Characters of a path or an id that are printed."""
_UNPRINTABLE = re.compile("[^!-~]")
_log = logging.getLogger(ACCESS)


class AccessLog:
    """Logs every request but probes that succeed, which come every few seconds for ever."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and log its end, whatever it is."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        status: int | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if status != 200 or route_path(scope) not in PROBES:
                _log.info("%s", line_of(scope, status, began, clock()))


def line_of(scope: Scope, status: int | None, began: float, ended: float) -> str:
    """Say what became of a request; times in seconds of one clock. `status` None: none was sent.

    Tokens are those of the answer's usage; how many were cached is known of whole replies alone.
    """
    exchange: Exchange | None = scope.get(EXCHANGE)
    path = shown(scope.get("raw_path", scope["path"].encode()).decode("latin-1"))
    how = scope.get(ENDED) or (ANSWERED if exchange is None else _reasons(exchange))
    parts = [scope["method"], path, str(status or "-"), how, f"total={ended - began:.3f}s"]
    if exchange is not None:
        parts += _of_exchange(exchange, began, whole=ENDED not in scope)
    if REQUEST_ID in scope:
        parts.append(f"request={shown(scope[REQUEST_ID])}")
    return " ".join(parts)


def shown(text: str) -> str:
    """Return what a client wrote without what a terminal or a log could take for something else."""
    return _UNPRINTABLE.sub("?", text[:MOST_SHOWN])


def _reasons(exchange: Exchange) -> str:
    """Say why the choices ended, each reason once."""
    reasons = (str(strand.choice.ending["finish_reason"]) for strand in exchange.strands)
    return ",".join(dict.fromkeys(reasons))


def _of_exchange(exchange: Exchange, began: float, *, whole: bool) -> Iterator[str]:
    if exchange.first_token_at is not None:
        yield f"ttft={exchange.first_token_at - began:.3f}s"
    counts = usage(exchange.strands)
    yield f"prompt={counts['prompt_tokens']}"
    if whole:
        yield f"cached={counts['prompt_tokens_details']['cached_tokens']}"
    yield f"completion={counts['completion_tokens']}"
    turns = [strand.turn for strand in exchange.strands if strand.turn is not None]
    if turns and turns[0].session is not None:
        yield f"session={turns[0].session}"
    yield f"id={shown(exchange.id)}"
    if turns and not turns[0].id.startswith(exchange.id):
        yield f"turn={turns[0].id}"
