"""What must a reply look like that has to call? A description, for whoever constrains sampling.

It is what templates write, so that the reply comes back in the next prompt as it was sampled. Knows
nothing of grammars or tokens; `tools` have been checked (`serving/api/tools`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.api.calls.formats import (
    HERMES_BEGIN,
    HERMES_END,
    MISTRAL_ARGUMENTS,
    MISTRAL_CALLS,
    CallFormat,
)


@dataclass(frozen=True, slots=True)
class Literal:
    """Exactly this text, of ordinary tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Marker:
    """This text, as the one special token that it is where the vocabulary has it as such."""

    text: str


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON value that follows the schema."""

    schema: Mapping[str, Any]


Part = Literal | Marker | Json


@dataclass(frozen=True, slots=True)
class ForcedReply:
    """`before`, a call, `after`; with `between`, further calls may follow, each behind that.

    A call is any of `calls`, one for each function that may be called. The reply ends behind it.
    """

    before: tuple[Part, ...]
    calls: tuple[tuple[Part, ...], ...]
    between: tuple[Part, ...] | None
    after: tuple[Part, ...]


def forced_reply(
    format: CallFormat,
    template: str,
    tools: Sequence[Mapping[str, Any]],
    *,
    named: str | None,
    parallel: bool,
) -> ForcedReply:
    """Describe the replies that call one of the tools, or the `named` one; several if `parallel`.

    `template` is the chat template's source: it tells which of a format's spellings the model has.
    Raises ValueError if no tool has the name. Llama 3 calls once: its templates refuse more.
    """
    functions = [tool["function"] for tool in tools if named in (None, tool["function"]["name"])]
    if not functions:
        raise ValueError(f"no tool is named {named}")
    if format.name == "hermes":
        begin, end = Marker(HERMES_BEGIN), Marker(HERMES_END)
        calls = [
            (begin, Literal("\n"), *_object(one, "arguments"), Literal("\n"), end)
            for one in functions
        ]
        return ForcedReply((), tuple(calls), (Literal("\n"),) if parallel else None, ())
    if format.name == "llama3_json":
        return ForcedReply((), tuple(_object(one, "parameters") for one in functions), None, ())
    if MISTRAL_ARGUMENTS in template:
        calls = [
            (
                Marker(MISTRAL_CALLS),
                Literal(one["name"]),
                Marker(MISTRAL_ARGUMENTS),
                Json(arguments_schema(one)),
            )
            for one in functions
        ]
        return ForcedReply((), tuple(calls), () if parallel else None, ())
    return ForcedReply(
        (Marker(MISTRAL_CALLS), Literal(" [")),
        tuple(_object(one, "arguments") for one in functions),
        (Literal(", "),) if parallel else None,
        (Literal("]"),),
    )


def arguments_schema(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a function's arguments: an object, and empty where it has no schema."""
    schema = function.get("parameters")
    if schema is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return {**schema, "type": "object"}


def _object(function: Mapping[str, Any], arguments: str) -> tuple[Part, ...]:
    opening = f'{{"name": {json.dumps(function["name"])}, "{arguments}": '
    return (Literal(opening), Json(arguments_schema(function)), Literal("}"))
