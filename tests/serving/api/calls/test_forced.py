"""A reply that is forced to call is read as that call, and is what the template would write."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from serving.api.calls.forced import ForcedReply, Json, Marker, Part, forced_reply
from serving.api.calls.formats import FORMATS, format_in_force
from tests.serving.api.calls.test_formats import parsed
from tests.support import tool_templates
from tests.support.tool_templates import TemplatedTokenizer

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "g-2", "parameters": {"properties": {}}}},
    {"type": "function", "function": {"name": "h"}},
]
TEMPLATES = [
    tool_templates.HERMES,
    tool_templates.LLAMA,
    tool_templates.MISTRAL_LIST,
    tool_templates.MISTRAL_NAMED,
]
IDS = ["hermes", "llama", "list", "named"]
LLAMA = TEMPLATES[1]
ALL = pytest.mark.parametrize("template", TEMPLATES, ids=IDS)


def forced(template: str, *, named: str | None = None, parallel: bool = True) -> ForcedReply:
    found = format_in_force("auto", template)
    assert found is not None
    return forced_reply(found, template, TOOLS, named=named, parallel=parallel)


def spelled(parts: Iterable[Part], arguments: str) -> str:
    return "".join(arguments if isinstance(part, Json) else part.text for part in parts)


def written(reply: ForcedReply, calls: list[tuple[int, str]]) -> str:
    """The reply that makes these calls: which one, with which arguments."""
    texts = [spelled(reply.calls[which], arguments) for which, arguments in calls]
    between = "" if reply.between is None else spelled(reply.between, "")
    return spelled(reply.before, "") + between.join(texts) + spelled(reply.after, "")


@ALL
def test_every_function_can_be_called_and_is_understood(template: str):
    found = format_in_force("auto", template)
    assert found is not None
    reply = forced(template)
    assert len(reply.calls) == 3
    for which, name in enumerate(["f", "g-2", "h"]):
        text = written(reply, [(which, '{"x": 1}')])
        assert parsed(found.name, [text]) == ("", [(name, '{"x": 1}')])


@ALL
def test_several_calls_are_understood_where_several_may_be(template: str):
    found = format_in_force("auto", template)
    assert found is not None
    assert forced(template, parallel=False).between is None
    if template == LLAMA:
        assert forced(template).between is None
        return
    text = written(forced(template), [(0, '{"x": 1}'), (2, "{}"), (0, '{"x": 2}')])
    calls = [("f", '{"x": 1}'), ("h", "{}"), ("f", '{"x": 2}')]
    assert parsed(found.name, [text]) == ("", calls)


@ALL
def test_a_named_function_alone_can_be_called(template: str):
    reply = forced(template, named="g-2")
    found = format_in_force("auto", template)
    assert found is not None
    assert len(reply.calls) == 1
    assert parsed(found.name, [written(reply, [(0, "{}")])]) == ("", [("g-2", "{}")])
    with pytest.raises(ValueError, match="no tool is named nobody"):
        forced(template, named="nobody")


@ALL
def test_a_forced_call_is_what_the_template_writes(template: str):
    """Where the template writes ids into its calls it cannot be: the model has not made them."""
    calls: list[Any] = [
        {"id": "a" * 9, "function": {"name": "f", "arguments": {"x": 1}}},
        {"id": "b" * 9, "function": {"name": "h", "arguments": {}}},
    ]
    several = template != LLAMA
    rendered = TemplatedTokenizer(template).apply_chat_template(
        [{"role": "assistant", "content": "", "tool_calls": calls if several else calls[:1]}],
        add_generation_prompt=False,
        tools=None,
        variables={},
    )
    for call in calls:
        rendered = rendered.replace(f', "id": "{call["id"]}"', "")
    wanted = [(0, '{"x": 1}'), (2, "{}")] if several else [(0, '{"x": 1}')]
    assert rendered == f"<bos><assistant>{written(forced(template), wanted)}<eos>"


@ALL
def test_arguments_follow_the_schema_and_are_objects(template: str):
    schemas = [
        next(part.schema for part in call if isinstance(part, Json))
        for call in forced(template).calls
    ]
    assert schemas == [
        SCHEMA,
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {}, "additionalProperties": False},
    ]
    json.dumps(schemas)


def test_markers_are_those_of_the_format():
    """Whoever makes tokens of a marker finds it where the parser's text shows it."""
    for template in TEMPLATES:
        found = format_in_force("auto", template)
        assert found in FORMATS.values()
        reply = forced(template)
        parts = [*reply.before, *reply.after, *(part for call in reply.calls for part in call)]
        markers = {part.text for part in parts if isinstance(part, Marker)}
        assert markers <= set(found.markers if found else ())
        assert bool(markers) == (template != LLAMA)
