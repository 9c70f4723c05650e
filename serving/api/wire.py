"""What do all answers of the generation endpoints have in common on the wire?

Knows nothing of chat, completions or responses: their formats are implementations of `Wire`. Events
are assembled from bytes that are the same for a whole stream; only the new text is encoded anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic_core import to_json

from serving.api.choice import Piece
from serving.api.errors import ApiError
from serving.api.exchange import Strand
from serving.messages import SampledToken

DONE = b"data: [DONE]\n\n"

_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\x85\u2028\u2029")
"""What Unicode counts as line ends beyond ASCII, and their escapes."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every object of one answer repeats."""

    id: str
    object: str
    created: int
    model: str

    def fields(self) -> dict[str, Any]:
        """Return them for a JSON object."""
        return {
            "id": self.id,
            "object": self.object,
            "created": self.created,
            "model": self.model,
        }

    def opening(self) -> bytes:
        """Return the beginning of an event, up to the next field."""
        return b"data: " + to_json(self.fields())[:-1] + b","


@dataclass(frozen=True, slots=True)
class StreamUsage:
    """Whether a stream reports usage: in one chunk at its end, and on every chunk."""

    at_end: bool
    running: bool


@dataclass(frozen=True, slots=True)
class Whole:
    """A strand that has ended, with everything its pieces brought."""

    strand: Strand
    text: str
    samples: Sequence[SampledToken]


@runtime_checkable
class Wire(Protocol):
    """Writes one answer: `whole`; or per strand `start`, `chunk` ..., then `end` or `failed`."""

    def start(self, strand: Strand) -> bytes:
        """Return the events that go out with a strand's first token."""
        ...

    def chunk(self, strand: Strand, piece: Piece) -> bytes:
        """Return a piece's event; b"" if it has nothing to show. The last has the reason."""
        ...

    def end(self, strands: Sequence[Strand]) -> bytes:
        """Return what closes a stream whose strands have ended well."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """Return what closes a stream that breaks off."""
        ...

    def whole(self, wholes: Sequence[Whole]) -> bytes:
        """Return the JSON object of an unstreamed answer."""
        ...


def usage(strands: Sequence[Strand]) -> dict[str, Any]:
    """Return the `usage` object: each prompt counts once, however many choices it has."""
    leaders = [strand for strand in strands if strand.leader is None]
    prompt = sum(len(strand.prompt) for strand in leaders)
    reply = sum(len(strand.choice.tokens) for strand in strands)
    cached = sum(strand.cached_len for strand in leaders)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": reply,
        "total_tokens": prompt + reply,
        "prompt_tokens_details": {"cached_tokens": min(cached, prompt)},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def broken_off(error: ApiError) -> bytes:
    """Return the end of a stream of chunks that breaks off.

    Clients that time streams look for the event's name, the others for `error` in its data.
    """
    return b"event: error\ndata: " + error.body + b"\n\n" + DONE


def predicted(strand: Strand) -> dict[str, Any]:
    """Return the `foretoken` object: what was predicted of a reply, by the tokens it had then."""
    return {"predicted_remaining": [list(one) for one in strand.predictions]}


def add_predictions(answer: dict[str, Any], strands: Sequence[Strand]) -> None:
    """Add the first reply's predictions to an answer; of several replies, also to each choice."""
    answer["foretoken"] = predicted(strands[0])
    if len(strands) > 1:
        for choice, strand in zip(answer["choices"], strands, strict=True):
            choice["foretoken"] = predicted(strand)


def event_json(value: Any) -> bytes:
    """Return JSON for an event, whose data is one line also to clients that split by Unicode."""
    data = to_json(value)
    if not data.isascii():
        for end, escape in _LINE_ENDS:
            data = data.replace(end, escape)
    return data


class Events:
    """Builds the events of one stream around their choice objects."""

    def __init__(self, head: Head, usage: StreamUsage, strands: Sequence[Strand]) -> None:
        self.opening = head.opening()
        self.running = usage.running
        self._at_end = usage.at_end
        self._strands = strands
        self._null_usage = b',"usage":null' if usage.at_end else b""
        self.fixed_end = b"]" + self._null_usage + b"}\n\n"
        """Ends the event after its choice, unless usage is running."""

    def around(self, choice: bytes, extra: bytes = b"") -> bytes:
        """Return the event of one choice object; `extra` are further members, each with a comma."""
        opening = self.opening + b'"choices":[' + choice
        if not self.running:
            return opening + b"]" + self._null_usage + extra + b"}\n\n"
        counts = b',"usage":' + to_json(usage(self._strands))
        return opening + b"]" + counts + extra + b"}\n\n"

    def last(self) -> bytes:
        """Return the stream's end, behind an event without choices if usage was asked for."""
        if not self._at_end:
            return DONE
        counts = to_json(usage(self._strands))
        return self.opening + b'"choices":[],"usage":' + counts + b"}\n\n" + DONE
