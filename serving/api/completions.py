"""What is a completion? `POST /v1/completions`: its prompts and its formats.

Knows nothing of scheduling or of how bytes are sent.
"""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from serving.api.answer import Answer
from serving.api.choice import Piece
from serving.api.detokenize import TokenText
from serving.api.errors import ApiError
from serving.api.exchange import Strand
from serving.api.fields import ignored, refuse
from serving.api.offsets import TextOffsets, prompt_offsets
from serving.api.schemas import CompletionBody, parse
from serving.api.service import Service, Shown
from serving.api.structured import structured
from serving.api.text import away
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
from serving.request import TokenLogprobs


async def answer_completion(service: Service, request: Request) -> Response:
    """Answer one request; raises ApiError for everything that can be refused beforehand."""
    raw = await request.body()
    body = parse(CompletionBody, raw)
    service.check_model(body.model)
    refuse(body)
    identity = service.identity(request.headers, body)
    prompts = await away(len(raw), lambda: service.prompts.completion(body))
    grammar = await structured(body, service.grammars)
    exchange = service.exchange("cmpl-", body, identity, prompts, grammar)
    head = Head(exchange.id, "text_completion", service.now(), body.model)
    shown = service.shown(body, logprobs=body.logprobs)
    echo = service.prompts.text if body.echo else None
    stream_usage, strands = service.stream_usage(body), exchange.strands
    wire = CompletionWire(head, stream_usage, shown, strands, echo, service.text)
    names = ignored(body, frozenset())
    return Answer(exchange, wire, service.manner(body, identity, shown, names))


class CompletionWire:
    """Writes `text_completion` objects; `echo` gives the text of a prompt to be repeated."""

    def __init__(
        self,
        head: Head,
        stream_usage: StreamUsage,
        shown: Shown,
        strands: Sequence[Strand],
        echo: Callable[[Sequence[int]], str] | None,
        text: TokenText,
    ) -> None:
        self._head = head
        self._shown = shown
        self._echo = echo
        self._events = Events(head, stream_usage, strands)
        self._plain = not (shown.details or stream_usage.running)
        self._before = [
            self._events.opening + f'"choices":[{{"index":{s.choice.index},"text":'.encode()
            for s in strands
        ]
        self._after = b',"logprobs":null,"finish_reason":null}' + self._events.fixed_end
        self._prompt_table = text.plain
        self._tables = [text.table(skip_special=s.choice.rules.skip_special) for s in strands]
        self._offsets = [TextOffsets(table, 0) for table in self._tables]

    def start(self, strand: Strand) -> bytes:
        """Return the echoed prompt's chunk, if it is to be echoed."""
        if self._echo is None and not self._shown.token_ids:
            return b""
        echoed = self._echo(strand.prompt) if self._echo else None
        choice: dict[str, Any] = {
            "index": strand.choice.index,
            "text": echoed or "",
            "logprobs": self._logprobs(strand, (), echoed),
            "finish_reason": None,
        }
        if self._shown.token_ids:
            choice["prompt_token_ids"] = strand.prompt
        return self._events.around(event_json(choice))

    def chunk(self, strand: Strand, piece: Piece) -> bytes:
        """Return a piece's chunk; one with text alone is put together from ready bytes."""
        index = strand.choice.index
        if not piece.last:
            if self._plain:
                if not piece.text:
                    return b""
                return self._before[index] + event_json(piece.text) + self._after
            if not piece.text and not self._shown.details:
                return b""
        choice: dict[str, Any] = {
            "index": index,
            "text": piece.text,
            "logprobs": self._logprobs(strand, piece.samples, None),
            "finish_reason": None,
        }
        if self._shown.token_ids:
            choice["token_ids"] = [sample.token for sample in piece.samples]
        if not piece.last:
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
        """Return the `text_completion` object."""
        answer = {**self._head.fields(), "choices": [self._choice(whole) for whole in wholes]}
        answer["usage"] = usage([whole.strand for whole in wholes])
        if self._shown.predictions:
            add_predictions(answer, [whole.strand for whole in wholes])
        return to_json(answer)

    def _choice(self, whole: Whole) -> dict[str, Any]:
        strand, choice = whole.strand, whole.strand.choice
        echoed = self._echo(strand.prompt) if self._echo else None
        fields: dict[str, Any] = {
            "index": choice.index,
            "text": (echoed or "") + whole.text,
            "logprobs": self._logprobs(strand, whole.samples, echoed),
            **choice.ending,
        }
        if self._shown.token_ids:
            fields["prompt_token_ids"] = strand.prompt
            fields["token_ids"] = choice.tokens
        most, prompt = self._shown.prompt_logprobs, choice.prompt_logprobs
        if most is not None and prompt is not None:
            fields["prompt_logprobs"] = self._shown.writer.prompt(strand.prompt, prompt, most)
        return fields

    def _logprobs(
        self, strand: Strand, samples: Sequence[SampledToken], echoed: str | None
    ) -> dict[str, Any] | None:
        """Return what these tokens score, behind the prompt's if its text is `echoed` here."""
        if (most := self._shown.logprobs) is None:
            return None
        index, prompt = strand.choice.index, strand.choice.prompt_logprobs
        tokens: list[tuple[int, TokenLogprobs | None]] = []
        offsets: list[int] = []
        if echoed is not None and prompt is not None:
            tokens += zip(strand.prompt, prompt, strict=True)
            offsets += prompt_offsets(self._prompt_table, strand.prompt, echoed)
            self._offsets[index] = TextOffsets(self._tables[index], len(echoed))
        tokens += [(sample.token, sample.logprobs) for sample in samples]
        offsets += self._offsets[index].push([sample.token for sample in samples])
        return self._shown.writer.completion(tokens, offsets, most)
