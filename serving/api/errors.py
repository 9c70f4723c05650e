"""How does a problem reach a client? OpenAI's error object, with status and headers.

Knows nothing of what went wrong inside: codes and messages come from the places that know.
"""

from collections.abc import Mapping
from typing import assert_never

from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.messages import (
    DEAD_END,
    NOT_FINITE,
    SHUTDOWN,
    Completed,
    Dropped,
    Failed,
    Outcome,
    Rejected,
)

RETRY_AFTER_SECONDS = 1
"""What a client is told to wait: one turn's typical queueing; clients add their own back-off."""

ENDED = "foretoken.ended"
"""The key in an ASGI scope of why a request ended without what it asked for: a code."""
CLIENT_LEFT = "client_left"
REFUSED = "refused"
"""Codes of a request that nobody waited for, and of one that was wrong in a way without a code."""

_TYPES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    404: "NotFoundError",
    405: "MethodNotAllowed",
    408: "TimeoutError",
    413: "RequestTooLarge",
    429: "RateLimitError",
    500: "InternalServerError",
    503: "ServiceUnavailableError",
}
_RETRY = {"retry-after": str(RETRY_AFTER_SECONDS)}


class ApiError(Exception):
    """A request that ends in an error object; `status` decides its type."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def ended(self) -> str:
        """What the log says of how the request ended."""
        return self.code or REFUSED

    @property
    def body(self) -> bytes:
        """The JSON object `{"error": {message, type, param, code}}`."""
        kind = _TYPES.get(self.status, "BadRequestError" if self.status < 500 else _TYPES[500])
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return to_json({"error": error})


def bad_request(message: str, param: str | None, code: str | None = None) -> ApiError:
    """Return the 400 that names the field at fault."""
    return ApiError(400, message, param=param, code=code)


def internal_error(request_id: str) -> ApiError:
    """Return the 500 for a bug: it names the request, never the cause."""
    return ApiError(500, f"Internal error while serving {request_id}.", code="internal_error")


def unavailable(message: str, code: str) -> ApiError:
    """Return a 503; only a dead engine is not worth another try here."""
    return ApiError(503, message, code=code, headers={} if code == "engine_dead" else _RETRY)


def of_outcome(outcome: Outcome, request_id: str) -> ApiError | None:
    """Return the error that a turn's end means for its client; None when the reply is whole."""
    match outcome:
        case Completed():
            return None
        case Rejected(code, message):
            return _rejected(code, message)
        case Failed(code, message):
            if code in ("no_decode_capacity", "engine_dead"):
                return unavailable(message, code)
            if code == DEAD_END:
                return bad_request(message, None, code)
            if code == NOT_FINITE:  # and would be again: clients shall not repeat the request
                return ApiError(500, message, code=code, headers={"x-should-retry": "false"})
            return internal_error(request_id)
        case Dropped(reason) if reason == SHUTDOWN:  # another server may take it
            return unavailable(f"Aborted: {reason}.", "aborted")
        case Dropped(reason):
            return ApiError(
                503, f"Aborted: {reason}.", code="aborted", headers={"x-should-retry": "false"}
            )
        case _:
            assert_never(outcome)


def _rejected(code: str, message: str) -> ApiError:
    match code:
        case "queue_full":
            return ApiError(429, message, code=code, headers=_RETRY)
        case "queue_timeout":
            return ApiError(408, message, code=code)
        case "too_long":
            return bad_request(message, None, "context_length_exceeded")
        case _:
            return unavailable(message, code)


def error_response(error: ApiError) -> Response:
    """Return the HTTP response for an error."""
    return _Refusal(error)


class _Refusal(Response):
    """An error's response, which leaves word in the scope of why the request ended."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(
            error.body, error.status, headers=error.headers, media_type="application/json"
        )
        self._ended = error.ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        scope[ENDED] = self._ended
        await super().__call__(scope, receive, send)
