"""What may `tools` and `tool_choice` be? OpenAI's shapes, checked before a template sees them.

Knows nothing of templates, nor of how models write calls.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from serving.api.errors import bad_request

NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def check_tools(tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Raise the 400 that names the first field of a tool that is not as it must be."""
    for i, tool in enumerate(tools or ()):
        path = f"tools[{i}]"
        if tool.get("type") != "function":
            raise bad_request(f"`{path}.type` must be `function`.", f"{path}.type")
        function = tool.get("function")
        if not isinstance(function, dict):
            raise bad_request(f"`{path}.function` must be an object.", f"{path}.function")
        name = function.get("name")
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise bad_request(
                f"`{path}.function.name` must be a string of 1 to 64 letters, digits, underscores "
                "and dashes.",
                f"{path}.function.name",
            )
        parameters = function.get("parameters")
        if not isinstance(parameters, dict | None) or not _of_object(parameters or {}):
            raise bad_request(
                f"`{path}.function.parameters` must be an object, a JSON schema of objects.",
                f"{path}.function.parameters",
            )


def _of_object(schema: Mapping[str, Any]) -> bool:
    """Whether a schema may be one of arguments, which are an object."""
    kind = schema.get("type", "object")
    return kind == "object" or (isinstance(kind, list) and "object" in kind)


def check_tool_choice(choice: Any, tools: Sequence[Mapping[str, Any]] | None) -> None:
    """Raise the 400 for a choice that is none, or of a function that is not there."""
    match choice:
        case None | "none" | "auto":
            return
        case "required":
            if not tools:
                raise bad_request("`tool_choice: required` needs `tools`.", "tool_choice")
        case {"type": "function", "function": {"name": str(name)}}:
            if all(tool["function"]["name"] != name for tool in tools or ()):
                raise bad_request(
                    f"`tool_choice.function.name`: there is no function `{name}` in `tools`.",
                    "tool_choice.function.name",
                )
        case _:
            raise bad_request(
                "`tool_choice` must be `none`, `auto`, `required` or a function by its name.",
                "tool_choice",
            )


def is_forced(choice: Any) -> bool:
    """Whether a choice that has been checked leaves a reply nothing but to call."""
    return choice not in (None, "none", "auto")


def strict(tools: Sequence[Mapping[str, Any]] | None) -> bool:
    """Whether arguments of any of the tools are to follow its schema to the letter."""
    return any(tool["function"].get("strict") is True for tool in tools or ())
