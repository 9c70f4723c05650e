"""Which fields may a request for a response have? The body of `POST /v1/responses`.

Checks types and ranges. Says which of OpenAI's fields are refused, which are ignored, and which
belong to its other endpoints. Knows nothing of what the input says.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from serving.api.errors import bad_request
from serving.api.fields import IGNORED, REFUSED, listed, refuse_undeclared
from serving.api.schemas import SampledBody
from serving.api.tools import is_forced

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class TextConfig(BaseModel):
    """What the text of a reply is to look like; the forms of `format` are told apart later."""

    model_config = ConfigDict(strict=True, extra="forbid")

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class Reasoning(BaseModel):
    """How much a model is to think, for templates that ask; there are no summaries of it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    effort: str | None = None
    summary: None = None
    generate_summary: None = None


class ResponseBody(SampledBody):
    """`POST /v1/responses`; the forms of `input` are told apart in `items`."""

    input: Any
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    text: TextConfig | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


def _given(value: Any) -> bool:
    return bool(value)


CANNOT: Mapping[str, Callable[[Any], bool]] = {
    **REFUSED,
    "background": _given,
    "context_management": _given,
    "conversation": _given,
    "include": _given,
    "n": lambda value: value != 1,
    "prompt": _given,
    "top_logprobs": _given,
    "truncation": lambda value: value != "disabled",
}
"""Undeclared fields that cannot be honoured, each with the values that would ask for something."""

WITHOUT_EFFECT = (IGNORED | {"max_tool_calls"}) - {"metadata", "store"}
"""Fields on which the text does not depend."""

ELSEWHERE: Mapping[str, str] = {
    "functions": "tools",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "reasoning_effort": "reasoning.effort",
    "response_format": "text.format",
}
"""Fields of the other endpoints that would change the text, and what they are called here."""


def refuse(body: ResponseBody) -> None:
    """Raise the 400 for the first field that cannot be honoured."""
    for name, here in ELSEWHERE.items():
        if (body.model_extra or {}).get(name) is not None:
            raise bad_request(f"`{name}` belongs to chat completions; use `{here}` here.", name)
    refuse_undeclared(body, CANNOT)


def ignored(body: ResponseBody, unused: frozenset[str]) -> str | None:
    """Return the header's value: which fields had no effect, the `unused` among them."""
    if body.text is not None and body.text.verbosity is not None:
        unused |= {"text.verbosity"}
    if not is_forced(body.tool_choice) and any(tool.get("strict") for tool in body.tools or ()):
        unused |= {"tools.strict"}
    return listed(body, unused, WITHOUT_EFFECT, CANNOT)
