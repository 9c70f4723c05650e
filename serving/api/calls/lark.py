"""How is a reply that has to call written as a grammar? In llguidance's Lark.

Knows nothing of requests, nor of how a grammar is followed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from serving.api.calls.forced import ForcedReply, Json, Literal, Marker, Part

PRINTED = {"whitespace_flexible": False, "key_separator": ": ", "item_separator": ", "}
"""JSON is spaced as templates print it, so that a call comes back as it was sampled."""

_LEXEMES = re.compile(r'"[^"]*"|[:,] |[\w-]+|.', re.DOTALL)
"""Parts of JSON: calls are cut into them as values are, or no lexer could follow both at once."""


def lark(reply: ForcedReply, special_ids: Mapping[str, int]) -> str:
    """Write the grammar of a forced reply; `special_ids` are those of markers, by their text.

    A marker that is none of them is text like any other.
    """
    rules = ["start: calls", *_calls(reply, special_ids)]
    return "\n".join(rules)


def lark_or_json(
    reply: ForcedReply, special_ids: Mapping[str, int], schema: Mapping[str, Any]
) -> str:
    """Write the grammar of a reply that calls, or else follows a JSON schema."""
    rules = ["start: calls | json", f"json: %json {_spaced(schema)}", *_calls(reply, special_ids)]
    return "\n".join(rules)


def _calls(reply: ForcedReply, special_ids: Mapping[str, int]) -> list[str]:
    """Return the rules of `calls`; arguments have rules of their own, since `%json` needs one."""
    rules: list[str] = []

    def written(parts: Sequence[Part]) -> str:
        return " ".join(one(part) for part in parts)

    def one(part: Part) -> str:
        match part:
            case Literal(text):
                return " ".join(map(json.dumps, _LEXEMES.findall(text)))
            case Marker(text) if text in special_ids:
                return f"<[{special_ids[text]}]>"
            case Marker(text):
                return json.dumps(text)
            case Json(schema):
                rules.append(f"arguments{len(rules)}: %json {_spaced(schema)}")
                return f"arguments{len(rules) - 1}"

    call = " | ".join(written(parts) for parts in reply.calls)
    further = "" if reply.between is None else f"({written(reply.between)} call)*"
    calls = f"calls: {written(reply.before)} call {further} {written(reply.after)}"
    return [calls, f"call: {call}", *rules]


def _spaced(schema: Mapping[str, Any]) -> str:
    return json.dumps({"x-guidance": PRINTED, **schema})
