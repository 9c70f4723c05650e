"""How is a request for a response answered? By way of the chat that it asks for.

Knows nothing of scheduling or of how bytes are sent.
"""

import uuid
from collections.abc import Sequence
from dataclasses import replace

from fastapi import APIRouter
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from serving.api.answer import Answer
from serving.api.errors import ApiError, bad_request
from serving.api.fields import refuse as refuse_chat
from serving.api.identity import tenant
from serving.api.replies import Tenant
from serving.api.responses.asked import chat_of, respelled, spelled
from serving.api.responses.items import Item, check_results, is_reply, read_items
from serving.api.responses.schema import ResponseBody, ignored, refuse
from serving.api.responses.stored import Stored, conversation, size_of, stretch
from serving.api.responses.wire import PREFIX, ResponseWire, beginning
from serving.api.schemas import parse
from serving.api.service import Service
from serving.request import SessionId


async def answer_response(service: Service, request: Request) -> Response:
    """Answer `POST /v1/responses`; raises ApiError for what can be refused beforehand."""
    raw = await request.body()
    body = parse(ResponseBody, raw)
    service.check_model(body.model)
    refuse(body)
    owner = tenant(request.headers, None)
    before = _before(service, body.previous_response_id, owner)
    last = None if before is None else before.stretch
    said, items = conversation(last), read_items(body.input)
    check_results(items, said)
    session = _new_session(body, items) if before is None else before.session
    chat = chat_of(body, (*said, *items), hinted=before is None or session is None)
    try:
        refuse_chat(chat)
        who = service.identity(request.headers, chat)
        who = replace(who, session=who.session or session)
        exchange, unused = await service.chat(PREFIX, chat, who, len(raw) + size_of(last))
    except ApiError as error:
        raise respelled(error) from None

    def keep(response: bytes, reply: tuple[Item, ...]) -> None:
        if body.store is not False:
            added = stretch((*items, *reply), last)
            stored = Stored(owner, response, added, who.session, service.seconds())
            service.stored.add(exchange.id, stored)

    (strand,) = exchange.strands
    head = beginning(body, exchange.id, service.now(), service.limits.defaults)
    wire = ResponseWire(head, strand, service.now, keep)
    names = ignored(body, frozenset(map(spelled, unused)))
    shown = service.shown(chat, logprobs=None)
    return Answer(exchange, wire, service.manner(chat, who, shown, names))


def responses(service: Service) -> APIRouter:
    """Return the routes of responses that are kept."""
    router = APIRouter()

    @router.get("/v1/responses/{id}")
    async def retrieve(id: str, request: Request) -> Response:
        """Return a response as it was answered."""
        for name in ("include", "include[]", "starting_after", "stream"):
            if request.query_params.get(name) not in (None, "", "false"):
                raise bad_request(f"`{name}` is not supported: kept responses are whole.", name)
        stored = service.stored.find(id, tenant(request.headers, None), service.seconds())
        if stored is None:
            raise _missing(id, "response_id")
        return Response(stored.body, media_type="application/json")

    @router.delete("/v1/responses/{id}")
    async def delete(id: str, request: Request) -> Response:
        """Forget a response."""
        if not service.stored.remove(id, tenant(request.headers, None), service.seconds()):
            raise _missing(id, "response_id")
        gone = {"id": id, "object": "response", "deleted": True}
        return Response(to_json(gone), media_type="application/json")

    return router


def _before(service: Service, id: str | None, owner: Tenant) -> Stored | None:
    """Return the response that is continued, if any; raises the 404 for one that is not kept."""
    if id is None:
        return None
    stored = service.stored.find(id, owner, service.seconds())
    if stored is None:
        raise _missing(id, "previous_response_id")
    return stored


def _new_session(body: ResponseBody, items: Sequence[Item]) -> SessionId | None:
    """Name the session of a conversation that begins here, for those who will continue it.

    One that comes with its replies is known by its tokens: it may have its session already.
    """
    if body.store is False or any(is_reply(item) for item in items):
        return None
    return SessionId(uuid.uuid4().hex)


def _missing(id: str, param: str) -> ApiError:
    message = (
        f"There is no response `{id[:80]}` here: it was not stored, was deleted, has expired, or "
        "made room for later ones. Send the conversation as `input`."
    )
    return ApiError(404, message, param=param, code=f"{param.removesuffix('_id')}_not_found")
