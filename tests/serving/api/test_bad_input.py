"""Bad input gets OpenAI's error object with the right status, and reaches no engine."""

import json
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.fake_engine import FakeEngine
from tests.support.fake_tokenizer import FakeTokenizer

HI = [{"role": "user", "content": "hi"}]
CHAT = {"model": "org/fake", "messages": HI}
TEXT = {"model": "org/fake", "prompt": "hi"}
PATHS = {"chat": ("/v1/chat/completions", CHAT), "text": ("/v1/completions", TEXT)}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """The error object, checked against OpenAI's schema `ErrorResponse`."""
    assert answer.headers["content-type"] == "application/json"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


def function(**fields: Any) -> dict[str, Any]:
    """A request with one tool, whose function has these fields."""
    return {"tools": [{"type": "function", "function": fields}]}


def message(**fields: Any) -> dict[str, Any]:
    return {"messages": [*HI, {"role": "user", "content": "x", **fields}]}


BOTH: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"model": 3}, "model"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "7"}, "max_tokens"),
    ({"max_tokens": 2.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"repetition_penalty": 1e300}, "repetition_penalty"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"best_of": 2}, "best_of"),
    ({"seed": 2**63}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": [7]}, "stop[0]"),
    ({"stop": 7}, "stop"),
    ({"stop": ["x" * 1000] * 5}, "stop"),
    ({"stop_token_ids": [300]}, "stop_token_ids"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"min_tokens": 1, "allowed_token_ids": [97], "stop_token_ids": [97, 98]}, "min_tokens"),
    ({"allowed_token_ids": [300]}, "allowed_token_ids"),
    ({"logit_bias": {"foo": 1}}, "logit_bias"),
    ({"logit_bias": {"300": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": {"²": 1}}, "logit_bias"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": []}, "stream_options"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"prompt_cache_key": "x" * 257}, "prompt_cache_key"),
    ({"bad_words": ["no"]}, "bad_words"),
    ({"structured_outputs": {"regex": "a("}}, "structured_outputs"),
    ({"structured_outputs": "a+"}, "structured_outputs"),
    ({"guided_choice": ["a"]}, "guided_choice"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"logits_processors": ["x"]}, "logits_processors"),
    ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    ({"vllm_xargs": {"a": 1}}, "vllm_xargs"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
]

CHAT_ONLY: list[tuple[dict[str, Any], str]] = [
    ({"messages": None}, "messages"),
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": ["hi"]}, "messages[0]"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    (message(content=None), "messages[1].content"),
    (message(content=5), "messages[1].content"),
    (message(content=["x"]), "messages[1].content[0]"),
    (message(content=[{"type": "text"}]), "messages[1].content[0].text"),
    (
        message(content=[{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]),
        "messages[1].content[1]",
    ),
    (message(name=5), "messages[1].name"),
    (message(role="assistant", tool_calls="x"), "messages[1].tool_calls"),
    (message(role="assistant", tool_calls=[{}]), "messages[1].tool_calls[0]"),
    ({"messages": [{"role": "function", "name": "f", "content": "x"}]}, "messages"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"logprobs": 3}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice"),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice",
    ),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice.function.name",
    ),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name"),
    ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
    ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"tools": [5]}, "tools[0]"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [TOOL, {**TOOL, "type": "custom"}]}, "tools[1].type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function"),
    (function(), "tools[0].function.name"),
    (function(name=5), "tools[0].function.name"),
    (function(name=""), "tools[0].function.name"),
    (function(name="f" * 65), "tools[0].function.name"),
    (function(name="f\n"), "tools[0].function.name"),
    (function(name="f.g"), "tools[0].function.name"),
    (function(name="f", parameters=[]), "tools[0].function.parameters"),
    ({**function(name="f g"), "tool_choice": "none"}, "tools[0].function.name"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"functions": [{"name": "f"}], "function_call": "auto"}, "function_call"),
    ({"modalities": ["text", "audio"]}, "modalities"),
    ({"chat_template": "{{ x }}"}, "chat_template"),
    ({"documents": [{"text": "x"}]}, "documents"),
    ({"echo": True}, "echo"),
    ({"add_special_tokens": True}, "add_special_tokens"),
    (
        {"add_generation_prompt": True, "continue_final_message": True},
        "continue_final_message",
    ),
]

TEXT_ONLY: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": True}, "prompt"),
    ({"prompt": [1, "x"]}, "prompt"),
    ({"prompt": ["x", 1]}, "prompt[1]"),
    ({"prompt": [1, True]}, "prompt"),
    ({"prompt": [300]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [[1], [300]]}, "prompt[1]"),
    ({"prompt": ["x"] * 100, "n": 100}, "prompt"),
    ({"logprobs": 21}, "logprobs"),
    ({"tools": [TOOL]}, "tools"),
    ({"echo": "yes"}, "echo"),
]

CASES = [
    *(("chat", *case) for case in BOTH + CHAT_ONLY),
    *(("text", *case) for case in BOTH + TEXT_ONLY),
]


@pytest.mark.parametrize(("where", "fields", "param"), CASES, ids=lambda v: str(v)[:60])
def test_a_field_at_fault_is_named(
    http: httpx.Client, engine: FakeEngine, where: str, fields: dict[str, Any], param: str
):
    path, good = PATHS[where]
    answer = http.post(path, json={**good, **fields})
    assert answer.status_code == 400, answer.text
    error = error_of(answer)
    assert error["type"] == "BadRequestError"
    assert error["param"] == param
    assert engine.turns == []


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("field", ["model", "messages", "prompt"])
def test_a_missing_required_field_is_named(http: httpx.Client, where: str, field: str):
    path, good = PATHS[where]
    if field in good:
        body = {key: value for key, value in good.items() if key != field}
        answer = http.post(path, json=body)
        assert answer.status_code == 400
        assert error_of(answer)["param"] == field


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"model": "org/fake", "prompt": "\xff"}',
        b'{"model": "org/fake", "prompt": "\\ud800"}',
        b'{"model": "org/fake", "prompt": "x", "messages": [], "temperature": NaN}',
        b'{"model": "org/fake", "prompt": "x", "messages": [], "temperature": 1e999}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda b: str(b[:24]),
)
def test_a_malformed_body_is_400(http: httpx.Client, path: str, body: bytes):
    answer = http.post(path, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert error_of(answer)["type"] == "BadRequestError"


def test_what_is_no_json_is_told_once(http: httpx.Client):
    answer = http.post("/v1/completions", content=b"{bad")
    words = "The request body is not valid JSON: key must be a string at line 1 column 2."
    assert error_of(answer)["message"] == words


def test_deeply_nested_tool_arguments_are_no_server_error(http: httpx.Client):
    call = {"type": "function", "function": {"name": "f", "arguments": "[" * 200_000}}
    messages = [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}]
    answer = http.post("/v1/chat/completions", json={**CHAT, "messages": messages})
    assert answer.status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", PATHS)
def test_an_unknown_model_is_404(http: httpx.Client, where: str, stream: bool):
    path, good = PATHS[where]
    answer = http.post(path, json={**good, "model": "nope", "stream": stream})
    assert answer.status_code == 404
    error = error_of(answer)
    assert error["message"] == (
        "The model `nope` does not exist. Served here: `org/fake`, `alias`."
    )
    assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("where", "fields", "words", "param"),
    [
        ("chat", {"messages": [{"role": "user", "content": "x" * 1000}]}, "1003 input", "messages"),
        ("chat", {"max_tokens": 996}, "1001 tokens (5 in the messages, 996 in", "max_tokens"),
        (
            "chat",
            {"max_completion_tokens": 996, "max_tokens": 1},
            "996 in the",
            "max_completion_tokens",
        ),
        ("text", {"prompt": "x" * 1000}, "1001 input tokens", "prompt"),
        ("text", {"prompt": [5] * 990, "max_tokens": 11}, "1001 tokens (990 in", "max_tokens"),
    ],
)
def test_a_prompt_that_is_too_long_is_explained(
    http: httpx.Client, where: str, fields: dict[str, Any], words: str, param: str, stream: bool
):
    path, good = PATHS[where]
    answer = http.post(path, json={**good, **fields, "stream": stream})
    assert answer.status_code == 400
    error = error_of(answer)
    assert error["message"].startswith("This model's maximum context length is 1000 tokens.")
    assert words in error["message"]
    assert "Please reduce the length" in error["message"]
    assert (error["param"], error["code"]) == (param, "context_length_exceeded")


def test_the_context_may_be_filled_to_the_last_token(http: httpx.Client, engine: FakeEngine):
    answer = http.post("/v1/completions", json={**TEXT, "prompt": [5] * 990, "max_tokens": 10})
    assert answer.status_code == 200
    http.post("/v1/completions", json={**TEXT, "prompt": [5] * 990})
    http.post("/v1/chat/completions", json=CHAT)
    assert [turn.sampling.max_tokens for turn in engine.turns] == [10, 10, 995]


def test_the_templates_own_words_reach_the_client(http: httpx.Client):
    messages = [{"role": "function", "name": "f", "content": "x"}]
    answer = http.post("/v1/chat/completions", json={**CHAT, "messages": messages})
    assert "role function is unknown to this template" in error_of(answer)["message"]


@pytest.mark.parametrize("name", ["f", "f" * 64, "get_weather-2"])
@pytest.mark.parametrize("fields", [{}, {"parameters": None}, {"parameters": {"type": "object"}}])
def test_good_tools_are_taken(http: httpx.Client, name: str, fields: dict[str, Any]):
    body = {**CHAT, **function(name=name, **fields)}
    assert http.post("/v1/chat/completions", json=body).status_code == 200


def test_a_choice_of_an_unknown_function_names_it(http: httpx.Client):
    choice = {"type": "function", "function": {"name": "nobody"}}
    body = {**CHAT, "tools": [TOOL], "tool_choice": choice}
    assert "`nobody`" in error_of(http.post("/v1/chat/completions", json=body))["message"]


def test_tools_are_refused_if_the_template_takes_none(
    http: httpx.Client, shared_server: Any, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = shared_server.service.tokenizer
    assert isinstance(tokenizer, FakeTokenizer)
    body = {**CHAT, "tools": [TOOL]}
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    monkeypatch.setattr(tokenizer, "takes_tools", False)
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "tools"
    assert http.post("/v1/chat/completions", json={**body, "tool_choice": "none"}).is_success


def test_the_openai_client_raises_the_right_class(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="org/fake", prompt="x" * 2000)
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "prompt"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="nope", prompt="x")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = sorted({name for fields, _ in BOTH + CHAT_ONLY + TEXT_ONLY for name in fields})


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(list(PATHS)), st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
def test_no_body_is_a_server_error(http: httpx.Client, where: str, fields: dict[str, Any]):
    path, good = PATHS[where]
    answer = http.post(path, content=json.dumps({**good, **fields}))
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        error_of(answer)
