"""Forced calls as clients see them: the official client, a real server, the shipped model.

The demo model has seen no tools: what it calls, and how, is the grammar's doing alone.
"""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.serving.test_serve import SPLIT, Served, serving
from tests.support.tool_templates import HERMES

OF_DEMO = {
    "<bos>": "",
    "<sys>": "<|system|>",
    "<user>": "<|user|>",
    "<assistant>": "<|assistant|>",
    "<eos>": "<|end|>",
}
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Cabo"]}, "days": {"type": "integer", "maximum": 99}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}}
    for name in ("weather", "time")
]
ASKED: dict[str, Any] = {"model": "demo", "tools": TOOLS, "temperature": 1.0, "max_tokens": 200}
HI: list[Any] = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    template = HERMES
    for ours, demos in OF_DEMO.items():
        template = template.replace(ours, demos)
    path = tmp_path_factory.mktemp("template") / "hermes.jinja"
    path.write_text(template)
    with serving(*SPLIT, "--chat-template", str(path)) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with served.client as client:
        yield client


def test_the_template_tells_how_calls_are_read(served: Served):
    assert httpx.get(f"{served.url}/server_info").json()["tool-call-parser"] == "hermes"
    assert 'tool-call-parser = "hermes"' in served.said.splitlines()


def test_an_agent_calls_and_computes_only_what_is_new(client: openai.OpenAI):
    """Every prompt begins with the last one and its reply, whose KV is there to the last token."""
    messages, known = HI, 0
    called = set()
    for seed in range(8):
        answer = client.chat.completions.create(
            **ASKED,
            messages=messages,
            tool_choice="required",
            parallel_tool_calls=False,
            seed=seed,
        )
        choice, usage = answer.choices[0], answer.usage
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        assert choice.message.tool_calls is not None
        (call,) = choice.message.tool_calls
        assert call.type == "function"
        called.add(call.function.name)
        arguments = json.loads(call.function.arguments)
        assert arguments.pop("city") in ("Rome", "Cabo")
        assert all(type(days) is int for days in arguments.values())
        assert usage is not None
        assert usage.prompt_tokens_details is not None
        assert usage.prompt_tokens_details.cached_tokens == known
        known = usage.total_tokens - 1
        result = {"role": "tool", "tool_call_id": call.id, "content": "7"}
        messages = [*messages, choice.message.to_dict(), result]
    assert called == {"weather", "time"}


def test_a_stream_of_forced_calls_is_the_whole(client: openai.OpenAI):
    choice: Any = {"type": "function", "function": {"name": "time"}}
    for seed in range(3):
        asked = {**ASKED, "messages": HI, "tool_choice": choice, "seed": seed, "max_tokens": 400}
        whole = client.chat.completions.create(**asked).choices[0]
        calls: list[list[str]] = []
        for chunk in client.chat.completions.create(**asked, stream=True):
            for part in chunk.choices[0].delta.tool_calls or ():
                assert part.function is not None
                if part.id:
                    calls.append([part.function.name or "", ""])
                calls[part.index][1] += part.function.arguments or ""
        assert whole.message.tool_calls is not None
        assert calls == [
            [call.function.name, call.function.arguments]
            for call in whole.message.tool_calls
            if call.type == "function"
        ]
        assert {name for name, _ in calls} == {"time"}
