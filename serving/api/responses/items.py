"""What do a conversation's items say? OpenAI's input and output items, and as a chat's messages.

Checks them, and names what is at fault. Knows nothing of templates, tokens or what is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.api.conversation import joined
from serving.api.errors import bad_request

ROLES = ("user", "assistant", "system", "developer")
PARTS = ("input_text", "output_text")
KINDS = ("message", "function_call", "function_call_output")


@dataclass(frozen=True, slots=True)
class MessageItem:
    """What somebody says."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class CallItem:
    """A call that the model wrote; `arguments` are its text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ResultItem:
    """What came of a call."""

    call_id: str
    output: str


Item = MessageItem | CallItem | ResultItem


def read_items(given: Any) -> tuple[Item, ...]:
    """Return what a request's `input` says; raises the 400 that names the faulty part."""
    match given:
        case str():
            return (MessageItem("user", given),)
        case [_, *_]:
            return tuple(_item(item, f"input[{i}]") for i, item in enumerate(given))
        case _:
            raise bad_request("`input` must be a text or a list of items, not empty.", "input")


def is_reply(item: Item) -> bool:
    """Whether the model has said this, or is said to have."""
    match item:
        case MessageItem(role, _):
            return role == "assistant"
        case CallItem():
            return True
        case ResultItem():
            return False


def check_results(items: Sequence[Item], before: Sequence[Item]) -> None:
    """Raise the 400 for a result of a call that is neither among `items` nor `before` them."""
    known = {item.call_id for item in before if isinstance(item, CallItem)}
    for i, item in enumerate(items):
        if isinstance(item, CallItem):
            known.add(item.call_id)
        elif isinstance(item, ResultItem) and item.call_id not in known:
            path = f"input[{i}].call_id"
            raise bad_request(f"`{path}`: no function call before it has this id.", path)


def messages(items: Sequence[Item]) -> list[dict[str, Any]]:
    """Return the messages of a chat that says the same.

    Calls and the assistant's text before or behind them are one reply, and so one message, as long
    as nothing else comes between.
    """
    said: list[dict[str, Any]] = []
    for item in items:
        reply = said[-1] if said and said[-1]["role"] == "assistant" else None
        match item:
            case MessageItem("assistant", text) if reply is not None and "tool_calls" in reply:
                reply["content"] += text
            case MessageItem(role, text):
                said.append({"role": role, "content": text})
            case CallItem():
                if reply is None:
                    said.append({"role": "assistant", "content": ""})
                said[-1].setdefault("tool_calls", []).append(_call(item))
            case ResultItem(call_id, output):
                said.append({"role": "tool", "tool_call_id": call_id, "content": output})
    return said


def _call(item: CallItem) -> dict[str, Any]:
    function = {"name": item.name, "arguments": item.arguments}
    return {"id": item.call_id, "type": "function", "function": function}


def _item(item: Any, path: str) -> Item:
    if not isinstance(item, dict):
        raise bad_request(f"`{path}` must be an object.", path)
    match item.get("type"):
        case None | "message":
            return _message(item, path)
        case "function_call":
            return CallItem(
                _string(item, "call_id", path),
                _string(item, "name", path),
                _string(item, "arguments", path),
            )
        case "function_call_output":
            call_id = _string(item, "call_id", path)
            return ResultItem(call_id, _text(item.get("output"), f"{path}.output"))
        case _:
            supported = ", ".join(f"`{kind}`" for kind in KINDS)
            raise bad_request(
                f"`{path}.type`: only items of type {supported} are supported.", f"{path}.type"
            )


def _message(item: Mapping[str, Any], path: str) -> MessageItem:
    role = item.get("role")
    if role not in ROLES:
        raise bad_request(f"`{path}.role` must be one of {', '.join(ROLES)}.", f"{path}.role")
    return MessageItem(role, _text(item.get("content"), f"{path}.content"))


def _text(content: Any, path: str) -> str:
    match content:
        case str():
            return content
        case list():
            return joined([_part(part, f"{path}[{i}]") for i, part in enumerate(content)])
        case _:
            raise bad_request(f"`{path}` must be a text or a list of text parts.", path)


def _part(part: Any, path: str) -> str:
    if not isinstance(part, dict) or part.get("type") not in PARTS:
        kinds = " and ".join(f"`{kind}`" for kind in PARTS)
        raise bad_request(f"`{path}`: only parts of type {kinds} are supported.", path)
    return _string(part, "text", path)


def _string(fields: Mapping[str, Any], name: str, path: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise bad_request(f"`{path}.{name}` must be there, and a text.", f"{path}.{name}")
    return value
