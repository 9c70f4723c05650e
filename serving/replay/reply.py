"""What has come of a reply so far? Chunks of a stream, of completions and of chats alike."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from serving.replay.failure import TurnFailed, broken_off, error_in

DONE = b"[DONE]"
WHOLE = frozenset({"stop", "length"})
"""The reasons for which a whole reply ends."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Lengths in tokens, as the server counts them; None where it does not say."""

    prompt: int
    reply: int
    cached: int | None


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one event brought; `tokens` is a guess of one if text came without its ids."""

    tokens: int
    token_ids: tuple[int, ...]
    text: str
    finish: str | None
    usage: Usage | None


@dataclass(slots=True)
class Reply:
    """A reply that grows by chunks."""

    token_ids: list[int] = field(default_factory=list[int])
    texts: list[str] = field(default_factory=list[str])
    tokens: int = 0
    finish: str | None = None
    usage: Usage | None = None

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self.texts)

    def add(self, chunk: Chunk) -> None:
        """Take a chunk."""
        self.tokens += chunk.tokens
        self.token_ids += chunk.token_ids
        self.texts.append(chunk.text)
        self.finish = chunk.finish or self.finish
        self.usage = chunk.usage or self.usage

    def check_whole(self) -> None:
        """Raise TurnFailed unless the stream said that the reply is whole."""
        if self.finish is None:
            raise TurnFailed("stream: no end", "the stream ended before the reply did")
        if self.finish not in WHOLE:
            raise TurnFailed(f"finish_reason {self.finish}", "the server ended the reply")


def read_chunk(event: bytes) -> Chunk | None:
    """Read an event's data; None for the mark of the stream's end. Raises TurnFailed."""
    if event == DONE:
        return None
    try:
        value = json.loads(event)
    except ValueError as problem:
        raise TurnFailed("stream: not JSON", event.decode(errors="replace")) from problem
    error = error_in(value)
    if error is not None:
        raise broken_off(error)
    if not isinstance(value, dict):
        raise TurnFailed("stream: no object", event.decode(errors="replace"))
    fields = cast("dict[str, Any]", value)
    choices = fields.get("choices") or [{}]
    return _chunk(choices[0], _usage(fields.get("usage")))


def _chunk(choice: Mapping[str, Any], usage: Usage | None) -> Chunk:
    delta = choice.get("delta") or {}
    text = choice.get("text") or delta.get("content") or ""
    thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
    ids = choice.get("token_ids")
    tokens = len(ids) if ids is not None else int(bool(text or thought))
    return Chunk(tokens, tuple(ids or ()), text, choice.get("finish_reason"), usage)


def _usage(value: Mapping[str, Any] | None) -> Usage | None:
    if not value:
        return None
    details = value.get("prompt_tokens_details") or {}
    cached = details.get("cached_tokens")
    return Usage(value.get("prompt_tokens", 0), value.get("completion_tokens", 0), cached)
