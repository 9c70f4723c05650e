"""The stream, item by item, on its raw bytes; and it tells the same as the unstreamed answer."""

import json
from typing import Any

import httpx
import pytest

from serving.config import EndpointConfig
from tests.serving.api.conftest import serve
from tests.serving.api.test_bad_input import CHAT, PATHS, TEXT
from tests.support.fake_engine import FakeEngine, Script, at_once, each
from tests.support.fake_tokenizer import EOS, FakeTokenizer

EMOJI = [*'a😀é\n"\\\u2028z'.encode(), EOS]


def events(raw: str) -> list[dict[str, Any]]:
    """The JSON objects of a whole stream; checks its framing."""
    *parts, done, rest = raw.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [json.loads(part[len("data: ") :]) for part in parts]


def stream(http: httpx.Client, where: str, **more: Any) -> list[dict[str, Any]]:
    path, good = PATHS[where]
    answer = http.post(path, json={**good, **more, "stream": True})
    assert answer.status_code == 200, answer.text
    return events(answer.text)


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("fields", [{}, {"logprobs": 1}])
def test_an_event_is_one_line_to_readers_that_split_by_unicode(
    http: httpx.Client, engine: FakeEngine, where: str, fields: dict[str, Any]
):
    text = "a\u2028b\u2029c\x85d\x0b\x0c\x1ceé"
    engine.script = lambda turn: each([*text.encode(), EOS])
    if where == "chat" and fields:
        fields = {"logprobs": True}
    path, good = PATHS[where]
    with http.stream(
        "POST", path, json={**good, **fields, "max_tokens": 50, "stream": True}
    ) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    assert text_of([json.loads(line.removeprefix("data: ")) for line in lines]) == text


def text_of(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


def test_headers(http: httpx.Client, engine: FakeEngine):
    answer = http.post("/v1/completions", json={**TEXT, "stream": True})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert "content-length" not in answer.headers


@pytest.mark.parametrize("where", PATHS)
def test_all_chunks_share_what_names_the_answer(http: httpx.Client, where: str):
    chunks = stream(http, where)
    heads = {(c["id"], c["object"], c["created"], c["model"]) for c in chunks}
    assert len(heads) == 1
    kind = {"chat": "chat.completion.chunk", "text": "text_completion"}[where]
    assert {c["object"] for c in chunks} == {kind}
    assert isinstance(chunks[0]["created"], int)


def test_a_chat_stream_names_the_role_first_and_the_reason_last(
    http: httpx.Client, engine: FakeEngine
):
    engine.script = lambda turn: each([*b"ab", EOS])
    deltas = [
        (c["choices"][0]["delta"], c["choices"][0]["finish_reason"]) for c in stream(http, "chat")
    ]
    assert deltas == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "a"}, None),
        ({"content": "b"}, None),
        ({}, "stop"),
    ]


def test_characters_are_released_whole(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(EMOJI)
    chunks = stream(http, "text")
    texts = [c["choices"][0]["text"] for c in chunks]
    assert texts == ["a", "😀", "é", "\n", '"', "\\", "\u2028", "z", ""]


def test_a_character_cut_off_by_the_end_becomes_a_replacement(
    http: httpx.Client, engine: FakeEngine
):
    engine.script = lambda turn: each("😀".encode()[:2])
    chunks = stream(http, "text")
    assert [c["choices"][0]["text"] for c in chunks] == ["\ufffd"]
    assert chunks[0]["choices"][0]["finish_reason"] == "length"


def test_tokens_that_wait_together_go_out_together(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: at_once(b"abcdef")
    texts = [c["choices"][0]["text"] for c in stream(http, "text")]
    assert texts == ["abcdef", ""]


def test_the_first_bytes_come_with_the_first_token_never_before(
    http: httpx.Client, engine: FakeEngine
):
    engine.script = lambda turn: Script([[97]], stalls=True)
    with http.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as answer:
        first = next(answer.iter_text())
        assert '"role":"assistant"' in first
        assert '"content":"a"' in first


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("fields", [{}, {"stream_options": None}, {"stream_options": {}}])
def test_usage_is_absent_unless_asked_for(http: httpx.Client, where: str, fields: dict[str, Any]):
    assert all("usage" not in chunk for chunk in stream(http, where, **fields))


@pytest.mark.parametrize("where", PATHS)
def test_usage_comes_once_at_the_end_and_is_null_before(
    http: httpx.Client, engine: FakeEngine, where: str
):
    engine.script = lambda turn: Script([[97], [98], [EOS]], cached_len=2)
    *chunks, last = stream(http, where, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    prompt = {"chat": 5, "text": 3}[where]
    assert last["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 3,
        "total_tokens": prompt + 3,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_running_usage_counts_up_on_every_chunk(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"abc")
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = stream(http, "chat", max_tokens=3, stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == [1, 1, 2, 3, 3, 3]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {5}


def test_usage_can_be_forced_by_the_server():
    with serve(EndpointConfig(enable_force_include_usage=True), FakeTokenizer()) as server:
        answer = httpx.post(
            f"{server.url}/v1/completions", json={**TEXT, "stream": True}, trust_env=False
        )
        assert events(answer.text)[-1]["usage"]["prompt_tokens"] == 3


def test_stream_options_without_a_stream_are_ignored(http: httpx.Client):
    options = {"include_usage": True, "include_obfuscation": True}
    answer = http.post("/v1/completions", json={**TEXT, "stream_options": options})
    assert answer.status_code == 200
    ignored = answer.headers["x-foretoken-ignored-params"]
    assert ignored == "stream_options.include_obfuscation"


def test_an_interval_gathers_tokens_after_the_first():
    with serve(EndpointConfig(stream_interval=3), FakeTokenizer()) as server:
        server.engine.script = lambda turn: each(b"abcdefgh")
        body = {**TEXT, "stream": True, "max_tokens": 8}
        answer = httpx.post(f"{server.url}/v1/completions", json=body, trust_env=False)
        texts = [c["choices"][0]["text"] for c in events(answer.text)]
        assert texts == ["a", "bcd", "efg", "h"]


SAME: list[dict[str, Any]] = [
    {},
    {"n": 3, "seed": 7},
    {"stop": "é"},
    {"stop": ['\n"', "zzz"], "include_stop_str_in_output": True},
    {"max_tokens": 3},
    {"max_tokens": 0},
    {"skip_special_tokens": False},
    {"ignore_eos": True, "max_tokens": 20},
]


@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize("fields", SAME, ids=str)
@pytest.mark.parametrize("script", [each, at_once])
def test_the_deltas_joined_are_the_unstreamed_text(
    http: httpx.Client, engine: FakeEngine, where: str, fields: dict[str, Any], script: Any
):
    engine.script = lambda turn: script([*(turn.sampling.seed % 3 * b"#"), *EMOJI])
    path, good = PATHS[where]
    body = {"seed": 1, "max_tokens": 40, **good, **fields}
    whole = http.post(path, json=body).json()
    chunks = stream(http, where, **{**body, "stream_options": {"include_usage": True}})
    for choice in whole["choices"]:
        index = choice["index"]
        expected = choice["text"] if where == "text" else choice["message"]["content"]
        assert text_of(chunks, index) == expected
        ends = [c for chunk in chunks for c in chunk["choices"] if c["index"] == index]
        assert [c["finish_reason"] for c in ends[:-1]] == [None] * (len(ends) - 1)
        assert ends[-1]["finish_reason"] == choice["finish_reason"]
        assert ends[-1]["stop_reason"] == choice["stop_reason"]
    assert chunks[-1]["usage"] == whole["usage"]
