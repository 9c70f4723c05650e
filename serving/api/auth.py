"""Who may ask? An ASGI layer that wants a bearer key before anything else is looked at.

Open paths are the probes, the metrics and the tokenizer; everything under /v1 and every operator
endpoint needs a key, if the server has any.
"""

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api.errors import ApiError, error_response
from serving.api.identity import bearer

OPERATOR_PATHS = frozenset({"/abort_requests", "/reset_prefix_cache", "/server_info"})
GUARDED = ("/v1/", "/admin/")


def route_path(scope: Scope) -> str:
    """Return the path as the routes see it: without the prefix of a proxy."""
    path, root = scope["path"], scope.get("root_path", "")
    if root and (path == root or path.startswith(root + "/")):
        return path[len(root) :]
    return path


class Auth:
    """Answers 401 unless one of `keys` was sent; without keys everybody may ask."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and self._keys and not self._may_ask(scope):
            message = "A valid API key is needed: send it as `Authorization: Bearer KEY`."
            refusal = ApiError(
                401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"}
            )
            await error_response(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _may_ask(self, scope: Scope) -> bool:
        path = route_path(scope)
        if not (path == "/v1" or path.startswith(GUARDED) or path in OPERATOR_PATHS):
            return True
        sent = bearer(Headers(scope=scope)).encode("latin-1", "replace")
        # Every key is compared, each in constant time: the time tells nothing about any of them.
        return sum(hmac.compare_digest(sent, key) for key in self._keys) > 0
