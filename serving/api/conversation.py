"""What may a chat's messages look like? Checked here, and written the way templates expect them.

Knows nothing of templates or tokens.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serving.api.errors import bad_request

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_PASSED_ON = ("name", "tool_call_id", "reasoning_content")


def checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the messages with text contents only; raises the 400 that names the faulty part."""
    if not messages:
        raise bad_request("`messages` must not be empty.", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def joined(parts: Sequence[str]) -> str:
    """Return the text of a content that came in parts."""
    return "\n".join(parts)


def _message(message: Mapping[str, Any], path: str) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise bad_request(f"`{path}.role` must be one of {known}.", f"{path}.role")
    out: dict[str, Any] = {"role": "system" if role == "developer" else role}
    calls = message.get("tool_calls")
    if not calls and message.get("function_call"):  # as calls were spelled before there were tools
        calls = [{"type": "function", "function": message["function_call"]}]
    may_be_empty = role == "assistant" and bool(calls)
    out["content"] = _content(message.get("content"), may_be_empty, f"{path}.content")
    for key in _PASSED_ON:
        if message.get(key) is not None:
            if not isinstance(message[key], str):
                raise bad_request(f"`{path}.{key}` must be a string.", f"{path}.{key}")
            out[key] = message[key]
    if calls:
        out["tool_calls"] = _tool_calls(calls, f"{path}.tool_calls")
    return out


def _content(content: Any, may_be_empty: bool, path: str) -> str:
    match content:
        case str():
            return content
        case None if may_be_empty:
            return ""
        case list():
            return joined([_part(part, f"{path}[{i}]") for i, part in enumerate(content)])
        case _:
            raise bad_request(f"`{path}` must be a string or a list of text parts.", path)


def _part(part: Any, path: str) -> str:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "text"}:
            raise bad_request(f"`{path}.text` must be a string.", f"{path}.text")
        case _:
            raise bad_request(f"`{path}`: only parts of type `text` are supported.", path)


def _tool_calls(calls: Any, path: str) -> list[dict[str, Any]]:
    """Templates print arguments as JSON themselves, so their text form is parsed first."""
    if not isinstance(calls, list):
        raise bad_request(f"`{path}` must be a list.", path)
    out = []
    for i, call in enumerate(calls):
        match call:
            case {"function": {"name": str(), **rest} as function}:
                out.append({**call, "function": {**function, **_arguments(rest)}})
            case _:
                raise bad_request(
                    f"`{path}[{i}]` must have a `function` with a `name`.", f"{path}[{i}]"
                )
    return out


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return {}
    if not arguments.strip():  # how some clients spell a call without arguments
        return {"arguments": {}}
    try:
        return {"arguments": json.loads(arguments)}
    except (ValueError, RecursionError):
        return {}
