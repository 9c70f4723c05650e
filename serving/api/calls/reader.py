"""What does a client see of a reply with calls? OpenAI's fields, whole and streamed.

Knows formats only by their parser. Fed with a choice's text, it needs no tokens.
"""

import secrets
import string
import uuid
from collections.abc import Sequence
from typing import Any

from serving.api.calls.deltas import Arguments, CallBegins, Content, Delta, Outgoing
from serving.api.calls.formats import CallFormat
from serving.api.calls.incoming import Incoming

_SHORT_ID = 9
_LETTERS_AND_DIGITS = string.ascii_letters + string.digits


class CallReader:
    """Tells calls from text: push what comes, close once, and take what was found in between."""

    def __init__(self, format: CallFormat, *, parallel: bool) -> None:
        """Without `parallel` only a reply's first call is reported."""
        self._ids: dict[int, str] = {}
        self._short_ids = format.short_ids
        self._incoming = Incoming()
        self._out = Outgoing(only_first=not parallel)
        self._parser = format.parse(self._incoming, self._out)

    def push(self, text: str) -> None:
        """Read more of the reply."""
        self._incoming.add(text)
        next(self._parser, None)

    def close(self) -> None:
        """The reply has ended: what was held back is decided."""
        self._incoming.end()
        next(self._parser, None)

    def found(self) -> list[Delta]:
        """Return what was found since the last time."""
        return self._out.take()

    def take(self) -> list[dict[str, Any]]:
        """Return what was found since the last time, as the `delta` objects of as many chunks.

        Content and calls are in chunks of their own. The first part of each call has its id, type
        and name.
        """
        deltas: list[dict[str, Any]] = []
        for found in self.found():
            match found:
                case Content(text):
                    deltas.append({"content": text})
                case CallBegins() | Arguments():
                    if not (deltas and "tool_calls" in deltas[-1]):
                        deltas.append({"tool_calls": []})
                    self._add(found, deltas[-1]["tool_calls"])
        return deltas

    @property
    def called(self) -> bool:
        """Whether there are calls, all of them with the end of their arguments."""
        return self._out.calls > 0 and not self._out.cut

    def id_of(self, index: int) -> str | None:
        """Return the id of a call, which it keeps; None: there is no such call."""
        if index >= self._out.calls:
            return None
        return self._ids.setdefault(index, self._fresh_id())

    def _add(self, found: CallBegins | Arguments, parts: list[dict[str, Any]]) -> None:
        if isinstance(found, CallBegins):
            function = {"name": found.name, "arguments": ""}
            head = {"index": found.index, "id": self.id_of(found.index), "type": "function"}
            parts.append({**head, "function": function})
        elif parts and parts[-1]["index"] == found.index:
            parts[-1]["function"]["arguments"] += found.text
        else:
            parts.append({"index": found.index, "function": {"arguments": found.text}})

    def _fresh_id(self) -> str:
        if self._short_ids:
            return "".join(secrets.choice(_LETTERS_AND_DIGITS) for _ in range(_SHORT_ID))
        return f"call_{uuid.uuid4().hex}"


def message(deltas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a whole reply's `content` and, if there are any, `tool_calls`.

    Content is null where there is nothing but calls.
    """
    content = "".join(delta.get("content", "") for delta in deltas)
    calls: dict[int, dict[str, Any]] = {}
    for part in (part for delta in deltas for part in delta.get("tool_calls", ())):
        known = calls.setdefault(part["index"], part)
        if known is not part:
            known["function"]["arguments"] += part["function"]["arguments"]
    if not calls:
        return {"content": content}
    listed = [{k: v for k, v in call.items() if k != "index"} for call in calls.values()]
    return {"content": content or None, "tool_calls": listed}
