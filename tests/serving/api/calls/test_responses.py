"""Calls of tools in responses: whole, streamed, and round trips, by the official client."""

import json
from collections.abc import Sequence
from typing import Any

import openai
import pydantic
import pytest
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage
from openai.types.responses.response import Response

from serving.request import GrammarKind
from tests.serving.api.conftest import Lines
from tests.support.calling import CABO, PARAMETERS, ROME, TEMPLATES, TWO, WRITTEN, encoded, written
from tests.support.fake_engine import FakeEngine, Script, each
from tests.support.fake_tokenizer import EOS
from tests.support.tool_templates import TemplatedTokenizer

TOOLS: list[Any] = [
    {"type": "function", "name": name, "strict": True, "parameters": PARAMETERS}
    for name in ("weather", "time")
]
ASKED: dict[str, Any] = {"model": "org/fake", "input": "hi", "tools": TOOLS}
BOTH = [("weather", CABO), ("time", ROME)]
FAMILIES = pytest.mark.parametrize("family", TEMPLATES)


def calls_of(response: Response) -> list[tuple[str, str]]:
    items = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    return [(item.name, item.arguments) for item in items]


def results(response: Response) -> list[Any]:
    """What a client sends once it has run the calls."""
    items = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": "sunny"}
        for item in items
    ]


@FAMILIES
def test_a_call_is_an_item(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine], family: str
):
    engines[family].script = lambda turn: written(family, WRITTEN[family])
    answer = clients[family].responses.create(**ASKED)
    (call,) = answer.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert (call.name, call.arguments, call.status) == ("weather", CABO, "completed")
    assert call.id
    assert call.id.startswith("fc_")
    assert call.call_id != call.id
    assert len(call.call_id) == (9 if family in ("list", "named") else 37)
    assert (answer.status, answer.output_text) == ("completed", "")
    assert [tool.to_dict() for tool in answer.tools] == TOOLS


@FAMILIES
@pytest.mark.parametrize("at_a_time", [1, 5, 1000])
def test_a_call_is_streamed(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine], family: str, at_a_time: int
):
    text = WRITTEN[family] if family == "llama" else f"Let me see. {WRITTEN[family]}"
    ids = [*encoded(family, text), EOS]
    groups = [ids[at : at + at_a_time] for at in range(0, len(ids), at_a_time)]
    engines[family].script = lambda turn: Script(groups)
    with clients[family].responses.stream(**ASKED) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    arguments = "".join(
        e.delta for e in events if e.type == "response.function_call_arguments.delta"
    )
    (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
    assert arguments == done.arguments == CABO
    assert calls_of(final) == [("weather", CABO)]
    call = final.output[-1]
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.parsed_arguments == json.loads(CABO)  # type: ignore[attr-defined]
    assert final.output_text == ("" if family == "llama" else "Let me see.")
    kinds = [e.type for e in events if not e.type.endswith("delta")]
    assert kinds == [
        "response.created",
        "response.in_progress",
        *(MESSAGE if family != "llama" else ()),
        "response.output_item.added",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]


MESSAGE = (
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
)


def test_several_calls_and_text_between_are_items_in_their_order(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine
):
    text = f"one {WRITTEN['hermes']} two {WRITTEN['hermes'].replace('weather', 'time')}"
    hermes.script = lambda turn: written("hermes", text)
    with clients["hermes"].responses.stream(**ASKED) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["message", "function_call"] * 2
    added = [e.item.to_dict()["id"] for e in events if e.type == "response.output_item.added"]
    assert [item.to_dict()["id"] for item in final.output] == added
    assert len(set(added)) == 4
    told = [e for e in events if hasattr(e, "output_index")]
    assert [e.output_index for e in told] == sorted(e.output_index for e in told)  # type: ignore[union-attr]
    texts = [i.content[0].to_dict()["text"] for i in final.output if i.type == "message"]
    assert texts == ["one", " two"]
    whole = clients["hermes"].responses.create(**ASKED)
    assert calls_of(whole) == calls_of(final) == [("weather", CABO), ("time", CABO)]
    assert whole.output_text == final.output_text


def test_one_call_alone_is_reported_where_there_may_be_no_more(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine
):
    hermes.script = lambda turn: written("hermes", TWO)
    assert calls_of(clients["hermes"].responses.create(**ASKED)) == BOTH
    answer = clients["hermes"].responses.create(**ASKED, parallel_tool_calls=False)
    assert calls_of(answer) == BOTH[:1]
    assert answer.parallel_tool_calls is False


def test_a_call_that_is_cut_is_incomplete(clients: dict[str, openai.OpenAI], hermes: FakeEngine):
    hermes.script = lambda turn: each(encoded("hermes", WRITTEN["hermes"])[:-20])
    answer = clients["hermes"].responses.create(**ASKED)
    (call,) = answer.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.arguments
    assert call.arguments != CABO
    assert (answer.status, call.status) == ("incomplete", "incomplete")


@pytest.mark.parametrize("stream", [False, True])
def test_the_log_says_whether_a_reply_called(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine, lines: Lines, stream: bool
):
    for text in (WRITTEN["hermes"], "Sunny."):
        hermes.script = lambda turn, text=text: written("hermes", text)
        answer = clients["hermes"].responses.with_raw_response.create(**ASKED, stream=stream)
        answer.http_response.read()
    assert [lines.next()["ended"] for _ in range(2)] == ["tool_calls", "stop"]


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("hermes", WRITTEN["hermes"]),
        ("hermes", f"Hello world.\n{WRITTEN['hermes']}"),
        ("hermes", TWO.replace("><", ">\n<")),
        ("llama", WRITTEN["llama"]),
        ("named", WRITTEN["named"]),
    ],
)
@pytest.mark.parametrize("threaded", [True, False])
def test_a_round_trip_keeps_the_ids_of_the_reply(
    clients: dict[str, openai.OpenAI],
    engines: dict[str, FakeEngine],
    family: str,
    text: str,
    threaded: bool,
):
    """By its id, or by its items: the next turn's prompt begins with all of the last one's KV."""
    engine, client = engines[family], clients[family]
    engine.script = lambda turn: written(family, text if len(engine.turns) == 1 else "Sunny.")
    first = client.responses.create(**ASKED)
    if threaded:
        again = {"previous_response_id": first.id, "input": results(first)}
    else:
        said: Sequence[Any] = [item.to_dict() for item in first.output]
        again = {"input": [{"role": "user", "content": "hi"}, *said, *results(first)]}
    answer = client.responses.create(**{**ASKED, **again})
    assert answer.output_text == "Sunny."
    one, two = (turn.tokens for turn in engine.turns)
    reply = (*encoded(family, text), EOS)
    assert two[: len(one) + len(reply)] == (*one, *reply)
    tokenizer = TemplatedTokenizer(TEMPLATES[family])
    rest = tokenizer.decode(two[len(one) + len(reply) :], skip_special_tokens=False)
    assert rest == "<user>sunny" * len(calls_of(first)) + "<assistant>"


def test_a_chat_and_a_response_ask_for_the_same_prompt(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine
):
    hermes.script = lambda turn: written("hermes", "ok")
    functions = [{k: v for k, v in tool.items() if k != "type"} for tool in TOOLS]
    tools = [{**tool, "description": None} for tool in TOOLS]  # as if it were not there
    clients["hermes"].responses.create(**{**ASKED, "tools": tools}, instructions="be")
    clients["hermes"].chat.completions.create(
        model="org/fake",
        messages=[{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}],
        tools=[{"type": "function", "function": function} for function in functions],  # type: ignore[misc]
    )
    response, chat = hermes.turns
    assert response.tokens == chat.tokens


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_a_forced_call_has_a_grammar(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine, choice: Any
):
    hermes.script = lambda turn: written("hermes", WRITTEN["hermes"])
    raw = clients["hermes"].responses.with_raw_response.create(**ASKED, tool_choice=choice)
    assert calls_of(raw.parse()) == [("weather", CABO)]
    assert "x-foretoken-ignored-params" not in raw.headers  # all of the schemas are kept to
    grammar = hermes.turns[0].sampling.grammar
    assert grammar is not None
    assert grammar.kind is GrammarKind.LARK
    assert ("time" in grammar.text) == (choice == "required")


def test_a_schema_of_a_forced_call_that_cannot_be_followed_is_named(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine
):
    bad = {"type": "function", "name": "f", "parameters": {"properties": {"x": {"type": "foo"}}}}
    asks = {**ASKED, "tools": [TOOLS[0], bad], "tool_choice": "required"}
    with pytest.raises(openai.BadRequestError) as caught:
        clients["hermes"].responses.create(**asks)
    assert caught.value.param == "tools[1].parameters"
    assert hermes.turns == []


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: str


def test_a_pydantic_tool_is_parsed(clients: dict[str, openai.OpenAI], hermes: FakeEngine):
    hermes.script = lambda turn: written("hermes", WRITTEN["hermes"])
    tool: Any = openai.pydantic_function_tool(Weather, name="weather")
    tools: list[Any] = [{"type": "function", **tool["function"]}]
    answer = clients["hermes"].responses.parse(model="org/fake", input="hi", tools=tools)
    (call,) = answer.output
    assert isinstance(call, ResponseFunctionToolCall)
    assert call.parsed_arguments == {"city": "Cabo"}  # type: ignore[attr-defined]


class Answer(pydantic.BaseModel):
    n: int


@pytest.mark.parametrize("stream", [False, True])
def test_a_pydantic_format_is_parsed(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine, stream: bool
):
    hermes.script = lambda turn: written("hermes", '{"n": 7}')
    client = clients["hermes"]
    if stream:
        with client.responses.stream(model="org/fake", input="x", text_format=Answer) as events:
            answer = events.get_final_response()
    else:
        answer = client.responses.parse(model="org/fake", input="x", text_format=Answer)
    assert answer.output_parsed == Answer(n=7)
    grammar = hermes.turns[0].sampling.grammar
    assert grammar is not None
    assert grammar.kind is GrammarKind.JSON
    assert json.loads(grammar.text)["required"] == ["n"]
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.to_dict()["name"] == "Answer"
    message = answer.output[0]
    assert isinstance(message, ResponseOutputMessage)


def test_any_object_and_plain_text_may_be_asked_for(
    clients: dict[str, openai.OpenAI], hermes: FakeEngine
):
    hermes.script = lambda turn: written("hermes", "{}")
    for kind in ("json_object", "text"):
        format: Any = {"type": kind}
        clients["hermes"].responses.create(model="org/fake", input="x", text={"format": format})
    grammars = [turn.sampling.grammar for turn in hermes.turns]
    assert grammars[0] is not None
    assert grammars[0].text == '{"type": "object"}'
    assert grammars[1] is None
