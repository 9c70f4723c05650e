"""How large may a request body be? An ASGI layer that counts what arrives.

Knows nothing of what a body holds; a declared length is refused before a byte is read.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.errors import ApiError, error_response


class BodyLimit:
    """Answers 413 to bodies of more than `max_bytes`, whether declared or chunked."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a `receive` that raises ApiError past the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await error_response(self._refusal())(scope, receive, send)
            return
        arrived = 0

        async def counted() -> Message:
            nonlocal arrived
            message = await receive()
            arrived += len(message.get("body", b""))
            if arrived > self._max_bytes:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> ApiError:
        """The connection stays open: closed with a body under way, it might lose this answer."""
        return ApiError(413, f"The request body exceeds the limit of {self._max_bytes} bytes.")
