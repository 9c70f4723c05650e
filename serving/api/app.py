"""How is the endpoint put together? Routes, layers and error handlers around one `Service`.

Knows nothing of what the routes do.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp

from serving.api.access import AccessLog
from serving.api.admin import admin
from serving.api.auth import Auth, route_path
from serving.api.chat import answer_chat
from serving.api.completions import answer_completion
from serving.api.errors import CLIENT_LEFT, ENDED, ApiError, error_response, internal_error
from serving.api.fields import IGNORED_HEADER
from serving.api.info import RANDOM_HEADER, models, operators, probes, tokenizer
from serving.api.limits import BodyLimit
from serving.api.load import ANSWERED
from serving.api.request_ids import REQUEST_ID, RequestIds
from serving.api.responses.routes import answer_response, responses
from serving.api.service import Service

API = "/v1"
SHOWN_TO_PAGES = (
    *("x-request-id", "retry-after", "x-should-retry"),
    *(IGNORED_HEADER, ANSWERED, RANDOM_HEADER),
)
"""What scripts of an allowed origin may read of an answer, beside what all may."""


def build_app(service: Service, *, version: str, settings: Mapping[str, Any]) -> ASGIApp:
    """Return the ASGI application of a service.

    `settings` is shown to operators as it is then: whoever builds it masks the secrets, and may
    fill in what is worked out later.
    """
    config = service.config
    app = FastAPI(version=version, openapi_url=None)
    _generate(app, "/v1/chat/completions", service, answer_chat)
    _generate(app, "/v1/completions", service, answer_completion)
    _generate(app, "/v1/responses", service, answer_response)
    for router in (
        probes(service, version),
        models(service),
        responses(service),
        tokenizer(service),
        operators(service, settings, admin=config.enable_admin_api),
    ):
        app.include_router(router)
    if config.enable_admin_api:
        app.include_router(admin(service.engine))
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(BodyLimit, max_bytes=config.max_body_bytes)
    app.add_middleware(Auth, keys=config.api_key)
    app.add_middleware(RequestIds, echo=config.enable_request_id_headers)
    whole = for_pages(app, config.allowed_origins)
    return AccessLog(whole) if config.access_log else whole


def for_pages(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of these origins call an application from browsers; without any it stays as it is.

    Around everything, so that a page can read every refusal, a bug's answer among them, and asks
    for permission without a key. Keys travel in a header of their own: there are no cookies.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=SHOWN_TO_PAGES,
    )


def _generate(
    app: FastAPI,
    path: str,
    service: Service,
    answer: Callable[[Service, Request], Awaitable[Response]],
) -> None:
    async def generate(request: Request) -> Response:
        return await answer(service, request)

    app.add_api_route(path, generate, methods=["POST"])


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown paths and wrong methods, which the router itself refuses."""
    assert isinstance(error, HTTPException)
    path = route_path(request.scope)
    match error.status_code:
        case 404:
            message = f"There is no {path} here.{_where_it_is(path)}"
        case 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            message = f"{request.method} is not allowed at {path}; use {allowed}."
        case _:
            message = error.detail
    return error_response(ApiError(error.status_code, message, headers=error.headers))


def _where_it_is(path: str) -> str:
    """Help clients whose base URL lacks /v1 or has it twice, and those that ask for what is not."""
    if path.endswith(("/chat/completions", "/completions", "/responses", "/models")):
        return f" The API's paths begin with {API}: base URLs end with it, once."
    if path.startswith(f"{API}/"):
        served = "POST {0}/chat/completions, {0}/completions and {0}/responses, GET {0}/models"
        return f" Served are {served.format(API)}."
    return ""


async def _left(request: Request, error: Exception) -> Response:
    """A client that left before its body was there: the answer that ASGI wants reaches nobody."""
    request.scope[ENDED] = CLIENT_LEFT
    return Response(status_code=400)


async def _bug(request: Request, error: Exception) -> Response:
    """The server closes the connection after a bug, so the client is told not to use it again."""
    response = error_response(internal_error(f"request {request.scope[REQUEST_ID]}"))
    response.headers["connection"] = "close"
    return response
