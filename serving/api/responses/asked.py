"""Which chat does a request for a response ask for? The same chat, asked of chat completions.

What can be wrong with it is found there, by the names that fields have there; `respelled` gives
them the names that the client knows.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from serving.api.errors import ApiError, bad_request
from serving.api.responses.items import Item, messages
from serving.api.responses.schema import ResponseBody
from serving.api.schemas import ChatBody, SampledBody

_TOOL_FIELDS = ("name", "description", "parameters", "strict")
_HARMLESS = {"allowed_callers": ["direct"]}
"""Other fields of a tool, and what they may say: that there is nothing special about it."""

_SPELLED: Mapping[str, str] = {
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "messages": "input",
}
"""Names of fields, or their beginnings, and what they are called here."""

_OF_FUNCTION = re.compile(r"^(tools\[\d+\]|tool_choice|tools)\.function\b")


def chat_of(body: ResponseBody, items: Sequence[Item], *, hinted: bool) -> ChatBody:
    """Return the chat of a request whose conversation so far is `items`.

    Its session may be `hinted` at by the request, unless it is known already.
    """
    shared = {name: getattr(body, name) for name in SampledBody.model_fields}
    if not hinted:
        shared["prompt_cache_key"] = None
    says = messages(items)
    if body.instructions is not None:
        says.insert(0, {"role": "system", "content": body.instructions})
    return ChatBody(
        **shared,
        messages=says,
        max_completion_tokens=body.max_output_tokens,
        tools=body.tools and [_tool(tool, f"tools[{i}]") for i, tool in enumerate(body.tools)],
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        response_format=body.text and body.text.format and _format(body.text.format),
        reasoning_effort=body.reasoning and body.reasoning.effort,
        chat_template_kwargs=body.chat_template_kwargs,
    )


def respelled(error: ApiError) -> ApiError:
    """Return the error with the names that its fields have in a request for a response."""
    message = re.sub(r"`([^`]+)`", lambda found: f"`{spelled(found[1])}`", error.message)
    param = None if error.param is None else spelled(error.param)
    return ApiError(error.status, message, param=param, code=error.code, headers=error.headers)


def spelled(name: str) -> str:
    """Return what a field of a chat is called in a request for a response."""
    for theirs, ours in _SPELLED.items():
        if re.match(rf"{re.escape(theirs)}\b", name):
            return ours + name[len(theirs) :]
    return _OF_FUNCTION.sub(r"\1", name)


def _tool(tool: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Functions are flat here; what is no function stays as it is, and is refused as such."""
    if tool.get("type") != "function":
        return dict(tool)
    for name, value in tool.items():
        if name not in ("type", *_TOOL_FIELDS) and value and value != _HARMLESS.get(name):
            raise bad_request(f"`{path}.{name}` is not supported.", f"{path}.{name}")
    kept = {k: value for k, value in tool.items() if k in _TOOL_FIELDS and value is not None}
    return {"type": "function", "function": kept}


def _choice(choice: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    match choice:
        case {"type": "function", "name": name}:
            return {"type": "function", "function": {"name": name}}
        case _:
            return choice


def _format(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A schema's fields are flat here."""
    if wanted.get("type") != "json_schema":
        return dict(wanted)
    return {"type": "json_schema", "json_schema": {**wanted, "type": None}}
