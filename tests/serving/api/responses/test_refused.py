"""What a request for a response may not ask for, and what has no effect, is named."""

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.config import ConfigError, EndpointConfig
from serving.messages import EngineState
from tests.serving.api.conftest import Server, until
from tests.serving.api.responses.test_text import ASKED
from tests.serving.api.test_bad_input import FIELDS, JSON, error_of
from tests.support.fake_engine import FakeEngine, Script, each

PATH = "/v1/responses"
IGNORED = "x-foretoken-ignored-params"
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


def item(**fields: Any) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": "hi"}, fields]}


def says(content: Any) -> dict[str, Any]:
    return item(role="user", content=content)


def form(**fields: Any) -> dict[str, Any]:
    return {"text": {"format": fields}}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": 3}, "model"),
    ({"input": None}, "input"),
    ({"input": []}, "input"),
    ({"input": 5}, "input"),
    ({"input": ["hi"]}, "input[0]"),
    (item(), "input[1].role"),
    (item(role="king", content="x"), "input[1].role"),
    (item(role="tool", content="x"), "input[1].role"),
    (item(role="user"), "input[1].content"),
    (says(["x"]), "input[1].content[0]"),
    (says([{"type": "input_text"}]), "input[1].content[0].text"),
    (
        says([{"type": "input_text", "text": "a"}, {"type": "input_image", "image_url": "x"}]),
        "input[1].content[1]",
    ),
    (says([{"type": "input_file", "file_id": "x"}]), "input[1].content[0]"),
    (item(type="reasoning", id="r", summary=[]), "input[1].type"),
    (item(type="item_reference", id="x"), "input[1].type"),
    (item(type="web_search_call", id="x", status="completed"), "input[1].type"),
    (item(type=["message"]), "input[1].type"),
    (item(**{**CALL, "call_id": None}), "input[1].call_id"),
    (item(**{**CALL, "name": 5}), "input[1].name"),
    (item(**{**CALL, "arguments": {}}), "input[1].arguments"),
    (item(type="function_call_output", call_id="c", output="x"), "input[1].call_id"),
    ({"input": [CALL, {"type": "function_call_output", "output": "x"}]}, "input[1].call_id"),
    (
        {"input": [CALL, {"type": "function_call_output", "call_id": "c", "output": 5}]},
        "input[1].output",
    ),
    (
        {
            "input": [
                CALL,
                {
                    "type": "function_call_output",
                    "call_id": "c",
                    "output": [{"type": "input_image", "image_url": "x"}],
                },
            ]
        },
        "input[1].output[0]",
    ),
    ({"instructions": ["x"]}, "instructions"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"store": "yes"}, "store"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 996}, "max_output_tokens"),
    ({"input": "x" * 1000}, "input"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": -1}, "top_p"),
    ({"metadata": {"a": 1}}, "metadata.a"),
    ({"metadata": {"a": "x" * 513}}, "metadata.a"),
    ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [TOOL, {"type": "mcp", "server_label": "x"}]}, "tools[1].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    ({"tools": [{**TOOL, "name": "f g"}]}, "tools[0].name"),
    ({"tools": [{**TOOL, "parameters": []}]}, "tools[0].parameters"),
    ({"tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    ({"text": {"form": {}}}, "text.form"),
    (form(type="xml"), "text.format"),
    (form(type="json_schema", name="n"), "text.format"),
    (form(type="json_schema", schema={}), "text.format.name"),
    (form(type="json_schema", name="n", schema={"type": "foo"}), "text.format"),
    ({**form(type="json_object"), "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"reasoning": {"effort": "low", "summary": "auto"}}, "reasoning.summary"),
    ({"reasoning": {"budget": 5}}, "reasoning.budget"),
    ({"background": True}, "background"),
    ({"conversation": "conv_x"}, "conversation"),
    ({"include": ["reasoning.encrypted_content"]}, "include"),
    ({"prompt": {"id": "x"}}, "prompt"),
    ({"truncation": "auto"}, "truncation"),
    ({"context_management": [{"type": "compaction"}]}, "context_management"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"n": 2}, "n"),
    ({"bad_words": ["x"]}, "bad_words"),
    ({"messages": [{"role": "user", "content": "x"}]}, "messages"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"max_completion_tokens": 5}, "max_completion_tokens"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda v: str(v)[:60])
def test_a_field_at_fault_is_named(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], param: str
):
    answer = http.post(PATH, json={**ASKED, **fields})
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert (error["type"], error["param"]) == ("BadRequestError", param)
    for theirs in ("response_format.", "max_completion", "`messages", "`function", ".function"):
        assert theirs not in error["message"] or param in error["message"]
    assert engine.turns == []


@pytest.mark.parametrize("field", ["model", "input"])
def test_a_missing_field_is_named(http: httpx.Client, field: str):
    body = {key: value for key, value in ASKED.items() if key != field}
    answer = http.post(PATH, json=body)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == field


@pytest.mark.parametrize(("theirs", "ours"), [("max_tokens", "max_output_tokens")])
def test_a_field_of_another_endpoint_tells_its_name_here(
    http: httpx.Client, theirs: str, ours: str
):
    message = error_of(http.post(PATH, json={**ASKED, theirs: 5}))["message"]
    assert message == f"`{theirs}` belongs to chat completions; use `{ours}` here."


def test_what_is_too_long_is_explained(http: httpx.Client):
    error = error_of(http.post(PATH, json={**ASKED, "input": "x" * 1000}))
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length is 1000 tokens" in error["message"]


def test_a_schema_that_cannot_be_followed_is_told_as_openai_does(http: httpx.Client):
    fields = form(type="json_schema", name="n", schema={"type": "foo"})
    error = error_of(http.post(PATH, json={**ASKED, **fields}))
    assert error["code"] == "invalid_json_schema"
    assert error["message"].startswith("Invalid schema for response_format 'n': ")


HARMLESS: dict[str, Any] = {
    "background": False,
    "conversation": None,
    "include": [],
    "n": 1,
    "prompt": None,
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "truncation": "disabled",
}


def test_what_is_as_if_it_were_left_out_is_taken_and_not_named(http: httpx.Client):
    answer = http.post(PATH, json={**ASKED, **HARMLESS})
    assert answer.status_code == 200, answer.text
    assert IGNORED not in answer.headers


def test_fields_without_effect_are_named(http: httpx.Client):
    fields = {
        "max_tool_calls": 3,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low"},
        "safety_identifier": "x",
        "store": True,
        "stream_options": {"include_obfuscation": False},
        "text": {"verbosity": "low"},
        "tool_choice": "none",
        "tools": [{**TOOL, "strict": True, "allowed_callers": ["direct"]}],
        "user": "u",
        "wrong": 1,
    }
    answer = http.post(PATH, json={**ASKED, **fields})
    assert answer.status_code == 200, answer.text
    assert answer.headers[IGNORED].split(",") == [
        "max_tool_calls",
        "parallel_tool_calls",
        "reasoning.effort",
        "safety_identifier",
        "stream_options.include_obfuscation",
        "text.verbosity",
        "tools",
        "tools.strict",
        "user",
        "unknown=wrong",
    ]


def test_settings_that_cannot_be():
    given: dict[str, Any] = {
        "max_stored_responses": 0,
        "max_stored_bytes": 0,
        "stored_response_seconds": 0.001,
    }
    for setting, least in given.items():
        EndpointConfig(**{setting: least})
        flag = f"--{setting.replace('_', '-')}"
        with pytest.raises(ConfigError, match=f"^{flag} must "):
            EndpointConfig(**{setting: least - 1})


def test_a_body_that_is_no_object_is_400(http: httpx.Client):
    for body in (b"", b"{", b"[]", b"null", b"\xff"):
        answer = http.post(PATH, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        error_of(answer)


FUZZED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def answered(http: httpx.Client, body: dict[str, Any]) -> None:
    """Whatever comes is answered, or is the client's fault."""
    answer = http.post(PATH, content=json.dumps(body))
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        error_of(answer)


@FUZZED
@given(st.sampled_from([*FIELDS, "instructions", "text", "reasoning", "metadata", "include"]), JSON)
def test_no_value_of_a_field_is_a_server_error(http: httpx.Client, name: str, value: Any):
    answered(http, {**ASKED, name: value})


@FUZZED
@given(
    st.sampled_from(["message", "function_call", "function_call_output", None]),
    st.dictionaries(st.sampled_from(["role", "content", "call_id", "name", "output"]), JSON),
)
def test_no_item_is_a_server_error(http: httpx.Client, kind: str | None, fields: Any):
    answered(http, {**ASKED, "input": [{"type": kind, **fields}]})


@pytest.mark.parametrize(
    ("state", "code"), [(EngineState.DRAINING, "draining"), (EngineState.DEAD, "engine_dead")]
)
def test_only_a_ready_engine_takes_turns_but_what_is_kept_is_told(
    http: httpx.Client, engine: FakeEngine, state: EngineState, code: str
):
    id = http.post(PATH, json=ASKED).json()["id"]
    engine.state = state
    answer = http.post(PATH, json=ASKED)
    assert answer.status_code == 503
    assert error_of(answer)["code"] == code
    assert http.get(f"{PATH}/{id}").status_code == 200


def test_an_unknown_model_is_404(http: httpx.Client):
    answer = http.post(PATH, json={**ASKED, "model": "nope"})
    assert answer.status_code == 404
    assert error_of(answer)["code"] == "model_not_found"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_turn_once(
    server: Server, http: httpx.Client, engine: FakeEngine, stream: bool
):
    engine.script = lambda turn: Script([[97]], stalls=True)
    before = len(server.service.stored)
    body = {**ASKED, "stream": stream}
    with httpx.Client(base_url=server.url, trust_env=False) as leaving:
        if stream:
            with leaving.stream("POST", PATH, json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post(PATH, json=body, timeout=httpx.Timeout(5, read=0.2))
    until(lambda: len(server.service.running) == 0)
    turn = engine.turns[0].id
    assert [cancelled for cancelled, _ in engine.cancels] == [turn]
    assert engine.unfinished == 0
    assert len(server.service.stored) == before


def test_an_operator_can_end_it_by_its_id(server: Server, client: openai.OpenAI):
    server.engine.script = lambda turn: Script([[97]], stalls=True)
    events = iter(client.responses.create(**ASKED, stream=True))
    created = next(events)
    assert created.type == "response.created"
    assert server.service.running.abort([created.response.id]) == 1
    *_, last = events
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.code == "server_error"
    assert last.response.error.message.startswith("Aborted: ")


def test_requests_are_counted_as_others_are(server: Server, http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"ok")

    def counted() -> float:
        lines = http.get("/metrics").text.splitlines()
        named = [line for line in lines if line.startswith("vllm:request_params_n_count")]
        return sum(float(line.split()[-1]) for line in named)

    before = counted()
    http.post(PATH, json=ASKED)
    assert counted() == before + 1
