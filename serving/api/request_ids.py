"""By which id do a client and this server speak of one request?

An ASGI layer: takes the id that came with the request or makes one, and sends it back if asked to.
"""

import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.identity import request_id

REQUEST_ID = "foretoken.request_id"
"""The key of a request's id in its ASGI scope."""


class RequestIds:
    """Gives every request an id; with `echo` every response has it as `X-Request-Id`."""

    def __init__(self, app: ASGIApp, *, echo: bool) -> None:
        self._app = app
        self._echo = echo

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id in the scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = request_id(Headers(scope=scope)) or uuid.uuid4().hex
        scope[REQUEST_ID] = name

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        await self._app(scope, receive, named if self._echo else send)
