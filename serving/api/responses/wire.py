"""What is a response on the wire? The `response` object, and the events that lead to it.

Knows nothing of scheduling or of how bytes are sent.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydantic_core import to_json

from model.sampling_defaults import SamplingDefaults
from serving.api.calls.deltas import Content
from serving.api.choice import Piece
from serving.api.errors import ApiError
from serving.api.exchange import Strand
from serving.api.responses.items import Item
from serving.api.responses.output import COMPLETED, IN_PROGRESS, INCOMPLETE, Event, Output
from serving.api.responses.schema import ResponseBody
from serving.api.wire import Whole, event_json, usage
from serving.request import FinishReason

PREFIX = "resp_"
FAILED = "failed"
_ERRORS = {400: "invalid_prompt", 429: "rate_limit_exceeded"}
"""What OpenAI calls the errors of responses that failed; all others are `server_error`."""

Keep = Callable[[bytes, tuple[Item, ...]], None]
"""Takes a response that has ended well: its object, and what the reply says."""


class ResponseWire:
    """Writes the response to one request; it has one strand."""

    def __init__(
        self, head: dict[str, Any], strand: Strand, now: Callable[[], int], keep: Keep
    ) -> None:
        """`head` is the object as it begins (`beginning`), `now` the time of day in seconds."""
        self._head = head
        self._strand = strand
        self._now = now
        self._keep = keep
        self._sent = 0
        self._output = Output(head["id"].removeprefix(PREFIX), self._call_id)

    def start(self, strand: Strand) -> bytes:
        """Return the events that tell of the response before anything is said."""
        created = {"type": "response.created", "response": self._head}
        return self._written([created, {"type": "response.in_progress", "response": self._head}])

    def chunk(self, strand: Strand, piece: Piece) -> bytes:
        """Return the events of what a piece adds."""
        return self._written(self._events(piece.text, last=piece.last))

    def end(self, strands: Sequence[Strand]) -> bytes:
        """Return the last event, with the whole response, which is kept before it is sent."""
        status, response = self._ended()
        self._keep(response, self._output.items)
        head = to_json({"type": f"response.{status}", "sequence_number": self._sent})
        return _framed(f"response.{status}", head[:-1] + b',"response":' + response + b"}")

    def failed(self, error: ApiError) -> bytes:
        """Return the event that says why the response breaks off."""
        self._output.cut()
        code = _ERRORS.get(error.status, "server_error")
        response = {
            **self._head,
            "status": FAILED,
            "error": {"code": code, "message": error.message},
            "output": self._output.shown(),
        }
        return self._written([{"type": "response.failed", "response": response}])

    def whole(self, wholes: Sequence[Whole]) -> bytes:
        """Return the `response` object, which is kept."""
        self._events(wholes[0].text, last=True)
        response = self._ended()[1]
        self._keep(response, self._output.items)
        return response

    def _call_id(self, index: int) -> str:
        calls = self._strand.choice.calls
        found = calls.id_of(index) if calls is not None else None
        assert found is not None  # a call has begun, so it has an id
        return found

    def _events(self, text: str, *, last: bool) -> list[Event]:
        calls = self._strand.choice.calls
        said = calls.found() if calls is not None else [Content(text)] if text else []
        events = self._output.push(said)
        return events + self._output.close(whole=self._is_whole) if last else events

    @property
    def _is_whole(self) -> bool:
        """Whether the reply has ended by itself, rather than by its length."""
        finish = self._strand.choice.finish
        return finish is not None and finish.reason is FinishReason.STOP

    def _ended(self) -> tuple[str, bytes]:
        """Return how the response ended, and its object."""
        whole = self._is_whole
        status = COMPLETED if whole else INCOMPLETE
        response = {
            **self._head,
            "status": status,
            "completed_at": self._now() if whole else None,
            "incomplete_details": None if whole else {"reason": "max_output_tokens"},
            "output": self._output.shown(),
            "usage": _usage(self._strand),
        }
        return status, event_json(response)

    def _written(self, events: Iterable[Event]) -> bytes:
        written: list[bytes] = []
        for event in events:
            data = event_json({**event, "sequence_number": self._sent})
            written.append(_framed(event["type"], data))
            self._sent += 1
        return b"".join(written)


def beginning(body: ResponseBody, id: str, now: int, defaults: SamplingDefaults) -> dict[str, Any]:
    """Return a `response` object as it begins; `defaults` are those of what a request leaves open.

    `now` is the time of day in seconds.
    """
    text: dict[str, Any] = {"format": {"type": "text"}}
    if body.text is not None:
        text |= body.text.model_dump(exclude_none=True)
    return {
        "id": id,
        "object": "response",
        "created_at": now,
        "status": IN_PROGRESS,
        "background": False,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": body.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": body.reasoning and body.reasoning.effort, "summary": None},
        "store": body.store is not False,
        "temperature": defaults.temperature if body.temperature is None else body.temperature,
        "text": text,
        "tool_choice": "auto" if body.tool_choice is None else body.tool_choice,
        "tools": body.tools or [],
        "top_logprobs": 0,
        "top_p": defaults.top_p if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _usage(strand: Strand) -> dict[str, Any]:
    counts = usage([strand])
    prompt, reply = counts["prompt_tokens"], counts["completion_tokens"]
    cached = counts["prompt_tokens_details"]["cached_tokens"]
    return {
        "input_tokens": prompt,
        # What is computed of a prompt is kept for later ones.
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": prompt - cached},
        "output_tokens": reply,
        "output_tokens_details": counts["completion_tokens_details"],
        "total_tokens": prompt + reply,
    }


def _framed(kind: str, data: bytes) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
