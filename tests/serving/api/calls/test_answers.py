"""Calls of tools over HTTP, to the official client: whole and streamed."""

import re
from typing import Any

import openai
import pytest

from serving.config import EndpointConfig
from tests.serving.api.conftest import Server, serve
from tests.serving.api.test_stream import events
from tests.support import tool_templates
from tests.support.calling import (
    ASKED,
    CABO,
    MANY,
    ONE,
    ROME,
    TEMPLATES,
    TWO,
    WRITTEN,
    calls_of,
    encoded,
    post,
    written,
)
from tests.support.fake_engine import FakeEngine, Script, at_once, each
from tests.support.fake_tokenizer import BOS, EOS
from tests.support.tool_templates import TemplatedTokenizer


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_call_is_answered_whole(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine], family: str
):
    engines[family].script = lambda turn: written(family, WRITTEN[family])
    answer = clients[family].chat.completions.create(**ASKED)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert calls_of(choice.message) == ONE
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(encoded(family, WRITTEN[family])) + 1


@pytest.mark.parametrize("family", TEMPLATES)
@pytest.mark.parametrize("at_a_time", [1, 5, 1000])
def test_a_call_is_streamed(
    clients: dict[str, openai.OpenAI],
    engines: dict[str, FakeEngine],
    family: str,
    at_a_time: int,
):
    text = WRITTEN[family] if family == "llama" else f"Let me see. {WRITTEN[family]}"
    ids = [*encoded(family, text), EOS]
    groups = [ids[at : at + at_a_time] for at in range(0, len(ids), at_a_time)]
    engines[family].script = lambda turn: Script(groups)
    arguments = ""
    with clients[family].chat.completions.stream(**ASKED) as stream:
        for event in stream:
            if event.type == "tool_calls.function.arguments.delta":
                arguments += event.arguments_delta
            if event.type == "tool_calls.function.arguments.done":
                assert event.parsed_arguments is None or event.arguments == CABO
        final = stream.get_final_completion().choices[0]
    assert arguments == CABO
    assert final.finish_reason == "tool_calls"
    assert final.message.content == ("" if family == "llama" else "Let me see.")
    assert calls_of(final.message) == ONE


def streamed(server: Server, **fields: Any) -> list[dict[str, Any]]:
    return [chunk["choices"][0] for chunk in events(post(server, stream=True, **fields).text)]


def test_a_stream_names_a_call_first_and_then_writes_its_arguments(
    servers: dict[str, Server], hermes: FakeEngine
):
    hermes.script = lambda turn: written("hermes", f"Hm.\n{TWO}")
    start, *chunks = (choice["delta"] for choice in streamed(servers["hermes"]))
    assert start == {"role": "assistant", "content": ""}
    assert [list(delta) for delta in chunks[:4]] == [["content"]] * 3 + [["tool_calls"]]
    assert all(list(delta) == ["tool_calls"] for delta in chunks[3:-1])
    assert chunks[-1] == {}
    parts = [part for delta in chunks[3:-1] for part in delta["tool_calls"]]
    heads = [part for part in parts if "id" in part]
    assert [part["index"] for part in parts] == [0] * len(CABO) + [1] * len(ROME)
    assert [part["index"] for part in heads] == [0, 1]
    assert [part["function"]["name"] for part in heads] == ["weather", "time"]
    assert all(part["type"] == "function" for part in heads)
    assert len({part["id"] for part in heads}) == 2
    for part in parts:
        if part not in heads:
            assert set(part) == {"index", "function"}
            assert set(part["function"]) == {"arguments"}
            assert len(part["function"]["arguments"]) == 1


def test_text_and_calls_that_come_together_have_chunks_of_their_own(
    servers: dict[str, Server], hermes: FakeEngine
):
    hermes.script = lambda turn: at_once([*encoded("hermes", f"Hm.\n{TWO} so"), EOS])
    choices = streamed(servers["hermes"], logprobs=True, return_token_ids=True)[1:]
    deltas = [list(choice["delta"]) for choice in choices]
    assert deltas == [["content"], ["tool_calls"], ["content"], []]
    assert [len(choice["token_ids"]) for choice in choices] == [len(f"Hm.\n{TWO} so") + 1, 0, 0, 0]
    assert [choice["finish_reason"] for choice in choices] == [None] * 3 + ["tool_calls"]


@pytest.mark.parametrize("interval", [1, 7])
def test_tokens_and_their_scores_are_all_told(interval: int):
    ids = [*encoded("hermes", f"Hm.\n{TWO}"), EOS]
    tokenizer = TemplatedTokenizer(tool_templates.HERMES)
    with serve(EndpointConfig(stream_interval=interval), tokenizer, MANY) as server:
        server.engine.script = lambda turn: each(ids)
        fields = {"logprobs": True, "return_token_ids": True}
        whole = post(server, **fields).json()["choices"][0]
        choices = streamed(server, **fields)
        assert whole["token_ids"] == ids
        assert [i for choice in choices for i in choice.get("token_ids", ())] == ids
        items = [
            item for choice in choices for item in (choice["logprobs"] or {}).get("content", ())
        ]
        assert items == whole["logprobs"]["content"]
        assert len(items) == len(ids)


def test_calls_of_all_choices_have_ids_of_their_own(
    clients: dict[str, openai.OpenAI], engines: dict[str, FakeEngine]
):
    for family, shape in (("hermes", r"call_[0-9a-f]{32}"), ("list", r"[A-Za-z0-9]{9}")):
        text = {"hermes": TWO, "list": WRITTEN["list"]}[family]
        engines[family].script = lambda turn, family=family, text=text: written(family, text)
        answer = clients[family].chat.completions.create(**ASKED, n=3)
        ids = [call.id for one in answer.choices for call in one.message.tool_calls or ()]
        assert len(set(ids)) == len(ids) == {"hermes": 6, "list": 3}[family]
        assert all(re.fullmatch(shape, id) for id in ids)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_that_is_cut_ends_for_its_length(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool
):
    hermes.script = lambda turn: written("hermes", WRITTEN["hermes"])
    upto = WRITTEN["hermes"].index("Cabo")
    choice = answered(servers["hermes"], stream=stream, max_tokens=upto)
    assert choice == ("", [("weather", '{"city": "')], "length")
    choice = answered(servers["hermes"], stream=stream, max_tokens=20)
    assert choice == (WRITTEN["hermes"][:20], [], "length")
    # The call is whole, but the reply might have gone on.
    choice = answered(servers["hermes"], stream=stream, max_tokens=len(WRITTEN["hermes"]))
    assert choice == ("", ONE, "length")


def answered(server: Server, *, stream: bool, **fields: Any) -> tuple[str, list[Any], str]:
    """The content, the calls and the reason of the end; absent content is empty."""
    if not stream:
        choice = post(server, **fields).json()["choices"][0]
        functions = [call["function"] for call in choice["message"].get("tool_calls", ())]
        calls = [(function["name"], function["arguments"]) for function in functions]
        return choice["message"]["content"] or "", calls, choice["finish_reason"]
    choices = streamed(server, **fields)
    calls = []
    for part in (part for one in choices for part in one["delta"].get("tool_calls", ())):
        if "id" in part:
            calls.append((part["function"]["name"], ""))
        name, before = calls[part["index"]]
        calls[part["index"]] = name, before + part["function"]["arguments"]
    content = "".join(one["delta"].get("content", "") for one in choices)
    return content, calls, choices[-1]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_without_an_end_is_not_to_be_run(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool
):
    text = WRITTEN["hermes"][: WRITTEN["hermes"].index("Cabo")]
    hermes.script = lambda turn: written("hermes", text)
    expected = ("", [("weather", '{"city": "')], "stop")
    assert answered(servers["hermes"], stream=stream) == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("m", ("H", [], "stop")),
        ("Cab", ("Hm.", [("weather", '{"city": "')], "stop")),
        ("</tool_call>", ("Hm.", ONE, "tool_calls")),
        ("nowhere", ("Hm.", ONE, "tool_calls")),
    ],
)
def test_stop_strings_are_looked_for_in_all_that_is_written(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool, stop: str, expected: Any
):
    hermes.script = lambda turn: written("hermes", f"Hm.\n{WRITTEN['hermes']}")
    assert answered(servers["hermes"], stream=stream, stop=stop) == expected


def test_what_was_held_back_for_a_stop_string_is_told_at_the_end(
    servers: dict[str, Server], hermes: FakeEngine
):
    text = f"Hm.\n{WRITTEN['hermes']}"
    hermes.script = lambda turn: written("hermes", text)
    fields = {"stop": f"{text}!"}
    for stream in (False, True):
        found = answered(servers["hermes"], stream=stream, **fields)
        assert found == ("Hm.", ONE, "tool_calls")
    choices = streamed(servers["hermes"], **fields)[1:]
    assert [list(choice["delta"]) for choice in choices] == [["content"], ["tool_calls"]]
    assert [choice["finish_reason"] for choice in choices] == [None, "tool_calls"]


@pytest.mark.parametrize("stream", [False, True])
def test_only_the_first_call_is_reported_where_one_is_wanted(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool
):
    hermes.script = lambda turn: written("hermes", TWO)
    both = [*ONE, ("time", ROME)]
    server = servers["hermes"]
    expected = ("", ONE, "tool_calls")
    assert answered(server, stream=stream, parallel_tool_calls=False) == expected
    for several in (True, None):
        found = answered(server, stream=stream, parallel_tool_calls=several)
        assert found == ("", both, "tool_calls")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", ["Just text, 1 < 2. ", "<tool_call>oops</tool_call>", "[ARGS]"])
def test_text_without_calls_is_text(
    servers: dict[str, Server], hermes: FakeEngine, stream: bool, text: str
):
    hermes.script = lambda turn: each([*text.encode(), EOS])
    assert answered(servers["hermes"], stream=stream) == (text, [], "stop")
    whole = post(servers["hermes"]).json()["choices"][0]["message"]
    assert whole == {"role": "assistant", "content": text, "refusal": None}


@pytest.mark.parametrize("stream", [False, True])
def test_of_special_tokens_only_the_markers_of_calls_are_text(
    servers: dict[str, Server], engines: dict[str, FakeEngine], stream: bool
):
    ids = encoded("named", "a<bos>b[TOOL_CALLS]oops")
    assert BOS in ids
    engines["named"].script = lambda turn: each([*ids, EOS])
    server = servers["named"]
    assert answered(server, stream=stream) == ("ab[TOOL_CALLS]oops", [], "stop")
    assert answered(server, stream=stream, tool_choice="none") == ("aboops", [], "stop")
    shown = answered(server, stream=stream, skip_special_tokens=False)
    assert shown == ("a<bos>b[TOOL_CALLS]oops", [], "stop")


def test_without_a_parser_calls_are_text(servers: dict[str, Server]):
    tokenizer = TemplatedTokenizer(tool_templates.HERMES)
    for config, tokens in (
        (EndpointConfig(tool_call_parser="none"), tokenizer),
        (EndpointConfig(tool_call_parser="llama3_json"), tokenizer),
        (EndpointConfig(), TemplatedTokenizer(tool_templates.HERMES.replace("tool_call>", "c>"))),
    ):
        with serve(config, tokens, MANY) as server:
            server.engine.script = lambda turn: written("hermes", WRITTEN["hermes"])
            assert answered(server, stream=False) == (WRITTEN["hermes"], [], "stop")
            assert answered(server, stream=True) == (WRITTEN["hermes"], [], "stop")


IGNORED = "x-foretoken-ignored-params"


def test_what_has_no_effect_on_calls_is_named(servers: dict[str, Server], hermes: FakeEngine):
    server = servers["hermes"]
    plain = [{"type": "function", "function": {"name": "f"}}]
    assert post(server, parallel_tool_calls=False).headers[IGNORED] == "tools.function.strict"
    assert IGNORED not in post(server, tools=plain, parallel_tool_calls=True).headers
    for fields in ({"tools": plain, "tool_choice": "none"}, {"tools": None}):
        named = post(server, **fields, parallel_tool_calls=True).headers[IGNORED]
        assert named in ("parallel_tool_calls,tools", "parallel_tool_calls")
