"""How is a request for a response answered? `POST /v1/responses`, by way of the chat it asks for.

Knows nothing of scheduling or of how bytes are sent.
"""

from starlette.requests import Request
from starlette.responses import Response

from serving.api.answer import Answer
from serving.api.errors import ApiError
from serving.api.fields import refuse as refuse_chat
from serving.api.responses.asked import chat_of, respelled, spelled
from serving.api.responses.items import check_results, read_items
from serving.api.responses.schema import ResponseBody, ignored, refuse
from serving.api.responses.wire import PREFIX, ResponseWire, beginning
from serving.api.schemas import parse
from serving.api.service import Service


async def answer_response(service: Service, request: Request) -> Response:
    """Answer one request; raises ApiError for everything that can be refused beforehand."""
    raw = await request.body()
    body = parse(ResponseBody, raw)
    service.check_model(body.model)
    refuse(body)
    items = read_items(body.input)
    check_results(items, ())
    chat = chat_of(body, items, named=False)
    try:
        refuse_chat(chat)
        who = service.identity(request.headers, chat)
        exchange, unused = await service.chat(PREFIX, chat, who, len(raw))
    except ApiError as error:
        raise respelled(error) from None
    (strand,) = exchange.strands
    defaults = service.limits.defaults
    temperature = defaults.temperature if body.temperature is None else body.temperature
    top_p = defaults.top_p if body.top_p is None else body.top_p
    head = beginning(body, exchange.id, service.now(), (temperature, top_p))
    wire = ResponseWire(head, strand, service.now, lambda response, said: None)
    names = ignored(body, frozenset(map(spelled, unused)))
    shown = service.shown(chat, logprobs=None)
    return Answer(exchange, wire, service.manner(chat, who, shown, names))
