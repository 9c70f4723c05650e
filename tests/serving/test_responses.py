"""Responses as clients see them: the official client, a real server, the shipped model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseIncompleteEvent,
)
from openai.types.responses.response import Response
from pydantic import BaseModel, ConfigDict

from tests.serving.test_forced_calls import OF_DEMO
from tests.serving.test_forced_calls import TOOLS as CHAT_TOOLS
from tests.serving.test_serve import QUESTIONS, SPLIT, Served, becomes_idle, serving
from tests.support.tool_templates import HERMES

TOOLS: list[Any] = [{"type": "function", **tool["function"]} for tool in CHAT_TOOLS]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path: Path = tmp_path_factory.mktemp("template") / "hermes.jinja"
    template = HERMES
    for ours, demos in OF_DEMO.items():
        template = template.replace(ours, demos)
    path.write_text(template)
    with serving(*SPLIT, "--chat-template", str(path)) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client as client:
        yield client


def counted(response: Response) -> tuple[int, int]:
    """The prompt's tokens whose KV was there, and those of which KV is there now."""
    usage = response.usage
    assert usage is not None
    return usage.input_tokens_details.cached_tokens, usage.total_tokens - 1


def test_turns_that_name_the_last_response_compute_only_what_is_new(client: openai.OpenAI):
    """The last token of a reply is never run through the model; a stream is one turn of many."""
    messages: list[Any] = []
    previous, known = None, 0
    for number, question in enumerate(QUESTIONS * 2):
        asks: dict[str, Any] = {
            "model": "demo",
            "input": question,
            "instructions": "Be brief.",
            "max_output_tokens": 8,
            "temperature": 0,
            "previous_response_id": previous,
        }
        if number % 2:
            last = list(client.responses.create(**asks, stream=True))[-1]
            assert isinstance(last, ResponseCompletedEvent | ResponseIncompleteEvent)
            answer = last.response
        else:
            answer = client.responses.create(**asks)
        cached, now = counted(answer)
        assert cached == known
        assert client.responses.retrieve(answer.id) == answer
        previous, known = answer.id, now
        messages.append({"role": "user", "content": question})
        chat = client.chat.completions.create(
            model="demo",
            messages=[{"role": "system", "content": "Be brief."}, *messages],
            max_tokens=8,
            temperature=0,
        )
        assert chat.choices[0].message.content == answer.output_text
        messages.append({"role": "assistant", "content": answer.output_text})


def test_an_agent_calls_and_computes_only_what_is_new(client: openai.OpenAI):
    given: Any = "hi"
    previous, known, called = None, 0, set()
    for seed in range(6):
        answer = client.responses.create(
            model="demo",
            input=given,
            tools=TOOLS,
            tool_choice="required",
            parallel_tool_calls=False,
            max_output_tokens=200,
            previous_response_id=previous,
            extra_body={"seed": seed},
        )
        assert answer.status == "completed"
        (call,) = answer.output
        assert isinstance(call, ResponseFunctionToolCall)
        called.add(call.name)
        cached, now = counted(answer)
        assert cached == known
        previous, known = answer.id, now
        given = [{"type": "function_call_output", "call_id": call.call_id, "output": "7"}]
    assert called == {"weather", "time"}


class Point(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: Literal["red", "green", "blue"]
    sure: bool


def test_a_format_is_parsed_and_a_plain_turn_goes_on_from_it(client: openai.OpenAI):
    first = client.responses.parse(
        model="demo", input="A point.", text_format=Point, max_output_tokens=100
    )
    assert isinstance(first.output_parsed, Point)
    with client.responses.stream(
        model="demo",
        input="Another.",
        text_format=Point,
        max_output_tokens=100,
        previous_response_id=first.id,
    ) as stream:
        second = stream.get_final_response()
    assert isinstance(second.output_parsed, Point)
    assert counted(second)[0] == counted(first)[1]


def test_a_client_that_leaves_ends_its_turn_once(served: Served, client: openai.OpenAI):
    before = served.metric("vllm:request_success_total")
    with client.responses.stream(
        model="demo",
        input="Count from 1 to 300",
        max_output_tokens=2000,
        extra_body={"ignore_eos": True},
    ) as stream:
        assert "response.output_text.delta" in (event.type for event in stream)
    becomes_idle(served)
    assert served.metric("vllm:request_success_total") == before + 1
