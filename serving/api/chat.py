"""What is a chat completion? `POST /v1/chat/completions`: its prompt and its formats.

Knows nothing of scheduling or of how bytes are sent.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from serving.api.answer import Answer
from serving.api.calls.reader import message
from serving.api.choice import Piece
from serving.api.errors import ApiError
from serving.api.exchange import Strand
from serving.api.fields import ignored, refuse
from serving.api.schemas import ChatBody, parse
from serving.api.service import Service, Shown
from serving.api.wire import (
    Events,
    Head,
    StreamUsage,
    Whole,
    add_predictions,
    broken_off,
    event_json,
    predicted,
    usage,
)
from serving.messages import SampledToken


async def answer_chat(service: Service, request: Request) -> Response:
    """Answer one request; raises ApiError for everything that can be refused beforehand."""
    raw = await request.body()
    body = parse(ChatBody, raw)
    service.check_model(body.model)
    refuse(body)
    identity = service.identity(request.headers, body)
    exchange, unused = await service.chat("chatcmpl-", body, identity, len(raw))
    head = Head(exchange.id, "chat.completion", service.now(), body.model)
    shown = service.shown(body, logprobs=(body.top_logprobs or 0) if body.logprobs else None)
    wire = ChatWire(head, service.stream_usage(body), shown, exchange.strands)
    return Answer(exchange, wire, service.manner(body, identity, shown, ignored(body, unused)))


class ChatWire:
    """Writes `chat.completion` and `chat.completion.chunk` objects."""

    def __init__(
        self, head: Head, stream_usage: StreamUsage, shown: Shown, strands: Sequence[Strand]
    ) -> None:
        self._head = head
        self._shown = shown
        chunk_head = Head(head.id, f"{head.object}.chunk", head.created, head.model)
        self._events = Events(chunk_head, stream_usage, strands)
        self._plain = not (shown.details or stream_usage.running)
        self._before = [
            self._events.opening
            + f'"choices":[{{"index":{s.choice.index},"delta":{{"content":'.encode()
            for s in strands
        ]
        self._after = b'},"logprobs":null,"finish_reason":null}' + self._events.fixed_end

    def start(self, strand: Strand) -> bytes:
        """Return the chunk that names the role."""
        choice: dict[str, Any] = {
            "index": strand.choice.index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        if self._shown.token_ids:
            choice["prompt_token_ids"] = strand.prompt
        return self._events.around(event_json(choice))

    def chunk(self, strand: Strand, piece: Piece) -> bytes:
        """Return a piece's chunk; one with text alone is put together from ready bytes.

        Where calls are told from text there may be several: content and calls have their own.
        """
        if strand.choice.calls is not None:
            return self._chunks(strand, piece, strand.choice.calls.take())
        if not piece.last:
            if self._plain:
                if not piece.text:
                    return b""
                before = self._before[strand.choice.index]
                return before + event_json(piece.text) + self._after
            if not piece.text and not self._shown.details:
                return b""
        delta = {"content": piece.text} if piece.text else {}
        return self._event(strand, delta, piece.samples, last=piece.last)

    def _chunks(self, strand: Strand, piece: Piece, deltas: Sequence[dict[str, Any]]) -> bytes:
        """Return a chunk for each delta; the first one tells of the tokens, the last of the end."""
        if not deltas:
            if not piece.last and not self._shown.details:
                return b""
            deltas = [{}]
        ends = len(deltas) - 1
        return b"".join(
            self._event(strand, delta, () if i else piece.samples, last=piece.last and i == ends)
            for i, delta in enumerate(deltas)
        )

    def _event(
        self, strand: Strand, delta: dict[str, Any], samples: Sequence[SampledToken], *, last: bool
    ) -> bytes:
        choice: dict[str, Any] = {
            "index": strand.choice.index,
            "delta": delta,
            "logprobs": self._logprobs(samples),
            "finish_reason": None,
        }
        if self._shown.token_ids:
            choice["token_ids"] = [sample.token for sample in samples]
        if not last:
            return self._events.around(event_json(choice))
        choice |= strand.choice.ending
        shown = self._shown.predictions
        extra = b',"foretoken":' + to_json(predicted(strand)) if shown else b""
        return self._events.around(event_json(choice), extra)

    def end(self, strands: Sequence[Strand]) -> bytes:
        """Return the closing usage chunk, if asked for, and the stream's end."""
        return self._events.last()

    def failed(self, error: ApiError) -> bytes:
        """Return the error's event and the stream's end."""
        return broken_off(error)

    def whole(self, wholes: Sequence[Whole]) -> bytes:
        """Return the `chat.completion` object."""
        answer = {**self._head.fields(), "choices": [self._choice(whole) for whole in wholes]}
        answer["usage"] = usage([whole.strand for whole in wholes])
        if self._shown.predictions:
            add_predictions(answer, [whole.strand for whole in wholes])
        first = wholes[0].strand
        if self._shown.token_ids:
            answer["prompt_token_ids"] = first.prompt
        most, scored = self._shown.prompt_logprobs, first.choice.prompt_logprobs
        if most is not None and scored is not None:
            answer["prompt_logprobs"] = self._shown.writer.prompt(first.prompt, scored, most)
        return to_json(answer)

    def _choice(self, whole: Whole) -> dict[str, Any]:
        choice = whole.strand.choice
        said = {"content": whole.text} if choice.calls is None else message(choice.calls.take())
        fields: dict[str, Any] = {
            "index": choice.index,
            "message": {"role": "assistant", "content": None, "refusal": None, **said},
            "logprobs": self._logprobs(whole.samples),
            **choice.ending,
        }
        if self._shown.token_ids:
            fields["token_ids"] = choice.tokens
        return fields

    def _logprobs(self, samples: Sequence[SampledToken]) -> dict[str, Any] | None:
        most = self._shown.logprobs
        return None if most is None else self._shown.writer.chat(samples, most)
