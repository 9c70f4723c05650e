"""Which request fields are not honoured, and does that change the text?

Three classes: a declared field is honoured; a field on which the text does not depend is ignored
and reported in a header; a field that would change the text and cannot be honoured is refused.
"""

import re
from collections.abc import Callable, Collection, Mapping, Set
from typing import Any

from serving.api.errors import bad_request
from serving.api.schemas import Body, ChatBody, CompletionBody, GenerationBody, SampledBody
from serving.api.tools import check_tool_choice, check_tools, is_forced, strict

IGNORED_HEADER = "x-foretoken-ignored-params"

IGNORED = frozenset(
    {
        "audio",
        "detailed_output",
        "function_call",
        "functions",
        "include_reasoning",
        "include_stop_token",
        "kv_transfer_params",
        "length_penalty",
        "metadata",
        "mm_processor_kwargs",
        "moderation",
        "prediction",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "spaces_between_special_tokens",
        "store",
        "suffix",
        "verbosity",
        "web_search_options",
    }
)
"""Names that may appear in the header as they are; any other is client text (`_safe`)."""

MAX_UNKNOWN = 8
MAX_NAME = 48
"""So many unknown names, of so many characters, may be in the header: enough for typing errors."""


def _given(value: Any) -> bool:
    """A value other than null, false, 0 and the empty collections."""
    return bool(value)


def _audio(value: Any) -> bool:
    return value != ["text"]


def _called(value: Any) -> bool:
    return value != "none"


REFUSED: Mapping[str, Callable[[Any], bool]] = {
    "add_special_tokens": _given,  # of a chat: its template writes them
    "bad_words": _given,
    "chat_template": _given,
    "documents": _given,
    "function_call": _called,
    "grammar": _given,
    "guided_choice": _given,
    "guided_decoding_backend": _given,
    "guided_grammar": _given,
    "guided_json": _given,
    "guided_json_object": _given,
    "guided_regex": _given,
    "json_schema": _given,
    "logits_processors": _given,
    "modalities": _audio,
    "prompt_embeds": _given,
    "regex": _given,
    "thinking_token_budget": _given,
    "use_beam_search": _given,
    "vllm_xargs": _given,
}
"""Undeclared fields that would change the text, each with the values for which it would."""


def refuse_undeclared(body: Body, refused: Mapping[str, Callable[[Any], bool]]) -> None:
    """Raise the 400 for the first undeclared field whose value cannot be honoured."""
    extra = body.model_extra or {}
    for name, changes in refused.items():
        if extra.get(name) is not None and changes(extra[name]):
            raise bad_request(f"`{name}` is not supported with this value.", name)


def refuse(body: GenerationBody) -> None:
    """Raise the 400 for the first field that would change the text and cannot be honoured."""
    refuse_undeclared(body, REFUSED)
    extra = body.model_extra or {}
    n = body.n or 1
    if body.best_of and body.best_of != n:
        raise bad_request("`best_of` other than `n` is not supported.", "best_of")
    if isinstance(body, ChatBody):
        _refuse_chat(body, extra)
    elif isinstance(body, CompletionBody) and extra.get("tools"):
        raise bad_request("`tools` belong to chat completions.", "tools")


def ignored(body: GenerationBody, unused: frozenset[str]) -> str | None:
    """Return the header's value: which fields had no effect; `unused` adds to the undeclared ones.

    Of a chat these are what its `tools` have to no effect, too.
    """
    if isinstance(body, ChatBody) and not is_forced(body.tool_choice) and strict(body.tools):
        unused |= {"tools.function.strict"}
    return listed(body, unused, IGNORED, REFUSED)


def listed(
    body: SampledBody, unused: frozenset[str], known: Set[str], refused: Collection[str]
) -> str | None:
    """Return the header's value: the unused fields, and the undeclared ones, if `known` by name.

    A name outside the known list is `unknown=NAME`; `unknown=+N` counts those that are too many.
    What may be `refused` has been looked at, and asked for nothing.
    """
    sent = {name for name, value in (body.model_extra or {}).items() if value is not None}
    names = sent & known
    unknown = sorted(sent - known - set(refused))
    if body.stream_options is not None and body.stream_options.include_obfuscation is not None:
        names = names | {"stream_options.include_obfuscation"}
    if body.user is not None:
        names = names | {"user"}
    values = sorted(names | unused)
    values += [f"unknown={_safe(name)}" for name in unknown[:MAX_UNKNOWN]]
    if len(unknown) > MAX_UNKNOWN:
        values.append(f"unknown=+{len(unknown) - MAX_UNKNOWN}")
    return ",".join(values) or None


def _safe(name: str) -> str:
    """Client text gets into a header only as the characters of a field's name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "?", name[:MAX_NAME])


def _refuse_chat(body: ChatBody, extra: Mapping[str, Any]) -> None:
    if extra.get("echo"):
        raise bad_request("`echo` is not supported in chat completions.", "echo")
    if extra.get("functions") and extra.get("function_call") != "none":
        raise bad_request("`functions` need `function_call: none`.", "functions")
    check_tools(body.tools)
    check_tool_choice(body.tool_choice, body.tools)
    if body.top_logprobs and not body.logprobs:
        raise bad_request("`top_logprobs` needs `logprobs: true`.", "top_logprobs")
