"""`tool_choice` forces calls: the grammar of a turn allows them, as templates write them, alone."""

from typing import Any

import httpx
import openai
import pytest

from serving.api.structured import MAX_CHARACTERS
from serving.config import EndpointConfig
from serving.request import GrammarKind
from tests.serving.api.conftest import Server, serve
from tests.serving.api.test_bad_input import error_of
from tests.support.calling import (
    ASKED,
    CABO,
    HI,
    MANY,
    ROME,
    TEMPLATES,
    TOOLS,
    TWO,
    WRITTEN,
    calls_of,
    post,
    written,
)
from tests.support.fake_engine import FakeEngine
from tests.support.grammars import grammars_over
from tests.support.tool_templates import TemplatedTokenizer

NAMED = {"type": "function", "function": {"name": "weather"}}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "n", "schema": {"type": "object", "properties": {"n": {}}}},
}
FAMILIES = pytest.mark.parametrize("family", TEMPLATES)


def allows(engine: FakeEngine, family: str, text: str) -> bool:
    """Whether the grammar of the last turn has this text for a whole reply."""
    tokenizer = TemplatedTokenizer(TEMPLATES[family])
    grammar = engine.turns[-1].sampling.grammar
    assert grammar is not None
    reply = grammars_over(tokenizer).start(grammar)
    if not reply.consume(tokenizer.encode(text, add_special_tokens=False)):
        return False
    after = reply.next_ids()
    return after is not None and after[1]


@FAMILIES
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_forced_reply_is_a_call(
    servers: dict[str, Server], engines: dict[str, FakeEngine], family: str, choice: Any
):
    engine = engines[family]
    engine.script = lambda turn: written(family, WRITTEN[family])
    answer = post(servers[family], tool_choice=choice).json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert "x-foretoken-ignored-params" not in post(servers[family], tool_choice=choice).headers
    call = WRITTEN[family]
    assert allows(engine, family, call)
    assert allows(engine, family, call.replace("weather", "time")) == (choice == "required")
    for other in (
        "hello",
        "",
        call[:-1],
        f"Hm. {call}",
        call.replace("weather", "other"),
        call.replace("city", "town"),
        call.replace('"Cabo"', "5"),
        call.replace('": "', '":"'),  # as no template prints it
        call.replace(CABO, "{}"),
    ):
        assert not allows(engine, family, other), other


def test_several_calls_are_allowed_unless_one_alone_is_wanted(
    servers: dict[str, Server], engines: dict[str, FakeEngine]
):
    spelled = {
        "hermes": TWO.replace("><", ">\n<"),
        "list": WRITTEN["list"][:-1] + f', {{"name": "time", "arguments": {ROME}}}]',
        "named": WRITTEN["named"] * 3,
        "llama": f"{WRITTEN['llama']}; {WRITTEN['llama']}",
    }
    for family, text in spelled.items():
        engine = engines[family]
        engine.script = lambda turn, family=family: written(family, WRITTEN[family])
        for parallel in (True, False):
            post(servers[family], tool_choice="required", parallel_tool_calls=parallel)
            # Llama's own template takes one call in a message.
            assert allows(engine, family, text) == (parallel and family != "llama")


@FAMILIES
def test_the_official_client_forces_a_call(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine], family: str
):
    engines[family].script = lambda turn: written(family, WRITTEN[family])
    forced: Any = {"tool_choice": NAMED}
    answer = clients[family].chat.completions.create(**ASKED, **forced)
    assert calls_of(answer.choices[0].message) == [("weather", CABO)]


@FAMILIES
def test_with_tools_a_json_format_is_for_replies_that_do_not_call(
    servers: dict[str, Server], engines: dict[str, FakeEngine], family: str
):
    engine = engines[family]
    engine.script = lambda turn: written(family, '{"n": 1}')
    answer = post(servers[family], response_format=FORMAT).json()["choices"][0]
    assert answer["message"]["content"] == '{"n": 1}'
    assert allows(engine, family, '{"n": 1}')
    assert allows(engine, family, WRITTEN[family])
    assert not allows(engine, family, "hello")
    post(servers[family], response_format=FORMAT, tool_choice="none")
    assert engine.turns[-1].sampling.grammar is not None
    assert engine.turns[-1].sampling.grammar.kind is GrammarKind.JSON
    post(servers[family], structured_outputs={"regex": "a+"})
    assert not allows(engine, family, WRITTEN[family])


def refused(server: Server, **fields: Any) -> tuple[str, str | None, str]:
    answer = post(server, **fields)
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    return error["param"], error["code"], error["message"]


def with_parameters(*schemas: Any) -> list[Any]:
    return [
        {"type": "function", "function": {"name": f"f{i}", "parameters": schema}}
        for i, schema in enumerate(schemas)
    ]


def test_what_cannot_be_forced_is_refused_by_its_name(
    servers: dict[str, Server], engines: dict[str, FakeEngine]
):
    server = servers["hermes"]
    both = refused(server, tool_choice="required", response_format=FORMAT)
    assert both[0] == "tool_choice"
    assert "`response_format`" in both[2]
    endless = refused(server, tool_choice="required", ignore_eos=True)
    assert endless[0] == "ignore_eos"
    assert "`tool_choice`" in endless[2]
    tools = with_parameters({"type": "object"}, {"not": {}}, {"$ref": "#/nowhere"})
    param, code, message = refused(server, tool_choice="required", tools=tools)
    assert (param, code) == ("tools[1].function.parameters", "invalid_json_schema")
    assert message.startswith("Invalid schema for function 'f1': ")
    choice = {"type": "function", "function": {"name": "f2"}}
    param, code, _ = refused(server, tool_choice=choice, tools=tools)
    assert (param, code) == ("tools[2].function.parameters", "invalid_json_schema")
    assert refused(server, tool_choice="required", tools=None)[0] == "tool_choice"
    assert engines["hermes"].turns == []
    good = {"type": "function", "function": {"name": "f0"}}
    assert post(server, tool_choice=good, tools=tools).status_code == 200


def test_of_a_format_beside_tools_it_is_said_which_of_them_is_wrong(
    servers: dict[str, Server], engines: dict[str, FakeEngine]
):
    server, good = servers["hermes"], with_parameters({"type": "object"})
    bad = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"not": {}}}}
    param, code, message = refused(server, response_format=bad, tools=good)
    assert (param, code) == ("response_format", "invalid_json_schema")
    assert message == "Invalid schema for response_format 'n': Unimplemented keys: [\"not\"]"
    tools = with_parameters({"type": "object"}, {"not": {}})
    param, code, message = refused(server, response_format=FORMAT, tools=tools)
    assert (param, code) == ("tools[1].function.parameters", "invalid_json_schema")
    assert message == "Invalid schema for function 'f1': Unimplemented keys: [\"not\"]"
    large = with_parameters({"enum": ["x" * MAX_CHARACTERS]})
    param, code, message = refused(server, tool_choice="required", tools=large)
    assert (param, code) == ("tool_choice", None)
    assert message == "The grammar that `tool_choice` asks for exceeds 131072 characters."
    assert engines["hermes"].turns == []


def test_arguments_are_an_object_and_nothing_else(
    servers: dict[str, Server], engines: dict[str, FakeEngine]
):
    for kind in ("string", ["string", "null"], None):
        for choice in ("auto", "required"):
            tools = with_parameters({"type": kind})
            param, _, _ = refused(servers["hermes"], tool_choice=choice, tools=tools)
            assert param == "tools[0].function.parameters"
    assert engines["hermes"].turns == []
    engines["hermes"].script = lambda turn: written("hermes", "f0")
    tools = with_parameters({"type": ["object", "null"], "additionalProperties": False})
    assert post(servers["hermes"], tool_choice="required", tools=tools).status_code == 200
    call = '<tool_call>\n{"name": "f0", "arguments": {}}\n</tool_call>'
    assert allows(engines["hermes"], "hermes", call)
    assert not allows(engines["hermes"], "hermes", call.replace("{}", "null"))


def test_a_model_whose_calls_are_unknown_cannot_be_forced():
    tokenizer = TemplatedTokenizer(TEMPLATES["hermes"])
    with serve(EndpointConfig(tool_call_parser="none"), tokenizer, MANY) as server:
        param, _, message = refused(server, tool_choice="required")
        assert param == "tool_choice"
        assert "--tool-call-parser" in message
        for choice in ("auto", "none"):
            assert post(server, tool_choice=choice).status_code == 200
        assert httpx.post(
            f"{server.url}/v1/chat/completions",
            json={"model": "org/fake", "messages": HI, "tools": TOOLS, "response_format": FORMAT},
            trust_env=False,
        ).is_success
        assert server.engine.turns[-1].sampling.grammar is not None
