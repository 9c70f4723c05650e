"""Which fields may a request have, and of which type? The bodies of the POST endpoints.

Checks types and ranges, strictly and without conversions; what fields mean together is decided in
`params`. Unknown top-level fields are collected, not refused: `fields` sorts them.
"""

from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from serving.api.errors import ApiError, bad_request
from serving.messages import Role

Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=1024)]


def _visible(text: str) -> str:
    """An id goes into logs and headers, where a line end or a space would be in the way."""
    if all("!" <= character <= "~" for character in text):
        return text
    raise PydanticCustomError("not_visible", "must be visible ASCII characters without spaces")


RequestId = Annotated[str, Field(max_length=256), AfterValidator(_visible)]


class Body(BaseModel):
    """A request body; what it does not declare is kept in `model_extra`."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class StreamOptions(BaseModel):
    """What a stream carries beside its text."""

    model_config = ConfigDict(strict=True, extra="ignore")

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: bool | None = None


class SampledBody(Body):
    """What all that generate share: sampling, who asks. None means "not set" everywhere."""

    model: str
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = None
    allowed_token_ids: list[int] | None = None
    seed: Int64 | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=128)] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    priority: Int64 | None = None
    cache_salt: str | None = None
    prompt_cache_key: str | None = None
    user: str | None = None
    nvext: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None


class GenerationBody(SampledBody):
    """What chat and completions share."""

    max_tokens: Annotated[int, Field(ge=0)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=0, le=128)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0)] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=1)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    request_id: RequestId | None = None
    response_format: dict[str, Any] | None = None
    foretoken_predictions: bool | None = None


class ChatBody(GenerationBody):
    """`POST /v1/chat/completions`; the messages' contents are checked in `messages`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: Annotated[int, Field(ge=0)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionBody(GenerationBody):
    """`POST /v1/completions`; the forms of `prompt` are told apart in `text`."""

    prompt: Any
    add_special_tokens: bool | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None


class TokenizeBody(Body):
    """`POST /tokenize`: a plain prompt or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    reasoning_effort: str | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None
    cache_salt: str | None = None


class DetokenizeBody(Body):
    """`POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


class AbortBody(Body):
    """`POST /abort_requests`."""

    request_ids: list[str]


class RoleBody(Body):
    """`POST /admin/workers/{id}/role`; the role must be there, if only as null."""

    role: Role | None


BodyT = TypeVar("BodyT", bound=Body)


def parse(kind: type[BodyT], body: bytes) -> BodyT:
    """Read a body; raises the 400 that names the first field at fault."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _explained(error) from None


def replies_before(body: GenerationBody) -> int:
    """Count the replies that a chat shows before the one asked for; a completion shows none."""
    messages = body.messages if isinstance(body, ChatBody) else []
    return sum(message.get("role") == "assistant" for message in messages)


def _explained(error: ValidationError) -> ApiError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    # Of a union's members, the one that was meant is the one that got furthest into the value.
    at_fault = [one for one in found if one["loc"][:1] == found[0]["loc"][:1]]
    first = max(at_fault, key=lambda one: len(one["loc"]))
    if first["type"] == "json_invalid":
        why = first["msg"].removeprefix("Invalid JSON: ")
        return bad_request(f"The request body is not valid JSON: {why}.", None)
    param = _path(first["loc"])
    return bad_request(f"{param or 'body'}: {first['msg']}.", param)


def _path(location: tuple[int | str, ...]) -> str | None:
    """Write `("messages", 0)` as `messages[0]`; the names of union members are left out."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not path:
            path = part
        elif part.isidentifier() and part not in ("str", "int", "float", "bool", "list", "dict"):
            path += f".{part}"
    return path or None
