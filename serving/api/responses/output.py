"""What does a reply look like as items? Its deltas become output items, and the events of a stream.

1. The first text, and the first behind a call, adds a message; a call adds an item of its own.
2. An item is done when the next one is added, or at the end.
3. `close` ends the last one: complete, or cut. A reply that says nothing is an empty message.
   One that breaks off is `cut` instead, and nothing is told of its last item any more.

A state machine that knows neither tokens nor bytes; events have no sequence numbers yet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, assert_never

from serving.api.calls.deltas import Arguments, CallBegins, Content, Delta
from serving.api.responses.items import CallItem, Item, MessageItem

Event = dict[str, Any]
"""An event of a stream: its type, and what it is about."""

IN_PROGRESS, COMPLETED, INCOMPLETE = "in_progress", "completed", "incomplete"


@dataclass(slots=True)
class _Message:
    id: str
    status: str = IN_PROGRESS
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def part(self) -> dict[str, Any]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}

    def shown(self) -> dict[str, Any]:
        """Return the item; a message that has just begun has no content yet."""
        head = {"id": self.id, "type": "message", "status": self.status, "role": "assistant"}
        begun = self.texts or self.status != IN_PROGRESS
        return {**head, "content": [self.part] if begun else []}


@dataclass(slots=True)
class _Call:
    id: str
    call_id: str
    name: str
    status: str = IN_PROGRESS
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def shown(self) -> dict[str, Any]:
        """Return the item, with the arguments so far."""
        head = {"id": self.id, "type": "function_call", "status": self.status}
        return {**head, "call_id": self.call_id, "name": self.name, "arguments": self.text}


class Output:
    """The items of one reply: push deltas, close once."""

    def __init__(self, unique: str, call_id: Callable[[int], str]) -> None:
        """`unique` makes the ids of items unique; `call_id` names the reply's calls, by index."""
        self._unique = unique
        self._call_id = call_id
        self._items: list[_Message | _Call] = []

    def push(self, deltas: Sequence[Delta]) -> list[Event]:
        """Take what the reply says next; return the events that tell of it."""
        events: list[Event] = []
        for delta in deltas:
            match delta:
                case Content(text):
                    last = self._items[-1] if self._items else None
                    if not isinstance(last, _Message):
                        events += self._begin(self._message())
                    events.append(self._add(text, "response.output_text.delta"))
                case CallBegins(index, name):
                    id = f"fc_{self._unique}{len(self._items)}"
                    events += self._begin(_Call(id, self._call_id(index), name))
                case Arguments(_, text):
                    events.append(self._add(text, "response.function_call_arguments.delta"))
                case _:
                    assert_never(delta)
        return events

    def close(self, *, whole: bool) -> list[Event]:
        """End the last item, which is not `whole` if the reply was cut in it."""
        begun = [] if self._items else self._begin(self._message())
        return begun + self._done(COMPLETED if whole else INCOMPLETE)

    def cut(self) -> None:
        """The reply breaks off: its last item, if there is one, will not be done."""
        for item in self._items[-1:]:
            item.status = INCOMPLETE

    def shown(self) -> list[dict[str, Any]]:
        """Return the items as clients see them."""
        return [item.shown() for item in self._items]

    @property
    def items(self) -> tuple[Item, ...]:
        """What the reply says, for the conversation's next turn."""
        return tuple(
            MessageItem("assistant", item.text)
            if isinstance(item, _Message)
            else CallItem(item.call_id, item.name, item.text)
            for item in self._items
        )

    def _message(self) -> _Message:
        return _Message(f"msg_{self._unique}{len(self._items)}")

    def _begin(self, item: _Message | _Call) -> list[Event]:
        events = self._done(COMPLETED) if self._items else []
        self._items.append(item)
        events.append(self._at("response.output_item.added", item=item.shown()))
        if isinstance(item, _Message):
            events.append(self._in("response.content_part.added", part=item.part))
        return events

    def _add(self, text: str, kind: str) -> Event:
        item = self._items[-1]
        item.texts.append(text)
        if isinstance(item, _Message):
            return self._in(kind, delta=text, logprobs=[])
        return self._at(kind, item_id=item.id, delta=text)

    def _done(self, status: str) -> list[Event]:
        item = self._items[-1]
        item.status = status
        if isinstance(item, _Message):
            events = [
                self._in("response.output_text.done", text=item.text, logprobs=[]),
                self._in("response.content_part.done", part=item.part),
            ]
        else:
            kind, said = "response.function_call_arguments.done", item.text
            events = [self._at(kind, item_id=item.id, name=item.name, arguments=said)]
        return [*events, self._at("response.output_item.done", item=item.shown())]

    def _at(self, kind: str, **fields: Any) -> Event:
        """An event about the last item."""
        return {"type": kind, "output_index": len(self._items) - 1, **fields}

    def _in(self, kind: str, **fields: Any) -> Event:
        """An event about the content of the last item, a message."""
        return self._at(kind, item_id=self._items[-1].id, content_index=0, **fields)
