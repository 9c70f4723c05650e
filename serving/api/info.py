"""What can be asked about the server and its tokenizer? Everything that generates nothing.

Knows nothing of turns.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from serving.api.errors import bad_request
from serving.api.identity import tenant
from serving.api.schemas import AbortBody, DetokenizeBody, TokenizeBody, parse
from serving.api.service import Service
from serving.api.text import away
from serving.api.tools import check_tools
from serving.messages import EngineState

PROBED_BY = ["GET", "HEAD"]
"""Load balancers ask with either; the HTTP server leaves the body of an answer to HEAD out."""

RANDOM_HEADER = "x-foretoken-random-weights"
"""On the probes of a server whose weights are random, and on no other's."""

HEALTH = ("/health", "/ping", "/readiness")
PROBES = frozenset({*HEALTH, "/liveness", "/version", "/load", "/metrics"})
"""Paths that systems around a server ask for every few seconds."""


def probes(service: Service, version: str) -> APIRouter:
    """Return the routes that tell whether and how the server runs."""
    router = APIRouter()
    marks = {RANDOM_HEADER: "true"} if service.model.random_weights else {}

    async def health() -> Response:
        """Tell whether turns are taken: 503 while starting, draining or dead."""
        status = 200 if service.engine.state is EngineState.READY else 503
        return Response(status_code=status, headers=marks)

    for path in HEALTH:
        router.add_api_route(path, health, methods=PROBED_BY)

    @router.api_route("/liveness", methods=PROBED_BY)
    async def liveness() -> Response:
        """Tell that the process answers."""
        return Response()

    @router.api_route("/version", methods=PROBED_BY)
    async def tell_version() -> Response:
        """Return the server's version."""
        return _json({"version": version})

    @router.api_route("/load", methods=PROBED_BY)
    async def load() -> Response:
        """Return how many generation requests are in the server."""
        return _json({"server_load": len(service.running)})

    @router.api_route("/metrics", methods=PROBED_BY)
    async def metrics() -> Response:
        """Return the metrics in Prometheus' text format."""
        service.metrics.on_reports(service.engine.reports())
        service.metrics.on_means(service.engine.means())
        service.metrics.on_step_ages(service.engine.step_ages())
        text = await asyncio.to_thread(service.metrics.scrape)  # thousands of lines
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router


def models(service: Service) -> APIRouter:
    """Return the routes that list what is served."""
    router = APIRouter()

    @router.get("/v1/models")
    async def list_models() -> Response:
        """List the model under each of its names."""
        return _json({"object": "list", "data": [_card(service, n) for n in service.model.names]})

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        """Describe one model; its name may hold slashes."""
        service.check_name(name)
        return _json(_card(service, name))

    return router


def tokenizer(service: Service) -> APIRouter:
    """Return the routes between text and token ids."""
    router = APIRouter()

    @router.post("/tokenize")
    async def tokenize(request: Request) -> Response:
        """Return the ids of a text, or exactly those that a chat would be prefilled with."""
        raw = await request.body()
        body = parse(TokenizeBody, raw)
        _check_name(service, body.model)
        if (body.prompt is None) == (body.messages is None):
            raise bad_request("Send either `prompt` or `messages`.", "prompt")
        check_tools(body.tools)
        who = tenant(request.headers, body.cache_salt)
        ids = await away(len(raw), lambda: service.prompts.asked(body, who))
        answer: dict[str, Any] = {
            "count": len(ids),
            "max_model_len": service.model.max_model_len,
            "tokens": ids,
            "token_strs": None,
        }
        if body.return_token_strs:
            names = service.text.every
            answer["token_strs"] = [names[i].decode("utf-8", "replace") for i in ids]
        return _json(answer)

    @router.post("/detokenize")
    async def detokenize(request: Request) -> Response:
        """Return the text of ids."""
        body = parse(DetokenizeBody, await request.body())
        _check_name(service, body.model)
        if not all(0 <= i < service.limits.vocab_size for i in body.tokens):
            raise bad_request("`tokens` has a token id outside the vocabulary.", "tokens")
        return _json({"prompt": service.prompts.text(body.tokens)})

    return router


def operators(service: Service, settings: Mapping[str, Any], *, admin: bool) -> APIRouter:
    """Return the routes for operators; those that interfere exist only with `admin`."""
    router = APIRouter()

    @router.get("/server_info")
    async def server_info() -> Response:
        """Return the settings in force."""
        return _json(settings)

    async def abort_requests(request: Request) -> Response:
        """End the named requests with an error; unknown ids have no effect."""
        body = parse(AbortBody, await request.body())
        return _json({"aborted": service.running.abort(body.request_ids)})

    async def reset_prefix_cache() -> Response:
        """Drop the cached pages that no running turn holds; later turns compute their prompts."""
        service.engine.reset_prefix_cache()
        return Response()

    if admin:
        router.add_api_route("/abort_requests", abort_requests, methods=["POST"])
        router.add_api_route("/reset_prefix_cache", reset_prefix_cache, methods=["POST"])
    return router


def _check_name(service: Service, name: str | None) -> None:
    if name is not None:
        service.check_name(name)


def _card(service: Service, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": service.model.created,
        "owned_by": "foretoken",
        "root": service.model.names[0],
        "parent": None,
        "max_model_len": service.model.max_model_len,
        "random_weights": service.model.random_weights,
        "permission": [],
    }


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")
